"""`poise watch`: the live page of all runs below a folder."""

from __future__ import annotations

from pathlib import Path

import click

from poise.cli.output import echo, takes


@click.command()
@takes(
    click.argument("runs", default="runs", type=click.Path(file_okay=False)),
    click.option("--port", type=click.IntRange(0, 65535),
                 help="The port to listen at. [default: the first free one from 7380 on]"),
    click.option("--host", default="127.0.0.1", show_default=True,
                 help="The address to listen at; another lets other machines in, unencrypted."),
    click.option("--stops", is_flag=True, help="Let the page ask runs to end, with a checkpoint."),
    click.option("--open", "opens", is_flag=True, help="Open the page in a browser."),
)  # fmt: skip
def watch(runs: str, port: int | None, host: str, stops: bool, opens: bool) -> None:
    """Show runs as a live page in the browser.

    RUNS is the folder of all runs, `runs` unless given. Nothing there is changed: the page reads
    what runs write, also from another machine. The address holds a token, without which nobody is
    let in. Ctrl-C ends the server, and no run.
    """
    from poise.watch.serve import serve

    def say(address: str) -> None:
        echo(f"Runs in {runs}:  {address}\nCtrl-C ends this, and no run.")
        if opens:
            click.launch(address)

    serve(Path(runs), host=host, port=port, stops=stops, say=say)
