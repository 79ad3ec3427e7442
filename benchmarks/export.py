"""What one action costs: Poise's own `predict` beside each form of an exported policy.

    python benchmarks/export.py

Processor time of one thread, so that other processes on the machine change little. Networks are
untrained: their sizes alone count.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # of NumPy

import gymnasium as gym
import numpy as np
import torch
from common import Record, Results, parser, table
from gymnasium import spaces

import poise
from poise.exporting import c, export, targets


class Screen(gym.Env):
    """A game's screen, which nobody plays."""

    observation_space = spaces.Box(0, 255, (84, 84, 4), np.uint8)
    action_space = spaces.Discrete(6)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros((84, 84, 4), np.uint8), {}

    def step(self, action: Any) -> Any:
        return np.zeros((84, 84, 4), np.uint8), 0.0, False, False, {}


POLICIES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "PPO, 4 numbers, 64-64 tanh": ("PPO", "CartPole-v1", {"fcnet_hiddens": [64, 64]}),
    "SAC, 3 numbers, 256-256 relu": (
        "SAC",
        "Pendulum-v1",
        {"fcnet_hiddens": [256, 256], "fcnet_activation": "relu"},
    ),
    "PPO, LSTM of 64": (
        "PPO",
        "CartPole-v1",
        {"fcnet_hiddens": [64, 64], "memory": "lstm", "lstm_cell_size": 64},
    ),
    "DQN, a screen of 84x84x4": ("DQN", Screen, {}),
}
FORMS = ("poise", "torch", "onnx", "numpy", "c")


def cost(act: Callable[[], Any], seconds: float) -> float:
    """Microseconds of processor time of one call: the least of five rounds."""
    act()
    start, calls = time.process_time(), 0
    while time.process_time() - start < seconds / 10 or calls < 3:
        act()
        calls += 1
    rounds = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(calls):
            act()
        rounds.append((time.process_time() - start) / calls)
    return min(rounds) * 1e6


def measure(policy: str, seconds: float) -> Record:
    """One action, and one for each of 64 observations, in every form."""
    algorithm, env, model = POLICIES[policy]
    trainer = poise.make_trainer(
        algorithm, env, model=model, preset=None, progress=False, num_envs=1, seed=0
    )
    own = trainer.policy
    record: Record = {}
    with tempfile.TemporaryDirectory() as folder, export.quiet():
        for name in FORMS:
            for batch in (1, 64):
                seen = np.stack([own.obs_layout.space.sample() for _ in range(batch)])
                memory = [f"state_in_{i}" for i in range(len(own.initial_state(1)))]
                state = [part.numpy() for part in own.initial_state(batch)]
                inputs = {"obs": seen, **dict(zip(memory, state, strict=True))}
                if name == "poise":
                    given = state or None
                    spent = cost(lambda s=seen, g=given: trainer.predict(s, g), seconds)
                else:
                    spent = _exported(trainer, name, Path(folder), inputs, seconds)
                record[f"{name}_{batch}"] = spent
    trainer.close()
    return record


def _exported(
    trainer: Any, name: str, folder: Path, inputs: dict[str, Any], seconds: float
) -> float | None:
    """The cost of one call of an exported policy; None if it cannot be exported to this."""
    target = targets.TARGETS[name]
    path = folder / target.name
    program = export.trace(trainer.policy, export.described(trainer, "default"))
    if not path.exists():
        try:
            target.write(program, path)
        except poise.ModelError:
            return None
    run = target.run(program, path)
    if name == "c":
        return _in_c(program, folder, inputs, seconds)
    return cost(lambda: run(inputs), seconds)


def _in_c(program: Any, folder: Path, inputs: dict[str, Any], seconds: float) -> float:
    """The same in C, whose own processor time is that of a child."""
    loop = c.checker(program.about).replace(
        "policy_act(", "for (int repeat = 0; repeat < REPEATS; repeat++) policy_act("
    )
    (folder / "loop.c").write_text(loop)
    rows = [each.reshape(len(each), -1) for each in program.positional(inputs)]
    data = np.concatenate([row.view(np.uint8) for row in rows], 1).tobytes()
    spent = []
    repeats = 50_000 // len(rows[0])
    for count in (1, repeats):
        command = [*targets.compiler(), "-std=c99", "-O2", f"-DREPEATS={count}", "loop.c", "-lm"]
        subprocess.run([*command, "-o", "loop"], cwd=folder, check=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([folder / "loop"], input=data, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime - before.ru_utime)
    return (spent[1] - spent[0]) / (repeats - 1) * 1e6


def main() -> int:
    args = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    results = Results("export", quick=args.quick, fresh=args.fresh)
    seconds = 0.1 if args.quick else 1.0
    found = {name: results.measure(name, lambda n=name: measure(n, seconds)) for name in POLICIES}

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"

    headers = ["", "Poise's `predict`", "`torch`", "`onnx`", "`numpy`", "`c`"]
    rows = [
        [f"{name}{', batch of 64' * (batch > 1)}", *(cell(r[f"{form}_{batch}"]) for form in FORMS)]
        for name, r in found.items()
        for batch in (1, 64)
    ]
    text = (
        "Microseconds of processor time of one call, one thread: `predict` of Poise, which also "
        "checks what it is given; the module of a `.pt2`; a session of ONNX Runtime; `run` of "
        "`policy.py`; the function of the header, compiled with `-O2`, 64 times for a batch. Each "
        "but `predict` computes values, too. A screen is not for C.\n\n" + table(headers, rows)
    )
    results.publish("Exported policies: what an action costs", text, [*found.values()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
