"""`poise tune`: the flags of `poise train`, any of which may be a search."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from poise.cli.complete import complete_algorithm, complete_env, complete_preset
from poise.cli.flags import KEPT, OTHER, TRAINED, Flag, given, run_options
from poise.cli.inputs import parse_stop
from poise.cli.output import echo
from poise.cli.train import EXIT_CODES, Request, TrainCommand, finish_seeds, read_settings, with_run_options, wrapped
from poise.config.algorithms import ALGORITHMS
from poise.config.presets import SPACES
from poise.config.resolve import canonical
from poise.startup import ENDING, without_collection

if TYPE_CHECKING:
    from poise.tuning.analysis import Analysis

SEARCHED = "How it is searched"
TRIALS = 20


class TuneCommand(TrainCommand):
    """`poise train` with a section more."""

    first: ClassVar[tuple[str, ...]] = (TRAINED, SEARCHED)


@with_run_options
@click.command(
    cls=TuneCommand,
    context_settings={"token_normalize_func": lambda name: name.replace("-", "_"), "max_content_width": 100},
)
@click.argument("algorithm", required=False, shell_complete=complete_algorithm)
@click.argument("env_name", metavar="[ENV]", required=False, expose_value=False, shell_complete=complete_env)
@click.option("--run", "run_name", cls=Flag, metavar="NAME", shell_complete=complete_algorithm,
              help="The algorithm, as RLlib's command spells it.")  # fmt: skip
@click.option("--stop", "stop_texts", cls=Flag, multiple=True, metavar="KEY=NUMBER",
              help="When each run ends; as for poise train. [default: after 500,000 steps]")  # fmt: skip
@click.option("--config", "config_text", cls=Flag, metavar="JSON|FILE", type=click.Path(),
              help="Settings, as for poise train, with searches in the place of some.")  # fmt: skip
@click.option("--preset", cls=Flag, metavar="NAME|none", default="auto", shell_complete=complete_preset,
              help="What is not searched. [default: the environment's, if there is one]")  # fmt: skip
@click.option("--trials", "num_samples", cls=Flag, section=SEARCHED, type=click.IntRange(1), metavar="INT",
              help=f"Trials, or repetitions of the whole grid. [default: {TRIALS}; 1 with a grid]")  # fmt: skip
@click.option("--metric", cls=Flag, section=SEARCHED, default="episode_reward_mean", metavar="KEY",
              help="The result that trials are compared by. [default: episode_reward_mean]")  # fmt: skip
@click.option("--mode", cls=Flag, section=SEARCHED, type=click.Choice(["max", "min"]), default="max",
              help="Whether more of it is better. [default: max]")  # fmt: skip
@click.option("--sampler", cls=Flag, section=SEARCHED, default="tpe",
              type=click.Choice(["tpe", "random", "gp", "cmaes", "qmc"]),
              help="Who proposes. [default: tpe]")  # fmt: skip
@click.option("--scheduler", cls=Flag, section=SEARCHED, default="none",
              type=click.Choice(["none", "asha", "hyperband", "median", "pbt"]),
              help="Who ends trials that fall behind, or (pbt) has them go on from where better ones are. "
              "[default: none]")  # fmt: skip
@click.option("--seeds", "seeds", cls=Flag, section=SEARCHED, type=click.IntRange(1), metavar="INT", default=1,
              help="Runs of each trial; the best three are confirmed with seeds that none has had. "
              "[default: 1]")  # fmt: skip
@click.option("--winners", cls=Flag, section=SEARCHED, type=click.IntRange(0), metavar="INT", default=None,
              help="Best trials that are confirmed. [default: 3 with several seeds]")  # fmt: skip
@click.option("--generations", cls=Flag, section=SEARCHED, type=click.IntRange(1), metavar="INT", default=10,
              help="With pbt: parts of a trial after each of which it is compared. [default: 10]")  # fmt: skip
@click.option("--parallel", cls=Flag, section=SEARCHED, type=click.IntRange(1), metavar="INT", default=None,
              help="Runs at a time. [default: as many as there are cores for]")  # fmt: skip
@click.option("--time-budget", "time_budget_s", cls=Flag, section=SEARCHED, type=float, metavar="SECONDS", default=None,
              help="When the search ends.")  # fmt: skip
@click.option("--folder", cls=Flag, section=KEPT, default="runs", type=click.Path(file_okay=False),
              help="The folder of all runs. [default: runs]")  # fmt: skip
@click.option("--experiment", cls=Flag, section=KEPT, metavar="NAME",
              help="The study's folder in it. [default: named after algorithm and environment]")  # fmt: skip
@click.option("--resume", "study", cls=Flag, section=OTHER, metavar="STUDY",
              help="Goes on with a study that is there: its folder. More --trials make it larger.")  # fmt: skip
@click.option("--wrap", "wrappers", cls=Flag, multiple=True, metavar="MODULE:CLASS",
              help="A wrapper around each environment, as for poise train.")  # fmt: skip
@click.option("--trust", cls=Flag, section=OTHER, is_flag=True,
              help="Lets --config or --resume run the code that it names, and remembers the names.")  # fmt: skip
@click.option("--quiet", cls=Flag, section=KEPT, is_flag=True, help="Prints only the best settings, as JSON.")
@click.pass_context
def tune(
    ctx: click.Context,
    /,
    stop_texts: tuple[str, ...],
    preset: str,
    num_samples: int | None,
    parallel: int | None,
    time_budget_s: float | None,
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
    poise tune PPO --env CartPole-v1 --stop episode_reward_mean=475 --metric timesteps_total --mode min
    poise tune PPO --env CartPole-v1 --lr 'loguniform(1e-5, 1e-2)' --gamma 'choice([0.9, 0.99])' --trials 50
    poise tune --resume runs/tune_PPO_CartPole-v1
    """
    request: Request = ctx.obj
    with without_collection(freeze=True):
        from poise.tuning import run as tuning
        from poise.tuning.population import FIXED
        from poise.tuning.space import grid, parse, searches

    words = ("metric", "mode", "sampler", "scheduler", "seeds", "winners", "generations")
    how: dict[str, Any] = {word: kept.pop(word) for word in words}
    common: dict[str, Any] = {"parallel": parallel, "time_budget_s": time_budget_s, "quiet": quiet}
    if study is not None:
        if request.algorithm or given(ctx) or stop_texts:
            raise click.UsageError("--resume takes a study as it was begun, but for more --trials: leave out the rest.")
        analysis = tuning.resume(Path(study), num_samples=num_samples, signals=ENDING, trust=trust, **common)
    elif request.algorithm is None:
        known = ", ".join(ALGORITHMS)
        raise click.UsageError(f"Say what to tune, for example poise tune PPO --env CartPole-v1. Known: {known}.")
    else:
        config = ALGORITHMS[request.algorithm].config
        settings = parse(
            {**read_settings(ctx, config, request, trusted=trust), **canonical(config, given(ctx)), **wrapped(wrappers)}
        )
        seed = settings.pop("seed", None)
        if not any(searches(settings)):
            space = parse(SPACES[request.algorithm]).items()
            lasting = FIXED if how["scheduler"] == "pbt" else ()  # cannot change while a policy learns
            settings = {**{k: v for k, v in space if not k.startswith(lasting)}, **settings}
        analysis = tuning.run(
            request.algorithm,
            config=settings,
            stop=parse_stop(stop_texts) or request.experiment.stop,
            num_samples=num_samples or (1 if len(grid(settings)) > 1 else TRIALS),
            **how,
            seed=seed or 0,
            preset=None if preset == "none" else preset,
            folder=folder,
            experiment=request.experiment.name if experiment is None else experiment,
            signals=ENDING,
            **common,
            **vars(run_options(kept)),
        )
    finish_study(ctx, analysis, quiet=quiet)


def finish_study(ctx: click.Context, analysis: Analysis, *, quiet: bool) -> None:
    """Says what was best and what to type next, and ends with the exit code that fits how the search ended."""
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
            value += f", and {best.confirmed(search):,.6g} with {len(best.held_out)} seeds that no trial has had"
        echo(f"\nThe best is trial {best.number}: {value}")
        for place, found in best.params.items():
            echo(f"  {place} = {found}")
    if not quiet:
        lines = {f"poise plot {shlex.quote(str(analysis.path))}": "draw all trials"}
        if code:
            lines = {f"poise tune --resume {shlex.quote(str(analysis.path))}": "go on from here"}
        elif best is not None:
            lines[f"poise evaluate {shlex.quote(str(analysis.best_logdir))}"] = "play the best"
        width = max(map(len, lines))
        echo("\nNext:\n" + "\n".join(f"  {command:{width}}   {what}" for command, what in lines.items()))
    ctx.exit(code)
