"""Where PPO's time goes: microseconds of a step sampled and of the parts of a gradient step.

python benchmarks/profile_update.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import Record, Results, parser, table

sys.path.append(str(Path(__file__).parent / "peers"))

ENV = "CartPole-v1"
PARTS = ("forward", "loss", "backward", "optimiser")
Clock = dict[str, list[float]]


def update(settings: dict[str, Any] | None, rounds: int) -> Record:
    """Times sampling and gradient steps.

    Args:
        settings: of PPO; None takes the preset.
        rounds: rollouts that are sampled and learnt from. The first fifth warms up.
    """
    import poise

    preset = "auto" if settings is None else None
    with poise.make_trainer(
        "PPO", ENV, preset=preset, seed=0, progress=False, **(settings or {})
    ) as trainer:
        algorithm, samplers = trainer.algorithm, trainer.samplers
        config = trainer.config
        clocks: Clock = {name: [] for name in ("sample", "prepare", "shuffle", *PARTS)}
        for _ in range(rounds):
            start = time.perf_counter()
            rollout = samplers.collect()
            sampled = time.perf_counter()
            batch = algorithm.batch(rollout)
            clocks["sample"].append((sampled - start) / rollout.steps)
            clocks["prepare"].append(time.perf_counter() - sampled)
            for _ in range(config.num_sgd_iter):
                gradient_steps(algorithm, batch, clocks)
        us = {
            name: 1e6 * statistics.median(times[len(times) // 5 :])
            for name, times in clocks.items()
        }
        per_round = config.num_sgd_iter * -(-config.train_batch_size // config.sgd_minibatch_size)
        sampling = us["sample"] * config.rollout_fragment_length + us["prepare"]
        step = sum(us[name] for name in ("shuffle", *PARTS))
        return {
            **us,
            "step": step,
            "envs": config.num_envs_per_worker,
            "minibatch": config.sgd_minibatch_size,
            "gradient_steps": per_round,
            "update_share": step * per_round / (step * per_round + sampling),
        }


def gradient_steps(algorithm: Any, batch: Any, clocks: Clock) -> None:
    """One epoch as `PPO.learn` does it, with a clock between its parts."""
    clip, entropy_coeff, lr = 0.2, 0.0, 3e-4
    whole = len(batch.weight) <= algorithm.config.sgd_minibatch_size
    minibatches = algorithm.minibatches(batch if whole else batch[algorithm.order(batch)])
    while True:
        start = time.perf_counter()
        minibatch = next(minibatches, None)
        if minibatch is None:
            return
        shuffled = time.perf_counter()
        # Once for the clock: the loss below has a forward pass of its own.
        algorithm.policy(minibatch.x)
        forward = time.perf_counter()
        loss, _ = algorithm.loss(minibatch, clip, entropy_coeff)
        lost = time.perf_counter()
        algorithm.flat.zero_grad()
        loss.backward()
        backward = time.perf_counter()
        algorithm.learner.step(lr)
        end = time.perf_counter()
        clocks["shuffle"].append(shuffled - start)
        clocks["forward"].append(forward - shuffled)
        clocks["loss"].append((lost - forward) - (forward - shuffled))
        clocks["backward"].append(backward - lost)
        clocks["optimiser"].append(end - backward)


def networks(hiddens: list[int], activation: str, batch: int, repeats: int) -> Record:
    """Forward and backward of actor and critic: Poise's `MLP` against `nn.Sequential` with the same
    parameters.

    The two take turns, so that a noisy machine disturbs both.
    """
    import torch
    from torch import nn

    from poise.models.mlp import MLP, parallel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    towers = [MLP([4, *hiddens, outputs], activation) for outputs in (2, 1)]
    module: Callable[[], nn.Module] = {"tanh": nn.Tanh, "relu": nn.ReLU, "linear": nn.Identity}[
        activation
    ]
    stacks = []
    for tower in towers:
        made: list[nn.Module] = []
        for layer in tower.layers:
            copy = nn.Linear(layer.in_features, layer.out_features)
            copy.load_state_dict(layer.state_dict())
            made += [copy, module()]
        stacks.append(nn.Sequential(*made[:-1]))
    x = torch.randn(batch, 4)

    def fused() -> None:
        pi, vf = parallel(towers[0], towers[1], x)
        (pi.sum() + vf.sum()).backward()

    def plain() -> None:
        (stacks[0](x).sum() + stacks[1](x).sum()).backward()

    times: dict[str, list[float]] = {"mlp": [], "sequential": []}
    for _ in range(repeats):
        for name, step in (("mlp", fused), ("sequential", plain)):
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    for tower, stack in zip(towers, stacks, strict=True):
        for ours, theirs in zip(tower.parameters(), stack.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-2)
    us = {name: 1e6 * statistics.median(values[repeats // 5 :]) for name, values in times.items()}
    return {**us, "ratio": us["mlp"] / us["sequential"]}


_PROCESS = """
import json, time
clock = [time.perf_counter()]
def lap():
    clock.append(time.perf_counter())
