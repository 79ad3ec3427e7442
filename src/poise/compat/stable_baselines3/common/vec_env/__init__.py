"""`stable_baselines3.common.vec_env`."""

from __future__ import annotations

from typing import Any

from poise.compat.missing import names_of
from poise.compat.stable_baselines3.common.vec_env.base import DummyVecEnv, SubprocVecEnv, VecEnv
from poise.compat.stable_baselines3.common.vec_env.normalize import (
    VecNormalize,
    sync_envs_normalization,
    unwrap_vec_normalize,
)
from poise.compat.stable_baselines3.common.vec_env.wrappers import (
    VecCheckNan,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecTransposeImage,
    VecVideoRecorder,
    is_vecenv_wrapped,
    unwrap_vec_wrapper,
)

VecEnvObs = VecEnvStepReturn = VecEnvIndices = Any
"""What annotations of a script's own wrappers name."""

__all__ = [
    "DummyVecEnv", "SubprocVecEnv", "VecCheckNan", "VecEnv", "VecEnvWrapper", "VecExtractDictObs",
    "VecFrameStack", "VecMonitor", "VecNormalize", "VecTransposeImage", "VecVideoRecorder",
    "is_vecenv_wrapped", "sync_envs_normalization", "unwrap_vec_normalize", "unwrap_vec_wrapper",
]  # fmt: skip

__getattr__ = names_of("stable_baselines3.common.vec_env", __all__)
