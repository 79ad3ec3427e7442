"""CartPole, from random actions to a tuned policy: explore, film, train, restore, film again,
search.

Then: `gym.make`, `VideoRecorder`, `PPOTrainer`, `ray.tune.run`. Now:
"""

import gymnasium as gym

import poise
from poise.tune import grid_search, uniform

env = gym.make("CartPole-v0")
observation, info = env.reset(seed=0)
for step in range(20):
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    print("step", step, observation, reward, terminated or truncated)
    if terminated or truncated:
        observation, info = env.reset()

# was: ray.tune.run("PPO", config=config, stop=stop, checkpoint_at_end=True), and two VideoRecorders
config = {"model": {"fcnet_hiddens": [32], "fcnet_activation": "linear"}}
run = poise.run("PPO", "CartPole-v0", config=config, stop={"episode_reward_mean": 195}, video=True)

# was: PPOTrainer(config=config); trainer.restore(analysis.get_best_checkpoint(...))
with poise.load(run.path) as algo:
    print("action", algo.compute_action(observation))
    print("100 fresh episodes:", algo.evaluate(100)["episode_reward_mean"])

# was: ray.tune.run("PPO", config=search, num_samples=5, metric="timesteps_total", mode="min")
analysis = poise.tune.run(
    "PPO",
    config={
        "env": "CartPole-v0",
        "model": {
            "fcnet_hiddens": grid_search([[32], [64]]),
            "fcnet_activation": grid_search(["linear", "relu"]),
        },
        "lr": uniform(1e-7, 1e-2),
    },
    stop={"episode_reward_mean": 195, "timesteps_total": 80_000},
    num_samples=1,  # the tutorial has 5
    metric="timesteps_total",
    mode="min",
)
print("Best hyperparameters found:", analysis.best_config)
