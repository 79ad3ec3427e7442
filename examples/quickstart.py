"""CartPole in a few lines: train, evaluate, save, load, act."""

import gymnasium as gym

import poise

algo = poise.PPO("CartPole-v1", seed=0, progress=True)
result = algo.learn(stop={"episode_reward_mean": 475})
print(
    f"{result['timesteps_total']} steps in {result['time_total_s']:.1f} s: {result['stop_reason']}"
)

evaluation = algo.evaluate(episodes=20)
print(f"20 fresh episodes: {evaluation['episode_reward_mean']:.1f} on average")

algo.save("cartpole")
algo = poise.load("cartpole")

env = gym.make("CartPole-v1")
observation, _ = env.reset(seed=0)
steps, over = 0, False
while not over:
    observation, _, terminated, truncated, _ = env.step(algo.compute_action(observation))
    steps, over = steps + 1, terminated or truncated
print(f"Balanced for {steps} steps.")
