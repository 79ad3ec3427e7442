"""The old names of RLlib, Ray Tune, Gym and their tutorials, as a thin skin over Poise.

Scripts of RLlib's `Trainer` years run with their import lines changed:

    import gym                              from poise.compat import gym
    import ray                              from poise.compat import ray
    from ray.rllib.agents import ppo        from poise.compat.ray.rllib.agents import ppo

What is not here has moved on: docs/coming-from.md shows how the old lines are written today.
"""
