"""All that the page of one run shows, thinned so that a run of any length is quick to draw."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from poise.tracking.curves import trailing_mean
from poise.tracking.folder import RunFolder
from poise.watch.acts import behaviour, looks
from poise.watch.axes import X, at_steps, axes_of
from poise.watch.growing import Episodes, Results
from poise.watch.health import course_of, diagnose, measures
from poise.watch.inside import regular
from poise.watch.rows import RETURN, manifests, number, short, text

DOTS = 4_000
"""Episodes that are drawn one by one; of more, the lowest and the highest of each few."""
POINTS = 600
"""Places of a curve."""
KEYS = 80
"""Results that are drawn, at most."""
LOG = 200
"""Last lines of the log."""
LOG_BYTES = 65_536
DRAWN = ("learner/", "perf/", "info/", "selfplay/")


class Story:
    """One run, read as it grows.

    Args:
        folder: the run's, which may be read.
    """

    def __init__(self, folder: Path) -> None:
        self.run = RunFolder(folder)
        self._results, self._episodes = (
            Results(self.run.metrics_file),
            Episodes(self.run.episodes_file),
        )
        self._lock = threading.Lock()

    def page(self, x: str = "steps", start: float | None = None, end: float | None = None) -> Any:
        """What the page shows.

        Args:
            x: the axis of `start` and `end`.
            start, end: the part of the run whose episodes are shown; None is the whole.
        """
        with self._lock:
            self._results.read()
            e = self._episodes.read()
            rows = [r for r in self._results.rows if number(r.get("timesteps_total")) is not None]
            last = self._results.last or (rows[-1] if rows else {})
            known, saved = manifests(self.run), self.run.config()
            window = number(saved["config"].get("metrics_smoothing_episodes"))
            course = course_of(saved, known[-1] if known else None, self._results, e)
            learns, found, why = diagnose(course)
            health = measures(course, found) if not why else []
            of_measures = {name for each in health for name in (each["sentence"],)}
            axes = axes_of(rows)
            return {
                "window": int(window or 100),
                "episodes": _dots(e, self._before(last, e), x, start, end),
                "mean": _mean(e, self._before(last, e), int(window or 100)),
                "evaluations": self._evaluations(),
                "markers": self._markers(known, rows, axes),
                "films": self._films(known, axes),
                "learns": learns,
                "health": health,
                "findings": [
                    {"symptom": each.symptom, "text": each.text, "advice": each.advice}
                    for each in found
                    if f"{each.text} {each.advice}" not in of_measures
                ],
                "series": _series(rows),
                "choices": _choices(known[-1] if known else {}),
                "lost": number(last.get("episodes_lost_total")),
                "behaviour": behaviour(looks(self.run.behaviour_file), axes),
                "sessions": [_session(each) for each in self.run.sessions()[-20:]],
                "log": self._log(),
                "notes": [*self._notes(), *([why] if why else [])],
            }

    def _before(self, last: dict[str, Any], e: np.ndarray) -> int:
        """Episodes that ended before the first that is read."""
        total = number(last.get("episodes_total")) or 0
        return max(int(total) - len(e), 0) if self._episodes.file.left_out else 0

    def _notes(self) -> list[str]:
        """What is not shown."""
        notes = []
        if self._results.stride > 1:
            notes.append(
                f"Of {self._results.count:,} results, one in {self._results.stride} is drawn."
            )
        for file in (self._results.file, self._episodes.file):
            if file.left_out:
                what = f"{file.left_out / 2**20:,.0f} MiB"
                notes.append(f"The first {what} of {file.path.name} are not read.")
        return notes

    def _evaluations(self) -> dict[str, Any]:
        rows = [r for r in self._results.evaluations if number(r.get(f"evaluation/{RETURN}"))]
        ends = {"mean": RETURN, "low": "episode_reward_min", "high": "episode_reward_max"}
        return {
            **{name: short(r.get(key) for r in rows) for name, key in X.items()},
            **{name: short(r.get(f"evaluation/{key}") for r in rows) for name, key in ends.items()},
        }

    def _markers(
        self, known: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], axes: np.ndarray
    ) -> list[dict[str, Any]]:
        """What happened when: checkpoints that are kept, failures, restarts, and going on."""
        found = []
        for each in known:
            score = number(each.get("score"))
            told = f", {each.get('score_of')} {score:.4g}" if score is not None else ""
            found.append(("checkpoint", each, f"checkpoint {each['iteration']}{told}"))
        for session in self.run.sessions()[1:]:
            found.append(("resumed", session, f"went on at {session.get('began')}"))
        for kind, key in (("failure", "env_failures_total"), ("restart", "worker_restarts_total")):
            totals = [number(row.get(key)) or 0 for row in rows]
            rises = [i for i in range(1, len(totals)) if totals[i] > totals[i - 1]]
            for i in rises[-50:]:
                more = totals[i] - totals[i - 1]
                found.append((kind, rows[i], f"{more:,.0f} {kind}{'s' * (more > 1)}"))
        return [
            {"kind": kind, "text": text(told), **at_steps(steps, axes)}
            for kind, about, told in found
            if (steps := number(about.get("timesteps_total"))) is not None
        ]

    def _films(self, known: Sequence[dict[str, Any]], axes: np.ndarray) -> list[dict[str, Any]]:
        """Films, in the order of what they show; those called as a checkpoint stand there."""
        steps = {each["iteration"]: number(each.get("timesteps_total")) for each in known}
        end = float(axes[0][-1]) if axes.size else 0.0
        found = []
        for file in sorted(self.run.path.glob("videos/*.mp4"))[:100]:
            if regular(file, self.run.path):
                named = steps.get(int(file.stem)) if file.stem.isdecimal() else None
                at = 0.0 if file.stem == "before" else end if named is None else named
                found.append({"name": file.name, "label": text(file.stem), **at_steps(at, axes)})
        return sorted(found, key=lambda film: film["steps"])

    def _log(self) -> list[str]:
        try:
            with (self.run.path / "log.txt").open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - LOG_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return []
        return [text(line) for line in lines[-LOG:]]


def _places(e: np.ndarray, before: int, at: np.ndarray) -> dict[str, Any]:
    """Some episodes by all that may be drawn of them."""
    number = before + at + 1
    parts = {"steps": e[at, 0], "time": e[at, 1], "episodes": number}
    return {
        k: short(v.tolist()) for k, v in {**parts, "return": e[at, 2], "length": e[at, 3]}.items()
    }


def _dots(
    e: np.ndarray, before: int, x: str, start: float | None, end: float | None
) -> dict[str, Any]:
    """Episodes one by one, or the lowest and the highest of each few, in a part of the run."""
    axis = {"steps": e[:, 0], "time": e[:, 1]}.get(x, before + 1 + np.arange(len(e)))
    first = 0 if start is None else int(np.searchsorted(axis, start))
    last = len(e) if end is None else int(np.searchsorted(axis, end, "right"))
    at = np.arange(first, max(last, first))
    each = -(-len(at) // (DOTS // 2)) if len(at) > DOTS else 1
    if each > 1:
        few = at[: len(at) // each * each].reshape(-1, each)
        returns = e[few, 2]
        row = np.arange(len(few))
        ends = np.stack([few[row, returns.argmin(1)], few[row, returns.argmax(1)]], 1)
        at = np.concatenate([np.sort(ends, 1).ravel(), at[len(few) * each :]])
    return {"count": int(last - first), "each": each, **_places(e, before, at)}


def _mean(e: np.ndarray, before: int, window: int) -> dict[str, Any]:
    """The mean of the latest episodes, at evenly spaced ones of them."""
    if not len(e):
        return _places(e, before, np.arange(0))
    at = np.unique(np.linspace(0, len(e) - 1, min(len(e), POINTS)).astype(int))
    means = e.copy()
    for column in (2, 3):
        means[:, column] = trailing_mean(e[:, column], window)
    return _places(means, before, at)


def _series(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Results over the run: of each few of many, the lowest and the highest in their order."""
    keys = dict.fromkeys(key for row in (*rows[:1], *rows[-1:]) for key in row)
    drawn = [key for key in keys if key.startswith(DRAWN)][:KEYS]
    columns = [*X.values(), *drawn]
    table = np.array([[_nan(row.get(key)) for key in columns] for row in rows], np.float64)
    table = table.reshape(-1, len(columns))
    each = -(-2 * len(table) // POINTS)
    if each > 2:
        few = table[: len(table) // each * each].reshape(-1, each, len(columns))
        low, high = np.nan_to_num(few, nan=np.inf), np.nan_to_num(few, nan=-np.inf)
        places = np.sort(np.stack([low.argmin(1), high.argmax(1)], 1), 1)
        ends = np.take_along_axis(few, places, 1).reshape(-1, len(columns))
        table = np.concatenate([ends, table[len(few) * each :]])
    found = dict(zip([*X, *drawn], map(short, table.T.tolist()), strict=True))
    return {"x": {name: found.pop(name) for name in X}, "keys": found}


def _nan(value: Any) -> float:
    known = number(value)
    return np.nan if known is None else known


def _choices(manifest: dict[str, Any]) -> bool:
    """Whether actions are choices: by the latest checkpoint."""
    space = manifest.get("action_space")
    return isinstance(space, dict) and space.get("type") == "Discrete"


def _session(session: dict[str, Any]) -> dict[str, str]:
    return {text(key): text(value) for key, value in list(session.items())[:20]}
