"""`poise submit`, `jobs`, `logs`, `stop`, `wait` and `fetch`: runs on a cluster, from anywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from poise.cli.listing import folder_option
from poise.cli.output import echo, takes
from poise.cluster import fetch as fetching
from poise.cluster.jobs import Job, Jobs
from poise.cluster.pack import pack
from poise.errors import nearest
from poise.files import near
from poise.tracking.find import find_run

SENT = ("train", "tune", "resume")
"""Commands that a job may run."""


of_cluster = takes(
    click.option("--address", "--cluster", "address", metavar="URL|FILE",
                 help="Of the cluster's jobs: http://HOST:8265, or the cluster.toml that says it. "
                 "[default: the cluster of this machine]"),
    click.option("--allow-no-token", is_flag=True, help="Use a cluster that asks nobody for a "
                 "token: whoever reaches it may run anything there."),
)  # fmt: skip
"""Gives a command the options that name a cluster."""


def of_job(command: Callable[..., Any]) -> Any:
    """Makes a command about a job."""
    return takes(click.command(), of_cluster, click.argument("job"))(command)


@click.command(context_settings={"allow_interspersed_args": False})
@takes(
    of_cluster,
    click.option("--name", metavar="NAME", help="Of the job. [default: the time]"),
    click.option("--working-dir", default=".", help="The folder that is sent along.  [default: .]"),
    click.option("--max-run-time", type=click.FloatRange(0), metavar="SECONDS",
                 help="Ends the run then, with a checkpoint. [default: the cluster's, or none]"),
    click.option("--no-wait", is_flag=True, help="Return as soon as the job is submitted."),
    folder_option,
    click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED),
)  # fmt: skip
def submit(
    address: str | None,
    allow_no_token: bool,
    command: tuple[str, ...],
    name: str | None,
    working_dir: str,
    max_run_time: float | None,
    no_wait: bool,
    folder: str,
) -> None:
    """Run a command on a cluster.

    \b
    poise submit -- train PPO --env CartPole-v1

    The working folder goes along; the log and the run folder come back while it runs. Ctrl-C leaves
    the job running.
    """
    words, run = checked(command, folder)
    jobs, package = Jobs(address, allow_no_token), pack(working_dir, run)
    echo(package)
    job = jobs.submit(words, package, name=name, limit=max_run_time)
    if run is not None:
        fetching.expect(run, job)
    echo(f"The job {job.id} is submitted to {jobs.address}.")
    if not no_wait:
        job, runs = fetching.watch(jobs, job, folder, echo, log=True)
        echo(job.end)
        for path in runs:
            echo(f"The run is in {near(path)}; `poise resume` goes on with it, also from here.")
        leave(job)


def checked(command: tuple[str, ...], folder: str) -> tuple[list[str], Path | None]:
    """The words of a job's command, and the run that goes on in it; mistakes are said before
    anything is sent."""
    kind, words = command[0], list(command[1:])
    if kind not in SENT:
        raise click.UsageError(
            f"A job runs `poise {'`, `poise '.join(SENT)}`, and not {kind!r}.{nearest(kind, SENT)}"
        )
    flags = [word.partition("=")[0].replace("_", "-") for word in words]
    if "--folder" in flags:
        raise click.UsageError("--folder stands before `--`: it is where the run comes back to.")
    if "--ray-address" not in flags:
        words += ["--ray-address", "auto"]
    group: Any = (context := click.get_current_context()).find_root().command
    parsed = group.get_command(context, kind).make_context(kind, list(words))
    if kind != "resume":
        return [kind, *words], None
    run = find_run(name := parsed.params["run"], folder).path.absolute()
    return [kind, f"{run.parent.name}/{run.name}", *(word for word in words if word != name)], run


def leave(job: Job) -> None:
    """Ends the command as a job has ended."""
    click.get_current_context().exit({"SUCCEEDED": 0, "STOPPED": 143}.get(job.state, 1))


@click.command()
@of_cluster
def jobs(address: str | None, allow_no_token: bool) -> None:
    """List the jobs of a cluster."""
    found = Jobs(address, allow_no_token)
    echo("\n".join(map(str, found.all())) or f"There are no jobs at {found.address} yet.")


@of_job
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends.")
def logs(address: str | None, allow_no_token: bool, job: str, follow: bool) -> None:
    """Print what a job has printed."""
    found = (cluster := Jobs(address, allow_no_token)).find(job)
    if follow:
        leave(fetching.watch(cluster, found, None, echo, log=True)[0])
    echo((cluster.read(found, None) or b"").decode(errors="replace"))


@of_job
def stop(address: str | None, allow_no_token: bool, job: str) -> None:
    """End a job, which writes a checkpoint first."""
    echo((cluster := Jobs(address, allow_no_token)).stop(cluster.find(job)).end)


@of_job
def wait(address: str | None, allow_no_token: bool, job: str) -> None:
    """Wait until a job has ended, and end as it did."""
    found = (cluster := Jobs(address, allow_no_token)).wait(cluster.find(job))
    echo(found.end)
    leave(found)


@of_job
@takes(click.option("--watch", is_flag=True, help="Go on until the job ends."), folder_option)
def fetch(address: str | None, allow_no_token: bool, job: str, watch: bool, folder: str) -> None:
    """Bring the run folder of a job, also while it runs.

    Results and the newest checkpoint come while it runs, and all of it once it has ended.
    """
    found = (cluster := Jobs(address, allow_no_token)).find(job)
    if watch:
        found = fetching.watch(cluster, found, folder, echo)[0]
    for path in fetching.fetch(cluster, found, folder):
        echo(path)
