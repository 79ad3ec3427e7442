"""`poise serve`: a policy that answers over HTTP."""

from __future__ import annotations

import os

import click

from poise.cli.listing import folder_option
from poise.cli.output import echo, takes
from poise.cli.runs import checkpoint_option, find_checkpoint, run_argument, trust_option

TOKEN = "POISE_TOKEN"
"""The variable that a token of one's own is in: nobody else sees it, as they see a flag."""


@click.command()
@takes(
    run_argument,
    checkpoint_option,
    click.option("--port", type=click.IntRange(0, 65535), metavar="INT",
                 help="The port to listen at. [default: the first free one from 7480 on]"),
    click.option("--host", default="127.0.0.1", show_default=True,
                 help="The address to listen at; another lets other machines in, unencrypted."),
    click.option("--window-ms", type=click.FloatRange(0, 1000), default=1.0, show_default=True,
                 help="How long a question waits for others, to be computed with them."),
    folder_option,
    trust_option,
)  # fmt: skip
def serve(
    run: str,
    checkpoint: str,
    port: int | None,
    host: str,
    window_ms: float,
    folder: str,
    trust: bool,
) -> None:
    """Let other programs ask a policy for actions, over HTTP.

    RUN is a run folder, the name of a run, `latest`, or a checkpoint folder. Its environment is not
    made. Every question needs the token, which is printed, or is the one in POISE_TOKEN. Ctrl-C
    ends it.
    """
    from poise.training.loading import load
    from poise.watch.serve import serve_policy

    path, _ = find_checkpoint(run, checkpoint, folder)
    own = os.environ.get(TOKEN)
    with load(path, trust=trust) as trainer:

        def say(address: str, token: str) -> None:
            echo(f"{trainer.name} on {trainer.config.env}, {path}:  {address}/act")
            shown = f"the one in {TOKEN}" if own else token
            echo(f"The token is {shown}; each question has it in `Authorization: Bearer TOKEN`.")
            echo("Ctrl-C ends this.")

        about = {"host": host, "port": port, "window_s": window_ms / 1000, "token": own}
        serve_policy(trainer, say=say, **about)  # type: ignore[arg-type]
