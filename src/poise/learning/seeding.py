"""From seed sequences to generators. One seed of a run is split into disjoint streams, one for each purpose."""

from __future__ import annotations

import numpy as np
import torch


def torch_seed(seed: np.random.SeedSequence) -> int:
    """A seed for PyTorch, 63 bits of the sequence's state."""
    return int(seed.generate_state(1, np.uint64)[0] >> 1)


def torch_generator(seed: np.random.SeedSequence) -> torch.Generator:
    """A generator of PyTorch seeded from the sequence."""
    return torch.Generator().manual_seed(torch_seed(seed))
