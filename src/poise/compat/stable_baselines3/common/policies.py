"""`stable_baselines3.common.policies`: they are named, and their networks follow from spaces."""

from __future__ import annotations

from poise.compat.missing import names_of

_OWN = "Give policy_kwargs=dict(features_extractor_class=...), or poise.PPO a model of your own."

__getattr__ = names_of(
    "stable_baselines3.common.policies",
    (),
    dict.fromkeys(("ActorCriticPolicy", "ActorCriticCnnPolicy", "BasePolicy", "BaseModel",
                   "MultiInputActorCriticPolicy", "ContinuousCritic"), _OWN),
)  # fmt: skip
