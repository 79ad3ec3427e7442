"""What a check of an environment found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from poise.stepping.advice import duration

Level = Literal["error", "warning"]

CHECKS = {
    "make": "The class or function makes a Gymnasium environment without an exception.",
    "spaces": (
        "Both spaces are Gymnasium's, of kinds that a network can take, with sound bounds, "
        "and the same in every instance."
    ),
    "reset": "`reset(seed=, options=)` returns `(observation, info)`.",
    "step": (
        "`step(action)` returns five values: "
        "an observation, a finite number, two truth values, a dict."
    ),
    "observation": (
        "Observations are in their space: structure, shape, type, bounds, "
        "nothing that is not finite."
    ),
    "action": "Every action of the space is borne, the corners, too, and none is changed.",
    "buffers": "Observations that were returned are left alone.",
    "seeding": (
        "The same seed gives the same episode, other seeds others; "
        "nothing is drawn from the global generators."
    ),
    "sharing": "Two instances do not disturb each other.",
    "episodes": (
        "Episodes end; a time limit is a truncation; "
        "the last observation is that of the episode that ends."
    ),
    "goals": (
        "Where there are `achieved_goal`, `desired_goal` and `compute_reward`, that takes many "
        "goals at once and says the rewards of steps."
    ),
    "render": 'Where `"rgb_array"` is promised, `render()` returns frames.',
    "speed": "A reset costs less than the episode that follows.",
    "memory": "Memory does not grow with the steps.",
    "process": "The process lives on, and every call returns.",
}
"""The checks by name, and what each makes sure of."""


@dataclass(frozen=True)
class Finding:
    """One violation.

    Attributes:
        level: an `error` breaks training or its promises (seeds, resuming); a `warning` may.
        check: which of `CHECKS` found it.
        text: one sentence: what, which value, what is expected, how to mend it.
        where: `file:line` of the user's code, where that can be told.
    """

    level: Level
    check: str
    text: str
    where: str | None = None

    def __str__(self) -> str:
        return self.text if self.where is None else f"{self.text} ({self.where})"


@dataclass
class Report:
    """All that was found; printing it shows it.

    Attributes:
        env: the environment, as it was named.
        findings: the violations, in the order of the checks.
        facts: what was measured: `observation_space`, `action_space`, `goals` (whether HER can
            learn from others), `construct_s`, `reset_s`, `step_s`, `steps_per_s`, `cpu_share`,
            `memory_mb_per_1000_steps`, `episodes`, `episode_len_mean`, `num_workers` and
            `num_workers_why`. What could not be measured is missing.
    """

    env: str
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def errors(self) -> list[Finding]:
        """Violations that must be mended."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """Violations that may do no harm."""
        return [finding for finding in self.findings if finding.level == "warning"]

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not self.errors

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "env": self.env,
            "ok": self.ok,
            "findings": [asdict(f) for f in self.findings],
            "facts": self.facts,
        }

    def measured(self) -> list[tuple[str, str]]:
        """The facts as titles and texts."""
        facts, rows = self.facts, []
        for kind in ("observation", "action"):
            if f"{kind}_space" in facts:
                rows.append((kind, facts[f"{kind}_space"]))
        if facts.get("goals"):
            rows.append(("goals", "her=True learns from those that were achieved, too"))
        if "episodes" in facts:
            mean = facts["episode_len_mean"]
            lengths = f"{facts['episodes']} of {mean:.0f} steps on average" if mean else ""
            rows.append(("episodes", lengths or "none ended"))
        if "step_s" in facts:
            speed = f"{facts['steps_per_s']:,.0f} steps/s"
            share = f"{facts['cpu_share']:.0%} of the time computing"
            rows.append(("step", f"{duration(facts['step_s'])} ({speed}, {share})"))
            making = f"making it took {duration(facts['construct_s'])}"
            rows.append(("reset", f"{duration(facts['reset_s'])}; {making}"))
        if "num_workers_why" in facts:
            rows.append(("workers", facts["num_workers_why"]))
        return rows

    def __str__(self) -> str:
        width = max((len(title) for title, _ in self.measured()), default=0)
        lines = [self.env, *(f"  {title:<{width}}  {text}" for title, text in self.measured())]
        for title, findings in (("error", self.errors), ("warning", self.warnings)):
            lines += ["", counted(len(findings), title), *(f"  {finding}" for finding in findings)]
        return "\n".join(lines)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What notebooks and IPython show: all of it."""
        printer.text(str(self))

    def __repr__(self) -> str:
        errors, warnings = len(self.errors), len(self.warnings)
        found = f"{counted(errors, 'error')}, {counted(warnings, 'warning')}"
        return f"<Report on {self.env}: {found}>"


def counted(number: int, word: str) -> str:
    """`no errors`, `1 error`, `2 errors`."""
    return f"{number or 'no'} {word}{'s' * (number != 1)}"
