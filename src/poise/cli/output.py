"""What the command prints: through one door, since names in it may come from files."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import click

from poise.errors import shown


def echo(text: object, *, err: bool = False) -> None:
    """Prints lines; a control character, which a terminal would obey, is shown as its code."""
    click.echo(shown(text, lines=True), err=err)


def echo_last(text: object, *, err: bool = False) -> None:
    """Prints the last lines of a command that has done its work.

    It is no failure any more if nobody reads them.
    """
    try:
        echo(text, err=err)
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            silence()


def echo_next(commands: Mapping[str, str]) -> None:
    """Prints what may be typed next, if that may be typed here: commands, and what each does."""
    if "POISE_JOB" in os.environ:  # the run is on another machine, and comes back from there
        return
    width = max(map(len, commands))
    lines = [f"  {command:{width}}   {what}" for command, what in commands.items()]
    echo_last("\n".join(["\nNext:", *lines]))


def takes(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """One decorator that stands for several, such as a command's options, the first above."""
    return lambda command: functools.reduce(
        lambda made, each: each(made), decorators[::-1], command
    )


def silence() -> None:
    """Sends standard output nowhere.

    By its number: Click may have put a wrapper in the place of the stream.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
