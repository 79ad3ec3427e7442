"""Poise's PPO with the preset of the environment."""

from __future__ import annotations

import numpy as np
from climb import arguments, climb

import poise


def main() -> None:
    args = arguments()
    with poise.PPO(args.env, seed=args.seed, progress=False) as trainer:

        def train(steps: int) -> int:
            return int(trainer.learn(total_timesteps=steps)["timesteps_total"])

        climb(args, train, lambda obs: np.asarray(trainer.predict(obs)[0]), preset=trainer.preset)


if __name__ == "__main__":
    main()
