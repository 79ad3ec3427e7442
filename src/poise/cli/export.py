"""`poise export`: a run's policy as a file that needs neither Poise nor PyTorch."""

from __future__ import annotations

from pathlib import Path

import click

from poise.cli.listing import folder_option
from poise.cli.output import echo, takes
from poise.cli.runs import (
    checkpoint_option,
    find_checkpoint,
    load_checkpoint,
    run_argument,
    trust_option,
)
from poise.tracking.links import refuse_links


@click.command()
@takes(
    run_argument,
    click.option("--to", required=True, metavar="TARGET",
                 help="`onnx`, `torch` (a program of torch.export), `numpy` (a folder that needs "
                 "NumPy alone) or `c` (one header, for small networks of vectors)."),
    click.option("--output", metavar="PATH",
                 help="The file, or the folder for `numpy`. [default: in the run's exports/]"),
    click.option("--policy", metavar="NAME",
                 help="Which policy, where several agents have several."),
    checkpoint_option,
    folder_option,
    trust_option,
)  # fmt: skip
def export(
    run: str,
    to: str,
    output: str | None,
    policy: str | None,
    checkpoint: str,
    folder: str,
    trust: bool,
) -> None:
    """Write the policy as ONNX, for PyTorch, for NumPy alone, or as C.

    RUN is a run folder, the name of a run, `latest`, or a checkpoint folder. What is written is
    compared with Poise on 10,000 observations first.
    """
    from poise.exporting.export import export as write
    from poise.exporting.export import target_named

    target = target_named(to)
    path, owner = find_checkpoint(run, checkpoint, folder)
    place = owner.path / "exports" if owner else path.parent
    if not output:
        refuse_links(owner.path if owner else path)
    with load_checkpoint(path, trust=trust) as trainer:
        made = write(trainer, to, Path(output) if output else place / target.name, policy=policy)
    for note in made.notes:
        echo(note, err=True)
    echo(made)
