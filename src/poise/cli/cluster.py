"""`poise cluster`: a cluster on this machine, and files for those of others."""

from __future__ import annotations

import click

from poise.cli.jobs import of_cluster
from poise.cli.output import echo, takes
from poise.cluster import local as clusters
from poise.cluster.jobs import Jobs


@click.group()
def cluster() -> None:
    """Start a cluster on this machine, or describe one."""


@cluster.command()
@takes(
    click.option("--nodes", type=click.IntRange(1), default=3, help="The head among them."),
    click.option("--cpus", type=click.IntRange(1), help="Of each. [default: all, shared out]"),
    click.option("--gpus", type=click.IntRange(0), default=0, help="Of the head."),
    click.option("--port", type=int, default=clusters.PORT, help="Another, if it is taken."),
    click.option("--jobs-port", type=int, default=clusters.JOBS_PORT, help="The same."),
)
def local(nodes: int, cpus: int | None, gpus: int, port: int, jobs_port: int) -> None:
    """Start a cluster of several nodes on this machine."""
    echo(clusters.start(nodes=nodes, cpus=cpus, gpus=gpus, ports=(port, jobs_port)))


@cluster.command()
@of_cluster
def status(address: str | None, allow_no_token: bool) -> None:
    """Say which nodes a cluster has."""
    echo(Jobs(address, allow_no_token))


@cluster.command()
def stop() -> None:
    """End the cluster of this machine, its jobs first: each writes a checkpoint."""
    if (found := clusters.running()) is not None:
        Jobs(found.jobs).stop_all(echo)
        clusters.stop()
    echo(f"The cluster at {found.address} has ended." if found else clusters.NONE)
