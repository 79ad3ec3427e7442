"""`stable_baselines3.common.off_policy_algorithm`."""

from __future__ import annotations

from poise.compat.stable_baselines3.common.base_class import OffPolicyAlgorithm, OnPolicyAlgorithm

__all__ = ["OffPolicyAlgorithm", "OnPolicyAlgorithm"]
