"""Stopping and going on is the same as never having stopped, to the bit."""

import poise


def train(algo: poise.Trainer, iterations: int) -> None:
    for _ in range(iterations):
        algo.train()


straight = poise.PPO("CartPole-v1", seed=1)
train(straight, 6)

first = poise.PPO("CartPole-v1", seed=1)
train(first, 3)
first.save("halfway")  # from here on, the process might as well have been killed
second = poise.load("halfway")
train(second, 3)

one, two = straight.policy.state_dict(), second.policy.state_dict()
assert all(bool((one[name] == two[name]).all()) for name in one)
print("Six iterations in one go and three plus three: the same parameters, to the bit.")

# With a run folder, the checkpoints come by themselves; after a crash, this is all there is to do.
run = poise.run("PPO", "CartPole-v1", stop={"timesteps_total": 20_000}, seed=1, quiet=True)
run = poise.resume(run.path, stop={"timesteps_total": 40_000}, quiet=True)
print(run)
