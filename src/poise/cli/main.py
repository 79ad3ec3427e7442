"""The command itself: which subcommands there are, and how it ends when something goes wrong.

A subcommand's module is imported when it is called, and PyTorch when a subcommand begins its work,
so that `poise --help` and every mistyped word are answered at once.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from poise.cli.output import echo, silence
from poise.envs import trust
from poise.errors import EnvError, PoiseError, PoiseWarning, nearest, shown

COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("poise.cli.train:train", "Train a policy; everything is kept in a run folder."),
    "tune": ("poise.cli.tune:tune", "Search for settings over many runs."),
    "resume": ("poise.cli.runs:resume", "Go on with a run, also with other settings."),
    "evaluate": ("poise.cli.runs:evaluate", "Play fresh episodes and say how good the policy is."),
    "rollout": (
        "poise.compat.rllib.scripts:rollout",
        "Play episodes with a checkpoint, as RLlib's command did.",
    ),
    "record": ("poise.cli.runs:record", "Film the policy; no display is needed."),
    "export": (
        "poise.cli.export:export",
        "Write the policy as ONNX, for PyTorch, for NumPy alone, or as C.",
    ),
    "play": ("poise.cli.play:play", "Play a game against the policy, in this terminal."),
    "plot": ("poise.cli.plot:plot", "Draw return and length of the episodes of runs."),
    "runs": ("poise.cli.listing:runs", "List the runs and how they are doing."),
    "watch": ("poise.cli.watch:watch", "Show runs as a live page in the browser."),
    "serve": ("poise.cli.serve:serve", "Let other programs ask a policy for actions, over HTTP."),
    "check-env": (
        "poise.cli.check:check_env",
        "Check an environment: what is wrong with it, and how fast it is.",
    ),
    "doctor": (
        "poise.cli.doctor:doctor",
        "Say why a run does not learn, or an environment is not learnt.",
    ),
    "cluster": ("poise.cli.cluster:cluster", "Start a cluster on this machine, or describe one."),
    "submit": ("poise.cli.jobs:submit", "Run a command on a cluster."),
    "jobs": ("poise.cli.jobs:jobs", "List the jobs of a cluster."),
    "logs": ("poise.cli.jobs:logs", "Print what a job has printed."),
    "stop": ("poise.cli.jobs:stop", "End a job, which writes a checkpoint first."),
    "wait": ("poise.cli.jobs:wait", "Wait until a job has ended, and end as it did."),
    "fetch": ("poise.cli.jobs:fetch", "Bring the run folder of a job, also while it runs."),
    "algorithms": ("poise.cli.describe:algorithms", "List the algorithms and their presets."),
    "config": ("poise.cli.describe:config", "Explain every setting of an algorithm."),
    "completion": (
        "poise.cli.complete:completion",
        "Print the script that completes words in your shell.",
    ),
}
"""Where each subcommand lives and its line in `poise --help`, which imports none of them."""

INTERRUPTED = 130
"""Exit code of a process that Ctrl-C ended, as shells have it: 128 and the number of the signal."""


class Sentence(click.ClickException):
    """A mistake of the user's: one sentence, exit code 2, no traceback."""

    exit_code = 2


class EnvRaised(click.ClickException):
    """An environment's own exception, told with its traceback."""

    exit_code = 1


class Poise(click.Group):
    """Imports its subcommands when they are called, and ends as a good Unix command does."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            raise click.UsageError(
                f"There is no command {args[0]!r}.{nearest(args[0], COMMANDS)} "
                "`poise --help` lists them."
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = partial(_show, warnings.showwarning)
                return super().invoke(ctx)
        except PoiseError as error:
            own = isinstance(error, EnvError) and "\n" in str(error)
            raise (EnvRaised if own else Sentence)(str(error)) from error
        except click.UsageError as error:
            raise Sentence(shown(" ".join(error.format_message().split()))) from error
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


def _show(
    show: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any
) -> None:
    """Prints a warning of Poise's as a sentence; others keep their file and line."""
    if issubclass(category, PoiseWarning):
        echo(f"Warning: {message}", err=True)
    else:
        show(message, category, *where)


@click.command(
    cls=Poise,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with:  poise train PPO --env CartPole-v1",
)
@click.version_option(package_name="poise", prog_name="poise")
def poise() -> None:
    """Reinforcement-learning training, on a laptop in seconds."""


def main() -> None:
    """Runs the command and ends the process."""
    code = 1  # of a traceback
    # What is registered first is called last: after threads and all other handlers have ended.
    if sys.gettrace() is None:  # a debugger or a measurement of coverage has its own way out
        atexit.register(lambda: _leave(code))
    try:
        _run()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise


def _run() -> None:
    _open_streams()
    if sys.stdin.isatty() and sys.stderr.isatty():
        trust.ask = lambda said: click.confirm(f"{said}\nDo you trust it?", default=False, err=True)
    # An environment `my_module:MyEnv` may lie where the user stands; appended, so that it hides no
    # installed module.
    sys.path.append(os.getcwd())
    try:
        try:
            poise(prog_name="poise")
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        silence()  # whoever read our output (`| head`) has seen enough: drop what is buffered
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _leave(code: int) -> None:
    """Ends the process without freeing its objects: one by one, PyTorch's take 0.2 s."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _open_streams() -> None:
    """Makes the standard streams safe to use.

    Those that were closed (`>&-`) lead nowhere; in a narrow encoding, what it lacks becomes `?`.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            opened = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115  (until we end)
            setattr(sys, name, opened)
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
