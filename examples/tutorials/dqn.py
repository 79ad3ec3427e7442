"""DQN with a replay buffer, a soft target network, and the plot of durations.

Then: a loop of one's own in PyTorch. Now, with the tutorial's settings (and with the preset, much
faster):
"""

import poise

with poise.DQN("CartPole-v1", preset="tutorial", seed=0) as algo:
    algo.learn(stop={"episodes_total": 40})  # the tutorial has 600
    poise.plot(algo, x="episodes", y="length").savefig("durations.png")

with poise.DQN("CartPole-v1", seed=0) as algo:
    print(
        algo.learn(stop={"episode_reward_mean": 400, "timesteps_total": 15_000})[
            "episode_reward_mean"
        ]
    )
    print("20 fresh episodes:", algo.evaluate(20)["episode_reward_mean"])
