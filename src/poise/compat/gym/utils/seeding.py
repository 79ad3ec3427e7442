"""`gym.utils.seeding`: random numbers with the names of both of NumPy's generators."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.utils import seeding


class RandomNumberGenerator(np.random.Generator):
    """NumPy's generator, which also knows the names that `RandomState` has."""

    def rand(self, *size: int) -> Any:
        """Numbers from 0 to 1."""
        return self.random(size or None)

    def random_sample(self, size: Any = None) -> Any:
        """Numbers from 0 to 1."""
        return self.random(size)

    def randn(self, *size: int) -> Any:
        """Normal numbers."""
        return self.standard_normal(size or None)

    def randint(self, low: int, high: int | None = None, size: Any = None, dtype: Any = int) -> Any:
        """Integers from `low` to below `high`, or from 0 to below `low`."""
        return self.integers(low, high, size=size, dtype=dtype)

    random_integers = randint


def np_random(seed: int | None = None) -> tuple[RandomNumberGenerator, int]:
    """A generator, and the seed that it has, drawn where none is given."""
    made, used = seeding.np_random(None if seed is None else int(seed))
    return RandomNumberGenerator(made.bit_generator), used


def create_seed(seed: int | None = None, max_bytes: int = 8) -> int:
    """The seed, or one that is drawn."""
    return int(np_random(seed)[1]) % int(256**max_bytes)


def hash_seed(seed: int | None = None, max_bytes: int = 8) -> int:
    """Another seed that follows from one."""
    first = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    return int(first) % int(256**max_bytes)
