"""PPO on InvertedDoublePendulum: continuous control, with observations normalised and Gaussians
squashed by tanh.

Then: a collector, an advantage module, a loss module and a loop. Now (needs the extra `mujoco`):
"""

import poise

with poise.PPO(
    "InvertedDoublePendulum-v5",
    gae_lambda=0.95,
    entropy_coeff=1e-4,
    normalize_observations=True,
    model={"action_distribution": "squashed_gaussian"},
) as algo:
    before = algo.evaluate(10)["episode_reward_mean"]
    # 50,000 in the tutorial's page, a million for the whole.
    result = algo.learn(total_timesteps=12_000)
    print(
        "training episodes:",
        result["episode_reward_mean"],
        "of",
        result["episode_len_mean"],
        "steps",
    )
    print("evaluated:", before, "->", algo.evaluate(10)["episode_reward_mean"])
