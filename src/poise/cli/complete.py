"""Completing words in the shell: algorithms, environments, runs."""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem, get_completion_class

from poise.config.algorithms import ALGORITHMS, algorithm_names
from poise.errors import PoiseError

_INSTALL = {
    "bash": 'eval "$(poise completion bash)"       in ~/.bashrc',
    "zsh": 'eval "$(poise completion zsh)"        in ~/.zshrc',
    "fish": "poise completion fish | source        in ~/.config/fish/config.fish",
}


@click.command(
    epilog="\b\nOne line switches it on:\n" + "\n".join(f"  {line}" for line in _INSTALL.values())
)
@click.argument("shell", type=click.Choice(list(_INSTALL)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes words in your shell."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "poise", "_POISE_COMPLETE").source())


def complete_algorithm(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of algorithms, whatever the case of what was typed.

    Those of installed packages have no help: to complete a word, none of these is imported.
    """
    names = [name for name in algorithm_names() if name.lower().startswith(incomplete.lower())]
    known = {name: spec.summary for name, spec in ALGORITHMS.items()}
    return [CompletionItem(name, help=known.get(name)) for name in names]


def complete_env(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Gymnasium ids. Importing Gymnasium takes a moment, but only while completing."""
    import gymnasium

    return _starting(incomplete, gymnasium.registry)


def complete_preset(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Presets of all algorithms, and `none`."""
    from poise.config.presets import PRESETS

    names = dict.fromkeys(name for presets in PRESETS.values() for name in presets)
    return _starting(incomplete, ["none", *names])


def complete_run(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Runs in the folder of runs by name, newest first, or files where a path was begun."""
    from poise.tracking.find import all_runs, run_names

    folder = ctx.params.get("folder") or "runs"
    try:
        names = run_names(all_runs(folder)[::-1], folder)
    except (OSError, PoiseError):
        names = []
    return _starting(incomplete, ["latest", *names]) or [CompletionItem(incomplete, type="dir")]


def _starting(incomplete: str, words: Iterable[str]) -> list[CompletionItem]:
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]
