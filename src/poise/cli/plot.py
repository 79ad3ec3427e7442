"""`poise plot`: pictures of runs, also of such that still run.

It reads their folders alone, and needs no PyTorch.
"""

from __future__ import annotations

from pathlib import Path

import click

from poise.cli.complete import complete_run
from poise.cli.listing import folder_option
from poise.cli.output import echo, takes
from poise.errors import RunError, shown
from poise.tracking.find import STUDIES, find_runs, find_study
from poise.tracking.links import refuse_links

SEVERAL = "episodes.png"
"""Where several runs are drawn: a file where the command is given."""


@click.command()
@takes(
    click.argument("runs", metavar="RUN...", nargs=-1, required=True, shell_complete=complete_run),
    click.option("--x", default="steps", show_default=True, metavar="steps|episodes|time",
                 help="The horizontal axis."),
    click.option("--y", metavar="KEY", multiple=True,
                 help="The vertical axis: return, length, or any key of the results, such as "
                 "learner/kl or evaluation/episode_reward_mean; may be repeated. "
                 "[default: return and length, and the rating of self-play]"),
    click.option("--band", default="minmax", show_default=True, metavar="minmax|sem|ci",
                 help="Of several seeds: lowest to highest, standard error, "
                 "or 95 % interval of the mean."),
    click.option("--out", metavar="FILE",
                 help="The PNG, PDF or SVG file. "
                 f"[default: in the run's plots/; of several runs, ./{SEVERAL}]"),
    click.option("--terminal", is_flag=True, help="Draw here; a file is written only with --out."),
    folder_option,
)  # fmt: skip
def plot(
    runs: tuple[str, ...],
    x: str,
    y: tuple[str, ...],
    band: str,
    out: str | None,
    terminal: bool,
    folder: str,
) -> None:
    """Draw return and length of the episodes of runs.

    Or whatever else their results hold, one picture under the other. RUN is a run folder, the name
    of a run, `latest`, or an experiment, which means all of its runs. Runs that differ by their
    seed alone become one curve, with a band. The folder of a search means all of its trials, and
    their settings against what came of them.
    """
    found_studies = filter(None, (find_study(name, folder) for name in runs))
    studies = [study for study in found_studies if (study / STUDIES[0]).is_file()]
    if studies:
        _plot_study(studies[0], out, alone=len(runs) == 1 and not terminal)
        return
    found = {run.path.resolve(): run for name in runs for run in find_runs(name, folder)}

    from poise.tracking.curves import History, axes, panels

    sides = axes(x, y or None)[1]
    histories = [History.of_folder(run) for run in found.values()]
    pictures = panels(histories, x, y or None, band)
    waiting = ", ".join(history.name for history in histories if not history.episodes)
    if waiting and {"return", "length"} & {*sides}:
        echo(f"Left out, for no episode has ended yet: {waiting}.", err=True)
    if terminal:
        from rich.console import Console
        from rich.text import Text

        from poise.tracking.chart import print_chart

        console = Console(highlight=False)
        console.print(Text(shown(pictures[0].title)))
        for picture in pictures:
            print_chart(console, picture)
    if out or not terminal:
        from poise.tracking.plots import episode_figure, save_figure

        target = Path(SEVERAL)
        if len(found) == 1:
            [run] = found.values()
            target = run.plot.with_stem("_".join(sides).replace("/", "-") if y else "episodes")
            if not out:
                refuse_links(run.path)
        echo(save_figure(episode_figure(pictures), out or target))


def _plot_study(study: Path, out: str | None, *, alone: bool) -> None:
    if not alone:
        raise RunError(f"{study} is a search, which is drawn alone and into a file.")
    from poise.tracking.plots import save_figure
    from poise.tuning.run import load

    if not out:
        refuse_links(study)
    echo(save_figure(load(study).plot(), out or study / "study.png"))
