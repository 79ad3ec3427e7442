"""Where a policy computes: on the CPU, or on a GPU.

Environments, rollouts, the replay and the sampling of actions are always on the CPU. On a GPU are
the networks and what is learnt from: when a policy acts, observations go there and distribution
inputs come back; when it learns, a rollout or a minibatch goes there as a whole.
"""

from __future__ import annotations

from typing import Literal

import torch

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def available() -> bool:
    """Whether PyTorch sees a GPU."""
    return torch.cuda.is_available()


def choose(wanted: float | Literal["auto"], *, pictures: bool) -> tuple[int, str]:
    """Chooses how many GPUs to learn on.

    Args:
        wanted: `num_gpus` of the configuration. A part of a GPU counts as a whole one.
        pictures: whether observations hold pictures. `auto` takes a GPU for those alone: what a
            small network takes is the number of its operations, and each costs more on a GPU.

    Returns:
        0 or 1, and a sentence if this is not simply what was asked for.
    """
    if not wanted:
        return 0, ""
    if wanted == "auto":
        if pictures and available():
            return 1, f"num_gpus='auto': learns on {torch.cuda.get_device_name()}."
        why = "there is none" if pictures else "small networks are faster on the processor"
        return 0, f"num_gpus='auto': no GPU is used ({why})."
    if not available():
        return 0, f"num_gpus={wanted:g}: PyTorch sees no GPU, so it learns on the processor."
    return 1, ""


def fastest_dtype(device: torch.device) -> Literal["float32", "bfloat16"]:
    """The type to multiply large matrices in.

    Bfloat16 halves the time on CPUs that multiply it (measured on an AMD EPYC with AVX-512 BF16),
    and takes ten times as long on those that only emulate it. The CPU's instructions decide, not a
    clock: the same seed on the same machine has to give the same run. GPUs say themselves what
    they multiply.
    """
    if device.type == "cuda":
        multiplies = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        instructions = torch.cpu.get_capabilities()
        multiplies = any(instructions.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return "bfloat16" if multiplies else "float32"