from poise.startup import without_collection
with without_collection(freeze=True):
    import torch; lap()
    import poise.tracking.launch; lap()
import poise
trainer = poise.PPO("CartPole-v1", seed=SEED, progress=False); lap()
trainer.learn(stop={"episode_reward_mean": 475}); lap()
trainer.save("checkpoint"); lap()
print(json.dumps([b - a for a, b in zip(clock, clock[1:])]))
"""
_PARTS_OF_PROCESS = ("import PyTorch", "import the rest", "make the trainer", "train", "save")


def process(seed: int) -> Record:
    """What the seconds of a whole process go into, from the start of Python to its end."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        code = _PROCESS.replace("SEED", str(seed))
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
        )
        whole = time.perf_counter() - start
    parts: Record = dict(zip(_PARTS_OF_PROCESS, json.loads(done.stdout), strict=True))
    return {
        **parts,
        "start and end Python": whole - sum(parts.values()),
        "the whole process": whole,
    }


def main() -> int:
    args = parser(__doc__).parse_args()
    results = Results("profile_update", quick=args.quick, fresh=args.fresh)
    rounds, repeats = (3, 100) if args.quick else (60, 5_000)
    print("Parts of an update:", flush=True)
    zoo = {"the RL Zoo's settings": _zoo(), "the preset": None}
    sampled = {
        name: results.measure(name, lambda s=settings: update(s, rounds))
        for name, settings in zoo.items()
    }
    shapes = [
        ([64, 64], "tanh", 64),
        ([64, 64], "tanh", 256),
        ([64, 64], "relu", 256),
        ([32], "linear", 256),
    ]
    nets = {
        f"{'-'.join(map(str, hiddens))} {activation}, batch {batch}": (hiddens, activation, batch)
        for hiddens, activation, batch in shapes
    }
    measured = {
        n: results.measure(n, lambda s=shape: networks(*s, repeats)) for n, shape in nets.items()
    }
    headers = [
        "µs",
        "Sampling a step",
        "Shuffling",
        *(p.capitalize() for p in PARTS),
        "A gradient step",
    ]
    headers += ["Gradient steps a round", "Share of updates"]
    rows = [
        [
            f"{name}: {r['envs']} environments, minibatch {r['minibatch']}",
            *(f"{r[key]:.0f}" for key in ("sample", "shuffle", *PARTS, "step")),
            r["gradient_steps"],
            f"{r['update_share']:.0%}",
        ]
        for name, r in sampled.items()
    ]
    text = (
        f"PPO on {ENV}, one thread, medians. Sampling a step moves all environments once. "
        f"The optimiser's part clips the gradient, too.\n\n{table(headers, rows)}\nForward and "
        "backward of actor and critic together:\n\n"
    )
    text += table(
        ["µs", "Poise's `MLP`", "`nn.Sequential`", "Ratio"],
        [
            [n, f"{r['mlp']:.0f}", f"{r['sequential']:.0f}", f"{r['ratio']:.2f}"]
            for n, r in measured.items()
        ],
    )
    seconds = [
        results.measure(f"process, seed {seed}", lambda n=seed: process(n))
        for seed in range(3 if args.quick else 7)
    ]
    parts = [*_PARTS_OF_PROCESS, "start and end Python", "the whole process"]
    medians = {key: statistics.median(r[key] for r in seconds) for key in parts}
    largest = max(
        (key for key in parts if key != "the whole process"), key=lambda key: medians[key]
    )
    text += (
        f"\nA whole process that trains PPO on {ENV} to 475, medians over {len(seconds)} seeds. "
        f"What bounds it now: to {largest}; within training, it is the gradient steps above, "
        "and within those, matrix products.\n\n"
    )
    text += table(["", *parts], [["seconds", *(f"{medians[key]:.2f}" for key in parts)]])
    results.publish("Where PPO's time goes", text, [*sampled.values(), *measured.values()])
    return 0


def _zoo() -> dict[str, Any]:
    from poise_cartpole import ZOO_PPO

    return ZOO_PPO


if __name__ == "__main__":
    sys.exit(main())
