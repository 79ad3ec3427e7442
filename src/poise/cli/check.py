"""`poise check-env`: what is wrong with an environment, before a run has to find it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from poise.cli.complete import complete_env
from poise.cli.output import takes
from poise.config.types import parse_text
from poise.errors import ConfigError, shown

if TYPE_CHECKING:
    from poise.checks.report import Report

FAULTY = 2
"""Exit code where there are errors."""


@click.command(name="check-env")
@takes(
    click.argument("env", shell_complete=complete_env),
    click.option("--env-config", "--env_config", metavar="JSON", default="{}",
                 help="What the environment is made with."),
    click.option("--steps", type=click.IntRange(1), default=1000, show_default=True,
                 help="Steps of random play, at most."),
    click.option("--seed", type=click.IntRange(0), default=0, metavar="INT",
                 help="Other seeds play other episodes."),
    click.option("--timeout", type=click.FloatRange(0, min_open=True), default=20.0,
                 show_default=True, metavar="SECONDS", help="How long one call may take."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    click.pass_context,
)  # fmt: skip
def check_env(
    ctx: click.Context,
    env: str,
    env_config: str,
    steps: int,
    seed: int,
    timeout: float,
    as_json: bool,
) -> None:
    """Check an environment: what is wrong with it, and how fast it is.

    ENV is a Gymnasium id, `module:Env-v0` or `module:Class`. It takes about five seconds. The exit
    code is 2 if there are errors.
    """
    config = parse_text(env_config)
    if not isinstance(config, dict):
        raise ConfigError(f"--env-config {env_config!r} is not allowed: it must be a JSON object.")
    from rich.console import Console

    from poise.checks.check import check_env as check

    with Console(stderr=True).status(f"Playing {env}"):
        report = check(env, config, steps=steps, seed=seed, timeout=timeout)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
    else:
        _show(report)
    ctx.exit(0 if report.ok else FAULTY)


def _show(report: Report) -> None:
    """Prints what was measured, and what is wrong."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from poise.checks.report import counted

    console = Console(highlight=False)

    def grid(rows: list[tuple[Text, Text]]) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        for title, text in rows:
            table.add_row(title, text)
        return table

    console.print(Text(shown(report.env), "bold"))
    if report.measured():
        rows = [(Text(f"  {title}", "dim"), Text(text)) for title, text in report.measured()]
        console.print(grid(rows))
    kinds = (("error", "red", report.errors), ("warning", "yellow", report.warnings))
    for word, colour, findings in kinds:
        title = f"\n{counted(len(findings), word)}"
        console.print(Text(title, f"bold {colour}" if findings else "green"))
        rows = []
        for finding in findings:
            text = Text(shown(finding.text, lines=True))
            text.append(f"\n{finding.where}" if finding.where else "", "dim")
            rows.append((Text(f"  {finding.check}", colour), text))
        if rows:
            console.print(grid(rows))
