"""One of Poise's algorithms with the preset of the environment: PPO, or what `ALGORITHM` says."""

from __future__ import annotations

import os

import numpy as np
from climb import arguments, climb

import poise


def main() -> None:
    args = arguments()
    name = os.environ.get("ALGORITHM", "PPO")
    with poise.make_trainer(name, args.env, seed=args.seed, progress=False) as trainer:

        def train(steps: int) -> int:
            return int(trainer.learn(total_timesteps=steps)["timesteps_total"])

        climb(args, train, lambda obs: np.asarray(trainer.predict(obs)[0]), preset=trainer.preset)


if __name__ == "__main__":
    main()
