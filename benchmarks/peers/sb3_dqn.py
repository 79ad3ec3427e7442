"""Stable-Baselines3's DQN on CartPole with the RL Zoo's settings."""

from __future__ import annotations

import sys
import warnings

import torch
from climb import arguments, climb

warnings.filterwarnings("ignore")
# SB3 imports its extras if they are there, which takes a second.
for extra in ("tensorboard", "tqdm", "cv2"):
    sys.modules[extra] = None  # type: ignore[assignment]
from stable_baselines3 import DQN  # noqa: E402
from stable_baselines3.common.env_util import make_vec_env  # noqa: E402


class Piecewise(DQN):
    """Explores as over one run of `length` steps, though `learn` is called piece by piece."""

    length = 1

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        super()._update_current_progress_remaining(num_timesteps, self.length)


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)  # the fastest for networks of this size
    model = Piecewise(
        "MlpPolicy",
        make_vec_env(args.env, n_envs=1, seed=args.seed),
        learning_rate=2.3e-3,
        batch_size=64,
        buffer_size=100_000,
        learning_starts=1000,
        gamma=0.99,
        target_update_interval=10,
        train_freq=256,
        gradient_steps=128,
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        policy_kwargs={"net_arch": [256, 256]},
        seed=args.seed,
        device="cpu",
    )
    model.length = args.steps

    def train(steps: int) -> int:
        model.learn(steps, reset_num_timesteps=False)
        return int(model.num_timesteps)

    climb(args, train, lambda obs: model.predict(obs, deterministic=True)[0])


if __name__ == "__main__":
    main()
