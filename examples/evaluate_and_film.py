"""A run that is kept on disk; how good its policy is, a curve and a film."""

import poise

run = poise.run(
    "PPO", "CartPole-v1", stop={"episode_reward_mean": 475}, checkpoint_freq=5, seed=0, quiet=True
)
print(run)

# Later, or in another process: the run folder is enough, and stands for its newest checkpoint.
with poise.load(run.path) as algo:
    for explore in (False, True):
        numbers = algo.evaluate(episodes=50, explore=explore)
        how = "sampled" if explore else "most likely"
        print(
            f"{how} actions: {numbers['episode_reward_mean']:.1f} ± "
            f"{numbers['episode_reward_std']:.1f}"
        )
    film = poise.record(algo, "cartpole.mp4", max_steps=300)
    print(f"{film['path']}: {film['frames']} frames")

try:
    poise.plot(run).savefig("cartpole.png")
    print("cartpole.png: return and length of the episodes")
except poise.PoiseError as error:  # without matplotlib
    print(error)
