"""Pong with IMPALA: stop rules, callbacks, a run with metrics and logs.

Then: an estimator, an entry script and a cluster. Now, on one machine (needs the extra `atari`):

    python pong.py 18          # some minutes on two cores
"""

import sys

import poise

GOAL = float(sys.argv[1]) if len(sys.argv) > 1 else None


class Log(poise.Callback):
    """Was: `{"callbacks": {"on_train_result": ...}}` and `Run.get_context().log(...)`."""

    def on_iteration(self, trainer, result):
        print(
            f"{result['episodes_total']:5} episodes, mean reward "
            f"{result['episode_reward_mean']:.1f}"
        )


run = poise.run(
    "IMPALA",
    "PongNoFrameskip-v4",
    stop=(
        {"timesteps_total": 3_000}
        if GOAL is None
        else {"episode_reward_mean": GOAL, "timesteps_total": 2_000_000}
    ),
    metrics_smoothing_episodes=20,
    callbacks=[Log()],
    quiet=True,
)
print(run)
