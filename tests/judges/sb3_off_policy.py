"""Runs in an interpreter that has Stable-Baselines3 and its contributions, never in Poise's own:
one gradient step of SAC, TQC or TD3 on the same data.

python sb3_off_policy.py sac|tqc|td3 IN.npz OUT.npz
"""

import sys

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import TQC
from sb3_update import Logger, Nothing
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.type_aliases import ReplayBufferSamples

KINDS = {"sac": SAC, "tqc": TQC, "td3": TD3}
torch.set_default_dtype(torch.float64)  # also of the constants within TQC's loss


def make(kind, given):
    """SB3's algorithm with the given networks, in float64."""
    obs = spaces.Box(-np.inf, np.inf, given["obs"].shape[1:], np.float64)
    actions = spaces.Box(-1, 1, given["action"].shape[1:], np.float32)
    layers = [given["policy.0.weight"].shape[0], given["policy.1.weight"].shape[0]]
    options = {}
    kwargs = {"net_arch": layers}
    if kind == "tqc":
        options["top_quantiles_to_drop_per_net"] = int(given["drop"])
        kwargs["n_quantiles"] = int(given["quantiles"])
    if kind == "td3":
        options |= {"policy_delay": 1, "target_policy_noise": 0.0}
    made = KINDS[kind](
        "MlpPolicy", Nothing(obs, actions), learning_rate=float(given["lr"]), gamma=0.9,
        tau=float(given["tau"]), batch_size=len(given["obs"]), policy_kwargs=kwargs, device="cpu",
        buffer_size=10, **options,
    )  # fmt: skip
    for name, rows, module in places(kind, made):
        for part in ("weight", "bias"):
            value = torch.as_tensor(given[f"{name}.{part}"][rows].copy())
            getattr(module, part).data = value.double()
    if kind == "td3":
        # Its loss of critics is not halved, which Adam undoes, but for its ε.
        made.critic.optimizer.param_groups[0]["eps"] *= 2
    else:
        made.log_ent_coef.data = made.log_ent_coef.data.double()
        made.actor.action_dist.epsilon = 0.0  # it adds 1e-6 within a logarithm
    made.set_logger(Logger(None, []))
    return made


def places(kind, made):
    """SB3's layers, each with its name in Poise and its rows there: two heads are one layer."""
    every, count = slice(None), made.action_space.shape[0]
    if kind == "td3":
        for name, actor in (("policy", made.actor), ("policy⁻", made.actor_target)):
            yield from ((f"{name}.{i}", every, actor.mu[2 * i]) for i in range(3))
    else:
        hidden = made.actor.latent_pi
        yield from ((f"policy.{i}", every, hidden[2 * i]) for i in range(2))
        yield "policy.2", slice(0, count), made.actor.mu
        yield "policy.2", slice(count, None), made.actor.log_std
    for name, critic in (("critics", made.critic), ("critics⁻", made.critic_target)):
        for q, network in enumerate(critic.q_networks):
            yield from ((f"{name}.{q}.{i}", every, network[2 * i]) for i in range(3))


def step(kind, given):
    """One call of SB3's own `train`."""
    made = make(kind, given)
    tensors = {name: torch.as_tensor(given[name]) for name in ("obs", "action", "next_obs")}
    done, reward = (torch.as_tensor(given[k]).unsqueeze(1) for k in ("terminated", "reward"))
    samples = ReplayBufferSamples(
        tensors["obs"], tensors["action"], tensors["next_obs"], done.double(), reward
    )
    made.replay_buffer.sample = lambda *args, **kwargs: samples
    noise = iter([torch.as_tensor(given["noise"]), torch.as_tensor(given["next_noise"])])
    torch.distributions.normal._standard_normal = lambda *args, **kwargs: next(noise)
    made.train(gradient_steps=1, batch_size=len(done))
    after = {}
    for name, _, module in places(kind, made):
        for part in ("weight", "bias"):
            heads = after.setdefault(f"{name}.{part}", [])
            heads.append(getattr(module, part).data.numpy())
    after = {name: np.concatenate(heads) for name, heads in after.items()}
    if kind != "td3":
        after["log_alpha"] = made.log_ent_coef.data.numpy()
    return after


if __name__ == "__main__":
    kind, source, target = sys.argv[1:]
    np.savez(target, **step(kind, np.load(source)))
