"""`poise doctor`: why a run does not learn, or whether an environment can be learnt."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from poise.cli.check import FAULTY
from poise.cli.complete import complete_run
from poise.cli.listing import folder_option
from poise.cli.output import echo, takes
from poise.cli.runs import trust_option
from poise.config.types import parse_text
from poise.errors import ConfigError, RunError
from poise.tracking.find import find_run
from poise.tracking.folder import RunFolder, plain

if TYPE_CHECKING:
    from poise.watch.probes import Probed


@click.command()
@takes(
    click.argument("what", metavar="RUN|ENV", shell_complete=complete_run),
    click.option("--probe/--no-probe", default=None,
                 help="Train in small tasks of its spaces. [default: of an environment]"),
    click.option("--algorithm", "--run", default="PPO", show_default=True, metavar="NAME",
                 help="The algorithm for an environment."),
    click.option("--config", metavar="JSON", default="{}",
                 help="Its settings, for an environment."),
    click.option("--env-config", "--env_config", metavar="JSON", default="{}",
                 help="What the environment is made with."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    folder_option,
    trust_option,
    click.pass_context,
)  # fmt: skip
def doctor(
    ctx: click.Context,
    what: str,
    probe: bool | None,
    algorithm: str,
    config: str,
    env_config: str,
    as_json: bool,
    folder: str,
    trust: bool,
) -> None:
    """Say why a run does not learn, or an environment is not learnt.

    RUN is a run folder, the name of a run, or `latest`: its numbers are read, and its policy plays
    a thousand steps. ENV is a Gymnasium id, `module:Env-v0` or `module:Class`: it is checked, and
    then small tasks of its spaces are trained with your settings (`--config`), to tell the
    algorithm's fault from the environment's; `--probe` does that with the settings of a run.
    """
    settings, made_with = _object("config", config), _object("env-config", env_config)
    run = _run(what, folder)
    if run is None:
        faulty, told = _check(what, made_with, as_json)
    else:
        faulty, told = False, _diagnose(run, as_json, trust)
    if not faulty and (probe if run else probe is not False):
        of = _of_run(run, trust) if run else _of_env(what, algorithm, settings, made_with)
        told["probes"] = _probe(*of, quiet=as_json)
    if as_json:
        click.echo(json.dumps(plain(told), indent=2))
    ctx.exit(FAULTY if faulty else 0)


def _object(name: str, text: str) -> dict[str, Any]:
    found = parse_text(text)
    if not isinstance(found, dict):
        raise ConfigError(f"--{name} {text!r} is not allowed: it must be a JSON object.")
    return found


def _run(what: str, folder: str) -> RunFolder | None:
    """The run that is meant; None for the name of an environment."""
    try:
        return find_run(what, folder)
    except RunError:
        if (
            what == "latest"
            or RunFolder(what).path.is_dir()
            or ("/" in what and ":" not in what and not what.startswith("ALE/"))
        ):
            raise  # a path
        return None


def _diagnose(run: RunFolder, quiet: bool, trust: bool) -> dict[str, Any]:
    from poise.watch.doctor import diagnose

    told = diagnose(run.path, trust=trust)
    if not quiet:
        echo(told)
    return told.to_json()


def _check(env: str, env_config: dict[str, Any], quiet: bool) -> tuple[bool, dict[str, Any]]:
    from poise.checks.check import check_env

    report = check_env(env, env_config)
    if not quiet:
        echo(report)
    return not report.ok, report.to_json()


def _of_run(run: RunFolder, trust: bool) -> tuple[str, dict[str, Any], Any]:
    """The algorithm, the settings and the layouts of a run."""
    from poise.training.loading import load

    with load(run.path, trust=trust) as trainer:
        return _asked(trainer)


def _of_env(
    env: str, algorithm: str, settings: dict[str, Any], env_config: dict[str, Any]
) -> tuple[str, dict[str, Any], Any]:
    """The same of an environment, with the settings of its preset if it has one."""
    from poise.training.loading import new_trainer

    with new_trainer(
        algorithm, env, {**settings, "env_config": env_config}, preset="auto"
    ) as trainer:
        return _asked(trainer)


def _asked(trainer: Any) -> tuple[str, dict[str, Any], Any]:
    """What probes are made of; with several agents, the spaces are those that one of them has."""
    (name, policy), *others = trainer.algorithm.policies.items()
    if others:
        echo(f"Of {len(others) + 1} policies, small tasks are made for {name}.", err=True)
    return trainer.name, trainer.config.to_dict(), (policy.obs_layout, policy.action_layout)


def _probe(algorithm: str, settings: dict[str, Any], layouts: Any, *, quiet: bool) -> list[Any]:
    from poise.watch.probes import PROBES, probe

    def say(probed: Probed) -> None:
        if not quiet:
            echo(f"  {probed}  {PROBES[probed.probe] if probed.learnt is False else ''}".rstrip())

    if not quiet:
        echo(f"\nSmall tasks of these spaces, with {algorithm} and its settings:")
    found = probe(algorithm, settings, layouts, say)
    if not quiet:
        echo(verdict(found))
    return [asdict(each) for each in found]


def verdict(found: list[Probed]) -> str:
    """What the probes say together, in one sentence."""
    if failed := [each.probe for each in found if each.learnt is False]:
        return (
            f"The settings do not learn {', '.join(failed)}: change them first, lr before others."
        )
    return "The settings learn all of them: look for the fault in the environment, or give it time."
