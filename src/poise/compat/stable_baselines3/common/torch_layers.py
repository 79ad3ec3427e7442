"""`stable_baselines3.common.torch_layers`."""

from __future__ import annotations

from poise.compat.missing import names_of
from poise.compat.stable_baselines3.extractors import (
    BaseFeaturesExtractor,
    FlattenExtractor,
    NatureCNN,
    create_mlp,
)

__all__ = ["BaseFeaturesExtractor", "FlattenExtractor", "NatureCNN", "create_mlp"]

__getattr__ = names_of(
    "stable_baselines3.common.torch_layers",
    __all__,
    {"CombinedExtractor": "MultiInputPolicy puts the parts of a Dict together by itself.",
     "MlpExtractor": "Give policy_kwargs=dict(net_arch=...)."},
)  # fmt: skip
