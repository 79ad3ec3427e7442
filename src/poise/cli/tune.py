"""`poise tune`: the flags of `poise train`, any of which may be a search."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click
from click.core import ParameterSource

from poise.cli.flags import KEPT, KEPT_AS, OTHER, TRAINED, Flag, given, options_given, with_options
from poise.cli.inputs import parse_stop
from poise.cli.output import echo, echo_next, takes
from poise.cli.train import (
    EXIT_CODES,
    Request,
    TrainCommand,
    finish_seeds,
    read_settings,
    with_common,
    wrapped,
)
from poise.config.algorithms import ALGORITHMS, algorithm_names
from poise.config.resolve import canonical
from poise.config.run import RunOptions
from poise.startup import ENDING, without_collection
from poise.tuning.search import Search
from poise.tuning.space import grid, parse, searches

if TYPE_CHECKING:
    from poise.tuning.analysis import Analysis

SEARCHED = "How it is searched"
TRIALS = 20
"""Trials of a search without a grid, unless told otherwise."""
FLAGS = {"num_samples": "trials", "time_budget_s": "time-budget"}
FLAGS |= dict.fromkeys(
    ("algorithm", "config", "stop", "seed", "preset", "options", "home", "cluster"), ""
)
"""Flags of `Search` that have other names than its fields; an empty name is no flag of its own."""
GOES_ON = {"study", "num_samples", "time_budget_s", "parallel", "quiet", "trust"}
"""What may be typed beside --resume."""


class TuneCommand(TrainCommand):
    """`poise train` with a section more."""

    first: ClassVar[tuple[str, ...]] = (TRAINED, SEARCHED)


@with_options(Search, SEARCHED, FLAGS, {"num_samples": f"{TRIALS}; 1 with a grid"})
@with_options(RunOptions, KEPT, KEPT_AS)
@click.command(
    cls=TuneCommand,
    context_settings={
        "token_normalize_func": lambda name: name.replace("-", "_"),
        "max_content_width": 100,
    },
)
@takes(
    with_common,
    click.option("--stop", "stop_texts", cls=Flag, multiple=True, metavar="KEY=NUMBER",
                 help="When each run ends; as for poise train. "
                 "[default: after 500,000 steps]"),
    click.option("--parallel", cls=Flag, section=SEARCHED, type=click.IntRange(1), metavar="INT",
                 help="Runs at a time. [default: as many as there are cores for]"),
    click.option("--resume", "study", cls=Flag, section=OTHER, metavar="STUDY",
                 help="Goes on with a study that is there: its folder. "
                 "More --trials make it larger."),
    click.option("--trust", cls=Flag, section=OTHER, is_flag=True,
                 help="Lets --config or --resume run the code that it names, "
                 "and remembers the names."),
    click.option("--quiet", cls=Flag, section=KEPT, is_flag=True,
                 help="Prints only the best settings, as JSON."),
    click.pass_context,
)  # fmt: skip
def tune(
    ctx: click.Context,
    /,
    stop_texts: tuple[str, ...],
    preset: str,
    parallel: int | None,
    folder: str,
    experiment: str | None,
    study: str | None,
    quiet: bool,
    trust: bool,
    wrappers: tuple[str, ...],
    **kept: Any,
) -> None:
    """Search for settings over many runs.

    \b
    poise tune PPO --env CartPole-v1 --stop episode_reward_mean=475 \\
        --metric timesteps_total --mode min
    poise tune PPO --env CartPole-v1 --trials 50 \\
        --lr 'loguniform(1e-5, 1e-2)' --gamma 'choice([0.9, 0.99])'
    poise tune --resume runs/tune_PPO_CartPole-v1
    """
    request: Request = ctx.obj
    how = options_given(Search, kept, FLAGS)
    common: dict[str, Any] = {"parallel": parallel, "quiet": quiet, "signals": ENDING}
    with without_collection(freeze=True):
        from poise.tuning import run as tuning

    if study is not None:
        source, by_hand = ctx.get_parameter_source, ParameterSource.COMMANDLINE
        typed = {name for name in ctx.params if source(name) is by_hand}
        if given(ctx).keys() - {"ray_address"} or typed - GOES_ON:
            raise click.UsageError(
                "--resume takes a study as it was begun, but for more --trials and --ray-address: "
                "leave out the rest."
            )
        analysis = tuning.resume(Path(study), trust=trust, **given(ctx), **how, **common)
    elif request.algorithm is None:
        known = ", ".join(algorithm_names())
        raise click.UsageError(
            f"Say what to tune, for example poise tune PPO --env CartPole-v1. Known: {known}."
        )
    else:
        config = ALGORITHMS[request.algorithm].config
        written = read_settings(ctx, config, request, trusted=trust)
        settings = parse({**written, **canonical(config, given(ctx)), **wrapped(wrappers)})
        seed = settings.pop("seed", None)
        if not any(searches(settings)):
            own = _brought(request.algorithm, lasting=how.get("scheduler") == "pbt")
            settings = {**own, **settings}
        analysis = tuning.run(
            request.algorithm,
            config=settings,
            stop=parse_stop(stop_texts) or request.experiment.stop,
            **{"num_samples": 1 if len(grid(settings)) > 1 else TRIALS, **how},
            seed=seed or 0,
            preset=None if preset == "none" else preset,
            folder=folder,
            experiment=request.experiment.name if experiment is None else experiment,
            **common,
            **options_given(RunOptions, kept, KEPT_AS),
        )
    finish_study(ctx, analysis, quiet=quiet)


def _brought(algorithm: str, *, lasting: bool) -> dict[str, Any]:
    """The algorithm's own searches, for a user who searches nothing by name.

    Args:
        algorithm: its name.
        lasting: without settings that cannot change while a policy learns.
    """
    from poise.tuning.population import FIXED
    from poise.tuning.spaces import default_space

    space, sentence = default_space(algorithm)
    if sentence:
        echo(sentence, err=True)
    return {key: value for key, value in space.items() if not (lasting and key.startswith(FIXED))}


def finish_study(ctx: click.Context, analysis: Analysis, *, quiet: bool) -> None:
    """Says what was best and what to type next, and ends with the exit code that fits."""
    if analysis.study.search.repeated:
        from poise.tuning.seeds import SeedRuns

        finish_seeds(ctx, SeedRuns(analysis.study, analysis.ended), quiet=quiet)
    search, best = analysis.study.search, analysis.study.best
    code = EXIT_CODES.get(analysis.ended or "", 0)
    if quiet:
        echo(json.dumps(best.settings if best else None, default=repr))
    elif best is None:
        echo(f"\nNo trial has finished with a {search.metric} that counts.")
    else:
        value = f"{search.metric} {best.value(search):,.6g}"
        if best.held_out:
            confirmed = f"{best.confirmed(search):,.6g} with {len(best.held_out)} seeds"
            value += f", and {confirmed} that no trial has had"
        echo(f"\nThe best is trial {best.number}: {value}")
        for place, found in best.params.items():
            echo(f"  {place} = {found}")
    if not quiet:
        lines = {f"poise plot {shlex.quote(str(analysis.path))}": "draw all trials"}
        if code:
            lines = {f"poise tune --resume {shlex.quote(str(analysis.path))}": "go on from here"}
        elif best is not None:
            lines[f"poise evaluate {shlex.quote(str(analysis.best_logdir))}"] = "play the best"
        echo_next(lines)
    ctx.exit(code)
