"""Random searches as texts, and damaged studies: values within what was asked for, which a file
gives back, and trials of which none is lost or done twice, or one sentence."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.fuzz.common import SilentError, Step

ABOUT = "searches and studies"
CASES = 1000

NUMBERS = [
    "0", "1", "-1", "1e-5", "1e-2", "1e400", "nan", "5", "1e308", "-1e308", "3.5", "True", "None",
    "'a'", "[1]", "(1, 2)", "1e-320", "10**400", "9" * 400, "1j", "b'x'", "{}", "__import__('os')",
    "'[/red]'",
]  # fmt: skip
NAMES = [
    "uniform", "quniform", "loguniform", "randint", "lograndint", "choice", "grid_search",
    "unifrom", "eval",
]  # fmt: skip
MAPPINGS: list[Any] = [
    {"choice": []}, {"grid_search": ["uniform(0, 1)", 3]}, {"choice": [None, True, 1, 1.0]},
    {"choice": "x"}, {"choice": [math.nan, 1]}, {"grid_search": [{"choice": [1, 2]}]},
    {"grid_search": list(range(20_000))},
]  # fmt: skip
VALUES: list[Any] = [
    None, True, -1, 0, 7, 1.5, 1e400, 10**30, "", "x", "../..", "\x1b[2J[/x]", [], [1], {},
    {"a": 1},
]  # fmt: skip


def result(reward: float) -> dict[str, Any]:
    """What a run that has ended says."""
    return {
        "episode_reward_mean": reward,
        "timesteps_total": 1000,
        "training_iteration": 1,
        "time_total_s": 1.0,
        "stop_reason": "timesteps_total reached 1000",
    }


def serve(study: Any, most: int = 1000) -> None:
    """Runs what a study hands out, with results that are made up."""
    while most > 0 and (job := study.next_job()) is not None:
        study.finish(job, {"done": result(float(job["settings"]["gamma"]))})
        most -= 1


def prepare(work: Path) -> Path:
    """A study of which half has ended."""
    import rich.console  # noqa: F401  before the cases fork, and so once

    import poise.tuning.run  # noqa: F401
    from poise.tuning.search import Search
    from poise.tuning.space import loguniform, uniform
    from poise.tuning.study import Study

    config = {"env": "CartPole-v1", "lr": loguniform(1e-5, 1e-2), "gamma": uniform(0.9, 1)}
    search = Search("PPO", config, {"timesteps_total": 1000}, num_samples=6, sampler="random")
    search.write(work / "study")
    serve(Study(search, work / "study"), 3)
    return work / "study"


def case(rng: random.Random, base: Path, work: Path) -> Iterator[Step]:
    """One search as a text or a mapping, and one study with a file of it damaged."""
    what = a_search(rng)
    yield Step("a search is read", repr(what)[:100], lambda: read(what))
    study = work / "study"
    shutil.copytree(base, study)
    file, how = damage(rng, study)
    yield Step("a damaged study is loaded", f"{file.name}: {how}", lambda: load(study))
    yield Step("a damaged study goes on", f"{file.name}: {how}", lambda: go_on(study))


def a_search(rng: random.Random) -> Any:
    if rng.random() < 0.2:
        return rng.choice(MAPPINGS)
    name, arguments = (
        rng.choice(NAMES),
        ", ".join(rng.choice(NUMBERS) for _ in range(rng.randrange(4))),
    )
    if name in ("choice", "grid_search") and rng.random() < 0.7:
        arguments = f"[{arguments}]"
    return f"{name}({arguments})"


def read(what: Any) -> None:
    """Reads a search, draws from it, and has the same again from what is written down."""
    from poise.tuning.search import _written
    from poise.tuning.space import Fixed, Number, grid, parse, sample
    from poise.tuning.storage import optuna_module

    optuna = optuna_module()
    config = parse({"lr": what})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for point in grid(config)[:3]:
        study.enqueue_trial(point)
        trial = study.ask()
        drawn = sample(config, trial)
        space = config["lr"]
        if isinstance(space, Number) and not space.low <= drawn["lr"] <= space.high:
            raise SilentError(f"{drawn['lr']} is outside of {space}")
        again = sample(
            parse(json.loads(json.dumps(_written(config)))),
            Fixed(json.loads(json.dumps(trial.params))),
        )
        if again != drawn:
            raise SilentError(f"{drawn} was written, and {again} is read")


def damage(rng: random.Random, study: Path) -> tuple[Path, str]:
    """Damages one file of a study; which, and how."""
    file = rng.choice(sorted(path for path in study.rglob("*") if path.suffix in (".json", ".db")))
    if file.suffix == ".db" or rng.random() < 0.3:
        data = bytearray(file.read_bytes())
        at = rng.randrange(len(data))
        cut = rng.random() < 0.5
        file.write_bytes(data[:at] if cut else data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])
        return file, f"{'cut' if cut else 'flipped'} at {at}"
    saved = json.loads(file.read_text())
    key = rng.choice(sorted(saved))
    if rng.random() < 0.2:
        del saved[key]
        how = f"without {key}"
    else:
        saved[key] = rng.choice(VALUES)
        how = f"{key}={saved[key]!r}"
    file.write_text(json.dumps(saved))
    return file, how


def load(study: Path) -> None:
    """Reads what a study has found, and shows it."""
    from rich.console import Console

    from poise.tuning.run import load
    from poise.tuning.table import table

    analysis = load(study)
    Console(width=80).print(*table(analysis.study, 80))
    _ = analysis.study.best, analysis.results


def go_on(study: Path) -> None:
    """Runs the rest of a study, unless a sentence says why not."""
    from poise.tuning.run import load

    went_on = load(study).study
    if went_on.total > 1000:
        return  # a number was changed that may be as large as that
    serve(went_on)
    numbers = [trial.number for trial in went_on.trials]
    if numbers != list(range(max(went_on.total, len(numbers)))):
        raise SilentError(f"the study of {went_on.total} trials has {numbers}")
