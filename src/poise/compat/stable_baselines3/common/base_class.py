"""`stable_baselines3.common.base_class`, and the bases of its algorithms."""

from __future__ import annotations

from poise.compat.stable_baselines3.models import BaseAlgorithm

OnPolicyAlgorithm = OffPolicyAlgorithm = BaseAlgorithm

__all__ = ["BaseAlgorithm", "OffPolicyAlgorithm", "OnPolicyAlgorithm"]
