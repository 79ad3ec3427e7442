"""`poise train`: flags over file over preset over defaults, and what to type next."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import click

from poise.cli.complete import complete_algorithm, complete_env, complete_preset
from poise.cli.flags import (
    KEPT,
    KEPT_AS,
    NETWORKS,
    OTHER,
    SHARED,
    TRAINED,
    Flag,
    given,
    note,
    options_given,
    own_section,
    setting_flags,
    with_options,
)
from poise.cli.inputs import Experiment, parse_stop, read_experiment
from poise.cli.output import echo_last, echo_next, takes
from poise.config.algorithms import ALGORITHMS, algorithm_names, algorithm_spec, known_name
from poise.config.base import AlgorithmConfig
from poise.config.hints import setting_hint
from poise.config.resolve import canonical, resolve
from poise.config.run import RunOptions
from poise.config.types import parse_text
from poise.errors import ConfigError, PoiseError
from poise.files import near
from poise.startup import ENDING, without_collection

if TYPE_CHECKING:
    from poise.tracking.launch import Run
    from poise.tuning.seeds import SeedRuns

UNSAVED = 2
"""Exit code of a run whose end is not on the disk, as when the disk is full."""
EXIT_CODES = {"interrupted": 128 + signal.SIGINT, "preempted": 128 + signal.SIGTERM}
"""By the reason why a run stopped: so one that a signal ended is told from a finished one."""


@dataclass
class Request:
    """What a first look at the arguments found; the flags depend on it.

    Attributes:
        algorithm: its registered name; None where none was named.
        experiment: what `--config` says.
        env: the environment, where it was given without a flag.
    """

    algorithm: str | None
    experiment: Experiment
    env: str | None = None


class TrainCommand(click.Command):
    """Has the flags of the algorithm that its arguments name.

    Attributes:
        first: sections of the help that come before what is kept.
    """

    first: ClassVar[tuple[str, ...]] = (TRAINED,)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            ctx.obj = self._look(ctx, list(args))
        except PoiseError:
            if not ctx.resilient_parsing:  # while completing, what stands there may be half a word
                raise
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise click.UsageError(self._unknown(ctx, error.option_name.lstrip("-"))) from None
        if isinstance(ctx.obj, Request) and (env := ctx.obj.env) is not None:
            by_flag = given(ctx).get("env", env)
            if by_flag != env:
                raise click.UsageError(f"env is {env!r}, and {by_flag!r} by --env: leave one out.")
            note(ctx, "env", env)
        return rest

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *setting_flags(_algorithm(ctx))]

    def _look(self, ctx: click.Context, args: list[str]) -> Request:
        """Finds the algorithm, the environment and the `--config` among the arguments."""
        parser = self.make_parser(ctx)  # without a request, it takes the flags of all algorithms
        parser.ignore_unknown_options = True
        values, rest, _ = parser.parse_args(list(args))
        text = values.get("config_text")
        experiment = read_experiment(text if isinstance(text, str) else None)
        positional = (values.get("algorithm"), values.get("env_name"), *rest)
        typed = [word for word in positional if isinstance(word, str)]
        words = [word for word in typed if word[:1] != "-"]
        known, before = [word for word in words if known_name(word)], len(ALGORITHMS)
        if not known and words:
            installed = {name.lower() for name in algorithm_names()}
            known = [word for word in words if word.lower() in installed]
        # After a flag that does not exist, a word may be its value.
        others = [word for word in words if word not in known] if words == typed else []
        written = [*known, values.get("run_name")]
        names = [algorithm_spec(name)[0] for name in written if isinstance(name, str)]
        if not names and experiment.algorithm:
            names = [algorithm_spec(experiment.algorithm)[0]]
        if len(ALGORITHMS) > before:  # a module registered one, whose flags are known now
            return self._look(ctx, args)
        if not names and others:
            algorithm_spec(others[0])  # says that there is none of this name
        if len(set(names)) > 1:
            by = "" if len(known) > 1 else " by --run"
            raise ConfigError(
                f"The algorithm is {names[0]}, and {names[1]}{by}: give only one of them."
            )
        return Request(names[0] if names else None, experiment, others[0] if others else None)

    def _unknown(self, ctx: click.Context, name: str) -> str:
        """One sentence about a flag that does not exist."""
        every = (option for param in self.get_params(ctx) for option in param.opts)
        options = [option for option in every if option.startswith("--")]
        algorithm = _algorithm(ctx)
        special = ALGORITHMS[algorithm].config.untranslatable if algorithm else {}
        # Without their dashes, so that a part of a name (`fcnet_hiddens`) finds the whole one.
        hint = setting_hint(name, special, [option.lstrip("-") for option in options], flag="--")
        if any(option.startswith(f"--{name}.") for option in options):
            in_config = f'{{"{name}": {{...}}}}'
            return f"There is no flag --{name}: write --{name}.KEY, or {in_config} in --config."
        others = [
            other
            for other in ALGORITHMS
            if name in [flag.spelling for flag in setting_flags(other)]
        ]
        if others:
            have = "have" if others[1:] else "has"
            listed = " and ".join([", ".join(others[:-1]), others[-1]][not others[1:] :])
            return f"{algorithm} has no setting --{name}; {listed} {have}.{hint}"
        return (
            f"There is no flag --{name}.{hint} `poise {ctx.info_name} {algorithm or 'PPO'} --help` "
            "lists them."
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        algorithm = _algorithm(ctx)
        own = (own_section(algorithm), SHARED, NETWORKS) if algorithm else ()
        order = (*self.first, KEPT, *own, OTHER)
        sections: dict[str, list[tuple[str, str]]] = {section: [] for section in order}
        for param in self.get_params(ctx):
            section = param.section if isinstance(param, Flag) else OTHER
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record and section in sections:
                sections[section].append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records, col_max=34)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        algorithm = _algorithm(ctx)
        if algorithm:
            more = (
                f"`poise config {algorithm}` lists the same settings with their other names "
                "(those of RLlib and Stable-Baselines3), which are flags as well. "
                "A hyphen in a flag is as good as an underscore."
            )
        else:
            examples = [f"`poise {ctx.info_name} {name} --help`" for name in algorithm_names()]
            more = (
                f"Every setting of an algorithm is a flag too: {' and '.join(examples)} list them."
            )
        formatter.write_paragraph()
        formatter.write_text(more)


def _algorithm(ctx: click.Context) -> str | None:
    """The algorithm that the arguments name, if they do."""
    return ctx.obj.algorithm if isinstance(ctx.obj, Request) else None


with_common = takes(
    click.argument("algorithm", required=False, shell_complete=complete_algorithm),
    click.argument("env_name", metavar="[ENV]", required=False, expose_value=False,
                   shell_complete=complete_env),
    click.option("--run", "run_name", cls=Flag, metavar="NAME", shell_complete=complete_algorithm,
                 help="The algorithm, as RLlib's command spells it."),
    click.option("--config", "config_text", cls=Flag, metavar="JSON|FILE", type=click.Path(),
                 help="Settings as a JSON object, or a .yaml or .json file of them "
                 "(or of run, env, stop and config); "
                 "for poise tune, with searches in the place of some. "
                 "Flags win over it."),
    click.option("--preset", cls=Flag, metavar="NAME|none", default="auto",
                 shell_complete=complete_preset,
                 help="Settings tuned for an environment. "
                 "[default: those of --env, if there are any]"),
    click.option("--wrap", "wrappers", cls=Flag, multiple=True, metavar="MODULE:CLASS",
                 help="A wrapper around each environment; may be repeated, the innermost first. "
                 "With arguments, as JSON: "
                 '\'["gymnasium.wrappers:TimeAwareObservation", {"flatten": true}]\'.'),
    click.option("--folder", cls=Flag, section=KEPT, default="runs",
                 type=click.Path(file_okay=False),
                 help="The folder of all runs. [default: runs]"),
    click.option("--experiment", cls=Flag, section=KEPT, metavar="NAME",
                 help="The folder in it. [default: named after algorithm and environment]"),
)  # fmt: skip
"""Gives a command what `poise train` and `poise tune` take alike."""


@with_options(RunOptions, KEPT, KEPT_AS)
@click.command(
    cls=TrainCommand,
    context_settings={
        "token_normalize_func": lambda name: name.replace("-", "_"),
        "max_content_width": 100,
    },
)
@takes(
    with_common,
    click.option("--stop", "stop_texts", cls=Flag, multiple=True, metavar="KEY=NUMBER",
                 help="Ends the run once a result is at least this; any key of the results, may be "
                 "repeated, or one JSON object. "
                 "[default: where the environment counts as solved, or 1,000,000 steps]"),
    click.option("--name", cls=Flag, section=KEPT, metavar="NAME",
                 help="The run's own folder in that. [default: the time]"),
    click.option("--seeds", cls=Flag, metavar="INT", type=click.IntRange(1), default=1,
                 help="Runs that differ by their seed, in parallel; --seed is the first. "
                 "[default: 1]"),
    click.option("--resume-if-exists", cls=Flag, section=KEPT, is_flag=True,
                 help="Goes on with the run of that --name where there is one, "
                 "or says that it has ended."),
    click.option("--quiet", cls=Flag, section=KEPT, is_flag=True,
                 help="Prints only where the run is, at the end."),
    click.option("--trust", cls=Flag, section=OTHER, is_flag=True,
                 help="Lets --config run the code that it names, "
                 "and remembers the names."),
    click.pass_context,
)  # fmt: skip
def train(
    ctx: click.Context,
    /,
    stop_texts: tuple[str, ...],
    preset: str,
    folder: str,
    experiment: str | None,
    name: str | None,
    seeds: int,
    resume_if_exists: bool,
    quiet: bool,
    trust: bool,
    wrappers: tuple[str, ...],
    **options: Any,
) -> None:
    """Train a policy; everything is kept in a run folder.

    \b
    poise train PPO --env CartPole-v1 --stop episode_reward_mean=475
    poise train --run=A2C --env=CartPole-v1 --config '{"lr": 7e-4}'
    poise train --config experiment.yaml
    """
    request: Request = ctx.obj
    if request.algorithm is None:
        known = ", ".join(algorithm_names())
        raise click.UsageError(
            f"Say what to train, for example poise train PPO --env CartPole-v1. Known: {known}."
        )
    config = ALGORITHMS[request.algorithm].config
    written = read_settings(ctx, config, request, trusted=trust)
    settings = {**written, **canonical(config, given(ctx)), **wrapped(wrappers)}
    tuned = None if preset == "none" else preset
    # A mistake is said here, before PyTorch is loaded.
    resolve(request.algorithm, None, settings, preset=tuned)

    asked: dict[str, Any] = {
        "stop": parse_stop(stop_texts) or request.experiment.stop,
        "preset": tuned,
        "experiment": request.experiment.name if experiment is None else experiment,
        "quiet": quiet,
        "options": RunOptions(**options_given(RunOptions, options, KEPT_AS)),
    }
    if seeds > 1:
        if resume_if_exists:
            raise ConfigError(
                "--resume-if-exists is of one run: `poise resume` goes on with several seeds."
            )
        if name is not None:
            raise ConfigError(
                f"name={name!r} is of one run, and --seeds {seeds} are several: give --experiment."
            )
        _train_seeds(ctx, request.algorithm, settings, {**asked, "seeds": seeds, "folder": folder})
    with without_collection(freeze=True):
        from poise.tracking.launch import start

    asked |= {"root": folder, "name": name, "signals": ENDING, "resume_if_exists": resume_if_exists}
    run = start(request.algorithm, None, settings, **asked)
    finish(ctx, run, quiet=quiet)


def wrapped(texts: tuple[str, ...]) -> dict[str, Any]:
    """The setting that `--wrap` stands for."""
    return {"wrappers": [parse_text(text) for text in texts]} if texts else {}


def read_settings(
    ctx: click.Context, config: type[AlgorithmConfig], request: Request, *, trusted: bool
) -> dict[str, Any]:
    """The settings of `--config`.

    Where they come from a file, `poise.envs.trust` has let pass the code that they name.
    """
    settings, text = canonical(config, request.experiment.settings), ctx.params.get("config_text")
    if settings and text and not text.lstrip().startswith("{"):
        from poise.training.names import admit

        by_flags = canonical(config, given(ctx))
        used = {key: value for key, value in settings.items() if key not in by_flags}
        admit(used, text, trusted=trusted)
    return settings


def _train_seeds(
    ctx: click.Context, algorithm: str, settings: dict[str, Any], asked: dict[str, Any]
) -> None:
    with without_collection(freeze=True):
        from poise.tuning.seeds import run_seeds

    seed = settings.get("seed") or 0
    rest = {key: value for key, value in settings.items() if key != "seed"}
    found = run_seeds(algorithm, seed=seed, config=rest, signals=ENDING, **asked)
    finish_seeds(ctx, found, quiet=asked["quiet"])


def finish_seeds(ctx: click.Context, found: SeedRuns, *, quiet: bool) -> None:
    """Says what came of the seeds and what to type next, and ends with the exit code that fits."""
    from poise.tuning.seeds import summary

    code = EXIT_CODES.get(found.ended or "", 1 if found.errors else 0)
    path = shlex.quote(str(found.path))
    if quiet:
        echo_last(found.path)
    elif found.ended:
        echo_next({f"poise resume {path}": "go on from here"})
    else:
        echo_last(f"\n{summary(found)}")
        echo_next(
            {f"poise plot {path}": "draw all seeds", f"poise evaluate {path}": "play the best"}
        )
    ctx.exit(code)


def finish(ctx: click.Context, run: Run, *, quiet: bool) -> None:
    """Says what to type next, and ends with the exit code that fits how the run ended."""
    code = UNSAVED if run.unsaved else EXIT_CODES.get(run.result["stop_reason"], 0)
    if quiet:
        if run.unsaved:
            echo_last(run.unsaved, err=True)
        echo_last(near(run.path))
    else:
        if run.unsaved and not any(run.folder.checkpoints.glob("[0-9]*")):
            ctx.exit(code)  # there is nothing to go on from
        next_steps = {"evaluate": "play fresh episodes", "record": "film it"}
        if code:
            next_steps = {"resume": "go on from here"}
        # In a virtual environment that is not activated, the shell finds it only as it was called.
        hidden = sys.argv[0].endswith("/poise") and not shutil.which("poise")
        poise, path = sys.argv[0] if hidden else "poise", shlex.quote(str(near(run.path)))
        echo_next({f"{poise} {command} {path}": what for command, what in next_steps.items()})
    ctx.exit(code)
