"""Poise's DQN with the preset of the environment."""

from __future__ import annotations

import numpy as np
from climb import arguments, climb

import poise


def main() -> None:
    args = arguments()
    settings = {"seed": args.seed, "timesteps_per_iteration": args.every, "num_threads": 1}
    with poise.DQN(args.env, progress=False, **settings) as trainer:

        def train(steps: int) -> int:
            return int(trainer.train()["timesteps_total"])

        climb(args, train, lambda obs: np.asarray(trainer.predict(obs)[0]), preset=trainer.preset)


if __name__ == "__main__":
    main()
