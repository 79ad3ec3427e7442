"""`poise runs`: what the run folders say, read without PyTorch."""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from typing import Any

import click

from poise.cli.output import echo
from poise.errors import RunError, shown
from poise.tracking.find import all_runs, run_names
from poise.tracking.folder import RunFolder

COLOURS = {"running": "cyan", "finished": "green", "stopped": "yellow", "preempted": "yellow"}
"""Colours of states; a run in any other is in trouble."""

PIPE_WIDTH = 200
"""Columns of the table in a pipe, which has no width of its own."""

folder_option = click.option(
    "--folder", default="runs", show_default=True, type=click.Path(file_okay=False),
    help="The folder of all runs.",
)  # fmt: skip


@click.command()
@folder_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def runs(folder: str, as_json: bool) -> None:
    """List the runs and how they are doing."""
    found = all_runs(folder)
    rows = [_row(run, name) for run, name in zip(found, run_names(found, folder), strict=True)]
    if as_json:
        echo(json.dumps(rows, indent=2))
        return
    if not rows:
        echo(f"There are no runs in {folder} yet. Begin with:  poise train PPO --env CartPole-v1")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # There a run stays on one line, for `grep`.
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for title in ("run", "algorithm", "env", "state"):
        table.add_column(title, overflow="fold", no_wrap=title != "env")
    for title in ("iter", "steps", "reward", "best", "time"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        state = Text(shown(row["state"]), COLOURS.get(row["state"], "red"))
        names = (Text(shown(row[key])) for key in ("run", "algorithm", "env"))
        best = "" if row["best"] is None else f" at {row['best_iteration']:,}"
        table.add_row(
            *names,
            state,
            _number(row["iterations"]),
            _number(row["steps"]),
            _number(row["reward"], 1),
            _number(row["best"], 1) + best,
            _time(row["time_s"]),
        )
    Console(highlight=False, width=PIPE_WIDTH if piped else None).print(table)


def _row(run: RunFolder, name: str) -> dict[str, Any]:
    """What a run says about itself."""
    try:
        saved, status = run.config(), run.status()
    except RunError:
        saved, status = {}, {"state": "damaged"}
    if "rebuilt" in saved:
        status = {**status, "state": "damaged"}
    best, iteration = run.best or (None, None)
    last = run.last_result() or status  # the status of a killed run may be seconds older
    return {
        "run": name,
        "path": str(run.path),
        "algorithm": saved.get("algorithm", "-"),
        "env": saved["config"]["env"] if saved else "-",
        "state": status.get("state", "unknown"),
        "iterations": _finite(last.get("training_iteration")),
        "steps": _finite(last.get("timesteps_total")),
        "reward": _finite(last.get("episode_reward_mean")),
        "best": _finite(best),
        "best_iteration": iteration,
        "time_s": _finite(last.get("time_total_s")),
        **_source(run),
    }


def _source(run: RunFolder) -> dict[str, Any]:
    """The commit that the run was last made with, and whether the working folder had changes.

    Each is None where it is not known.
    """
    session: dict[str, Any] = next(reversed(run.sessions()), {})
    commit, dirty = session.get("commit"), session.get("dirty")
    return {
        "commit": commit if isinstance(commit, str) else None,
        "dirty": dirty if isinstance(dirty, bool) else None,
    }


def _finite(value: Any) -> float | None:
    """A number as a run writes it; None for whatever else stands there."""
    odd = isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300
    return None if odd else value


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
