"""Is it learning? The numbers of learning, each with where it should lie and a sentence.

Where the doctor has something to say of a number, the sentence is the doctor's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from poise.advice.course import Course
from poise.advice.symptoms import Finding, findings
from poise.sampling.episodes import Finished
from poise.spaces.layout import Layout
from poise.watch.growing import Results
from poise.watch.rows import number, short

Band = tuple[float | None, float | None]
LOOKED_AT = 10_000
"""Episodes that the doctor looks at, evenly taken from all."""
LARGEST = 10**6
"""Numbers in a space of a checkpoint, beyond which it is not made."""


@dataclass(frozen=True)
class Measure:
    """A number of learning.

    Attributes:
        label: what it is called.
        symptoms: of the doctor's, those that are about it.
        band: where it lies while all is well; None at an open end, or for no band.
        inside, below, above: what it means there, as the end of a sentence; without a band, it is
            told what it is.
    """

    label: str
    symptoms: tuple[str, ...]
    band: Callable[[Course], Band]
    inside: str = ""
    below: str = ""
    above: str = ""
    plain: str = ""


def _entropy(course: Course) -> Band:
    most = course.choices
    if most is not None:
        return 0.05 * most, most
    count = course.numbers
    return (-2.5 * count, None) if count else (None, None)


def _clip(course: Course) -> Band:
    clip = course.setting("grad_clip")
    return (None, None) if clip is None else (0.0, 10 * clip)


def _earned(course: Course) -> Band:
    if course.config.get("normalize_rewards") or not len(course.returns):
        return None, None
    most = max(float(np.abs(course.returns).max()), 1.0)
    return -most, most


MEASURES = {
    "entropy": Measure(
        "entropy", ("entropy collapsed", "entropy never falls"), _entropy,
        "it still tries several actions", "it is almost certain of its actions",
        plain="nats of the policy's choice",
    ),
    "kl": Measure(
        "KL divergence", ("learning rate too low", "learning rate too high"), lambda _: (0.0, 0.05),
        "an iteration moves the policy by a small step", above="an iteration moves it far",
    ),
    "clip_fraction": Measure(
        "clip fraction", ("learning rate too high",), lambda _: (0.0, 0.3),
        "few steps leave the trust region", above="many steps leave the trust region",
    ),
    "vf_explained_var": Measure(
        "explained variance", ("values explain nothing",), lambda _: (0.3, 1.0),
        "the value function foresees returns", "the value function foresees little so far",
    ),
    "grad_norm": Measure(
        "gradient norm", ("gradients always clipped", "skipped updates"), _clip,
        "gradients are near the clip, or below it", above="most of each gradient is clipped away",
        plain="of the gradient, which is not clipped",
    ),
    "q": Measure(
        "value of actions (Q)", ("values diverge",), _earned,
        "no more than episodes have earned", "less than any episode has earned",
        "more than any episode has earned: an over-estimate",
        "in the units that rewards are normalised to",
    ),
    "saturation": Measure(
        "actions at their bounds", ("actions at the bounds",), lambda _: (0.0, 0.8),
        "most actions lie inside their bounds", above="nearly all actions are at a bound",
    ),
    "policy_lag_mean": Measure(
        "policy lag", (), lambda _: (None, None),
        plain="gradient steps behind the parameters that learn",
    ),
    "alpha": Measure(
        "temperature", (), lambda _: (None, None), plain="what a nat of entropy is worth in reward",
    ),
    "cur_epsilon": Measure(
        "epsilon", ("too little exploration",), lambda _: (None, None),
        plain="the share of actions that are chosen by chance",
    ),
}  # fmt: skip
"""By their key in results, after `learner/`."""


def course_of(saved: Mapping[str, Any], manifest: Any, results: Results, e: np.ndarray) -> Course:
    """What the doctor looks at: a run's settings, its latest manifest, results and episodes."""
    some = e[:: max(1, -(-len(e) // LOOKED_AT))]
    episodes = [Finished(int(s), t, r, int(n)) for s, t, r, n in some.tolist()]
    rows: Sequence[dict[str, Any]] = results.rows
    if results.stride > 1:  # updates are added up over all results
        rows = [
            {**row, "learner/sgd_steps": (row.get("learner/sgd_steps") or 0) * results.stride}
            for row in rows
        ]
    course = Course(saved["algorithm"], saved["config"], rows, episodes)
    spaces: list[Any] = [(manifest or {}).get(f"{of}_space") for of in ("observation", "action")]
    observed, acts = spaces
    if _size(observed) <= LARGEST and _size(acts) <= LARGEST:
        try:
            course.layouts = Layout.from_json(observed), Layout.from_json(acts)
        except Exception:  # a space of several agents, or what no run writes: the doctor does
            course.layouts = None  # without
    return course


def _size(space: Any) -> float:
    """How many numbers a space of a manifest stands for, at most."""
    if isinstance(space, dict):
        shape = [number(n) or 0 for n in space.get("shape") or [] if space.get("type") == "Box"]
        own = float(np.prod(shape)) if shape else 0.0
        return own + sum(_size(each) for each in space.values())
    return sum(map(_size, space), float(len(space))) if isinstance(space, list) else 1.0


def diagnose(course: Course) -> tuple[bool | None, list[Finding], str]:
    """Whether the run learns, what keeps it from that, and why nothing can be said of it."""
    try:
        return (course.learns if course.told else None), findings(course), ""
    except Exception as error:  # numbers that no run writes must not hide the rest
        return None, [], f"The doctor cannot read it: {type(error).__name__}: {error}"


def measures(course: Course, found: Sequence[Finding]) -> list[dict[str, Any]]:
    """Each number of learning that the run has."""
    told = {finding.symptom: finding for finding in found}
    keys = sorted(
        (key for key in (course.results[-1] if course.results else {}) if _measure(key)),
        key=lambda key: [*MEASURES].index(key.rsplit("/")[-1]),
    )
    return [_told(key, course, told) for key in keys if course.of(key)]


def _measure(key: str) -> Measure | None:
    return MEASURES.get(key.rsplit("/")[-1]) if key.startswith("learner/") else None


def _told(key: str, course: Course, told: Mapping[str, Finding]) -> dict[str, Any]:
    measure = _measure(key)
    assert measure is not None
    now, band = course.of(key)[-1], measure.band(course)
    finding = next((told[name] for name in measure.symptoms if name in told), None)
    state, what = ("good", measure.inside) if band != (None, None) else ("plain", measure.plain)
    if band[0] is not None and now < band[0]:
        state, what = "odd", measure.below or what
    elif band[1] is not None and now > 1.001 * band[1]:
        state, what = "odd", measure.above or what
    of = f" of at most {band[1]:.3g}" if measure.label == "entropy" and band[1] else ""
    sentence = f"{now:.3g}{of}: {what}."
    if finding is not None:
        state, sentence = "bad", f"{finding.text} {finding.advice}"
    whose = key.split("/")[1:-1]
    label = f"{measure.label} of {'/'.join(whose)}" if whose else measure.label
    return {
        "key": key, "label": label, "now": short([now])[0], "band": short(band), "state": state,
        "sentence": sentence,
    }  # fmt: skip
