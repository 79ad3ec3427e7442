"""What the table of runs shows of each: a few numbers, a small curve, and its settings."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from poise.config.run import rank
from poise.errors import RunError, shown
from poise.files import read_json
from poise.tracking.curves import flatten
from poise.tracking.folder import RunFolder
from poise.watch.growing import sampled
from poise.watch.inside import refusal, regular
from poise.watch.processes import memory

POINTS = 40
"""Points of a run's small curve."""
WRITTEN = (
    "config.json", "status.json", "metrics.jsonl", "log.txt", "checkpoints", "videos",
    "trial.json", "../trial.json",
)  # fmt: skip
"""What changes when a run, or the trial that it is of, goes on."""
SETTINGS = 400
"""Settings of a run that are shown."""
LONGEST = 300
"""Characters of a text that are shown."""
RETURN = "episode_reward_mean"
CURVE = {
    "steps": "timesteps_total", "time": "time_total_s", "episodes": "episodes_total",
    "return": RETURN,
}  # fmt: skip
"""The results that the small curve has."""
SCORES = ("evaluation/episode_reward_mean", RETURN)
"""What a goal may be set for."""


def number(value: Any) -> float | None:
    """A number as a run writes it; None for whatever else stands there."""
    odd = isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300
    return None if odd else value


def text(value: Any) -> str:
    """Foreign text as a page may show it: invisible characters as codes, and not without end."""
    known = value if isinstance(value, str) else json.dumps(value, default=str)
    return shown(known if len(known) <= LONGEST else f"{known[:LONGEST]} ...")


def short(values: Any) -> list[float | None]:
    """Numbers as JSON holds them, with six digits; None for what is not finite."""
    return [
        None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
        for value in (number(each) for each in values)
    ]


def identity(name: str) -> str:
    """What a run is called in addresses, by its path below the folder of all runs."""
    return quote(name, safe="/", errors="surrogateescape")


def manifests(run: RunFolder) -> list[dict[str, Any]]:
    """The manifests of a run's checkpoints that can be read, oldest first."""
    found = []
    for file in run.checkpoints.glob("*/manifest.json"):
        if file.parent.name.isdigit() and regular(file, run.path):
            try:
                found.append({**read_json(file), "iteration": int(file.parent.name)})
            except (OSError, ValueError):
                continue
    return sorted(found, key=lambda manifest: manifest["iteration"])


def best(known: list[dict[str, Any]]) -> tuple[float, int] | None:
    """The best score of some checkpoints, and its iteration."""
    ranked = [(*score, each["iteration"]) for each in known if (score := rank(each))]
    return max(ranked)[1:] if ranked else None


def stamp(folder: Path) -> tuple[Any, ...]:
    """What changes when a run writes: sizes and times of its files, and whether it lives."""
    parts: list[Any] = []
    for name in WRITTEN:
        try:
            about = os.stat(folder / name)
            parts.append((about.st_mtime_ns, about.st_size))
        except OSError:
            parts.append(None)
    return (*parts, None if refusal(folder) else RunFolder(folder).status().get("state"))


def row(name: str, folder: Path) -> dict[str, Any]:
    """What the table shows of a run; of one that is refused or damaged, why."""
    own = {"id": identity(name), "name": text(folder.name), "experiment": text(folder.parent.name)}
    if why := refusal(folder):
        return {**own, "state": "refused", "note": why}
    run = RunFolder(folder)
    try:
        saved = run.config()
    except RunError as error:
        return {**own, "state": "damaged", "note": str(error)}
    status, known = run.status(), manifests(run)
    points = sampled(run.metrics_file, POINTS) if run.metrics_file.is_file() else []
    last = points[-1] if points else status
    score = best(known)
    stop = saved["stop"] or {}
    flat = list(flatten({k: v for k, v in saved["config"].items() if k != "env"}).items())
    steps, seconds = number(last.get("timesteps_total")), number(last.get("time_total_s"))
    mean_rate = steps / seconds if steps and seconds else None
    return {
        **own,
        "algorithm": text(saved["algorithm"]),
        "env": text(saved["config"]["env"]),
        "state": text(status.get("state", "unknown")),
        "note": text(status.get("reason") or saved.get("rebuilt") or ""),
        "steps": steps,
        "iterations": number(last.get("training_iteration")),
        "episodes": number(last.get("episodes_total")),
        "return": number(last.get(RETURN)),
        "best": score and score[0],
        "best_at": score and score[1],
        "time_s": seconds,
        "rate": number(last.get("perf/env_steps_per_s")) or mean_rate,
        "goal": next((number(stop[key]) for key in SCORES if key in stop), None),
        "left_s": left(stop, last) if status.get("state") == "running" else None,
        "heartbeat": number(status.get("heartbeat")),
        "grade": text(known[-1].get("resume_grade", "") if known else ""),
        **memory(status),
        "checkpoint": known[-1]["iteration"] if known else None,
        "curve": {name: short(p.get(key) for p in points) for name, key in CURVE.items()},
        "settings": {text(key): _setting(value) for key, value in flat[:SETTINGS]},
        "group": group(saved),
    }


def _setting(value: Any) -> Any:
    plain = value is None or isinstance(value, bool) or number(value) is not None
    return value if plain else text(value)


def group(saved: dict[str, Any]) -> str:
    """Equal for runs that differ by their seed alone."""
    known = [saved["algorithm"], {**saved["config"], "seed": None}]
    return hashlib.blake2s(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def left(stop: dict[str, Any], last: dict[str, Any]) -> float | None:
    """Seconds that a run takes at most to its end, by its limits; None without one."""
    seconds, found = number(last.get("time_total_s")), []
    for key in ("timesteps_total", "training_iteration", "episodes_total", "time_total_s"):
        limit, value = number(stop.get(key)), number(last.get(key))
        if limit and value and seconds:
            found.append(max(0.0, seconds * (limit - value) / value))
    return min(found) if found else None
