"""Where a policy computes: on the processor, or on a GPU.

Environments, rollouts, the replay and the sampling of actions are on the processor. On a GPU are
the networks and what is learnt from: observations go there and distribution inputs come back when a
policy acts, and a rollout or a minibatch goes there as a whole.
"""

from __future__ import annotations

from typing import Literal

import torch

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def available() -> bool:
    """Whether PyTorch sees a GPU."""
    return torch.cuda.is_available()


def choose(wanted: float | Literal["auto"], *, pictures: bool) -> tuple[int, str]:
    """How many GPUs to learn on, 0 or 1, and a sentence where this is not simply what was asked
    for.

    Args:
        wanted: `num_gpus` of the configuration. A part of a GPU is a GPU.
        pictures: whether observations hold some: `auto` takes a GPU for those alone, since small
            networks are bound by the number of operations, of which each costs more there.
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
