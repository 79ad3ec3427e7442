"""`poise cluster`: a cluster on this machine, and files for those of others."""

from __future__ import annotations

from pathlib import Path

import click

from poise.cli.jobs import of_cluster
from poise.cli.output import echo, takes
from poise.cluster import local as clusters
from poise.cluster import render as rendering
from poise.cluster.jobs import ENDED, Jobs
from poise.cluster.spec import read_spec


@click.group()
def cluster() -> None:
    """Start a cluster on this machine, or describe one."""


@cluster.command()
@takes(
    click.option("--nodes", type=click.IntRange(1), default=3, help="The head among them."),
    click.option("--cpus", type=click.IntRange(1), help="Of each. [default: all, shared out]"),
    click.option("--gpus", type=click.IntRange(0), default=0, help="Of the head."),
)
def local(nodes: int, cpus: int | None, gpus: int) -> None:
    """Start a cluster of several nodes on this machine."""
    echo(clusters.start(nodes=nodes, cpus=cpus, gpus=gpus))


@cluster.command()
@of_cluster
def status(address: str | None, allow_no_token: bool) -> None:
    """Say which nodes a cluster has."""
    echo(Jobs(address, allow_no_token))


@cluster.command()
@click.argument("file")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def render(file: str, command: tuple[str, ...]) -> None:
    """Print what Ray's launcher, or KubeRay, makes a cluster.toml of.

    With Kubernetes, a COMMAND after `--` is what the RayJob runs: train IMPALA ...
    """
    echo(rendering.render(read_spec(file), list(command)))


@cluster.command()
def stop() -> None:
    """End the cluster of this machine, its jobs first: each writes a checkpoint."""
    if (found := clusters.running()) is not None:
        jobs = Jobs(found.jobs)
        for job in [job for job in jobs.all() if job.state not in ENDED]:
            echo(jobs.stop(job).end)
        clusters.stop()
    said = clusters.ENDED + clusters.KEPT * bool(found and Path(found.folder, "jobs").is_dir())
    echo(said.format(**vars(found)) if found else clusters.NONE)
