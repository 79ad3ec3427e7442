"""`poise evaluate`, `record` and `resume`: what is done with a run that is there."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poise.cli.complete import complete_run
from poise.cli.flags import Value, given, setting_flags
from poise.cli.inputs import parse_stop
from poise.cli.listing import folder_option
from poise.cli.output import echo, takes
from poise.cli.train import finish
from poise.config.algorithms import ALGORITHMS, algorithm_spec
from poise.config.run import LoggerName
from poise.errors import ConfigError, RunError
from poise.startup import ENDING
from poise.tracking.find import find_run, find_study
from poise.tracking.folder import RunFolder
from poise.tracking.links import refuse_links

if TYPE_CHECKING:
    from poise.training.trainer import Trainer

run_argument = click.argument("run", shell_complete=complete_run)
trust_option = click.option(
    "--trust", is_flag=True, help="Let it run the code that it names, and remember the names."
)
checkpoint_option = click.option(
    "--checkpoint", metavar="WHICH", default="latest", show_default=True,
    help="Which one of a run: `latest`, `best` (the highest score while training), "
    "or an iteration.",
)  # fmt: skip


def plays(episodes: int, option: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Makes a command that plays so many episodes with a run, and has an option of its own."""
    return takes(
        click.command(),
        run_argument,
        option,
        click.option("--episodes", type=click.IntRange(1), default=episodes, metavar="INT",
                     show_default=True),
        click.option("--explore", is_flag=True,
                     help="Sample actions instead of taking the most likely ones."),
        click.option("--seed", type=click.IntRange(0), default=0, metavar="INT",
                     help="Other seeds give other episodes."),
        checkpoint_option,
        folder_option,
        trust_option,
    )  # fmt: skip


@plays(100, click.option("--json", "as_json", is_flag=True, help="Print JSON."))
def evaluate(
    run: str,
    episodes: int,
    explore: bool,
    seed: int,
    checkpoint: str,
    folder: str,
    trust: bool,
    as_json: bool,
) -> None:
    """Play fresh episodes and say how good the policy is.

    RUN is a run folder, the name of a run, `latest`, or a checkpoint folder.
    """
    from poise.advice.greedy import falls_short, sentence

    path, _ = find_checkpoint(run, checkpoint, folder)
    with load_checkpoint(path, trust=trust) as trainer:
        numbers = trainer.evaluate(episodes, explore=explore, seed=seed)
        returns = [episode.reward for episode in trainer.metrics.window]
        sampled = None  # the mean of sampled actions, where a greedy policy earns much less
        if not explore and falls_short(numbers["episode_reward_mean"], returns, episodes):
            sampled = trainer.evaluate(episodes, explore=True, seed=seed)["episode_reward_mean"]
        about = {
            "algorithm": trainer.name,
            "env": trainer.config.env,
            "iteration": trainer.iteration,
        }
    if as_json:
        finite = {key: value if math.isfinite(value) else None for key, value in numbers.items()}
        if sampled is not None:
            finite["sampled_reward_mean"] = sampled
        echo(json.dumps({"checkpoint": str(path), **about, **finite}, indent=2))
        return
    echo(f"{trainer.name} on {about['env']}, {path}: {episodes} episode{'s' * (episodes != 1)}")
    reward = {end: numbers[f"episode_reward_{end}"] for end in ("mean", "std", "min", "max")}
    echo("  reward   " + "   ".join(f"{end} {value:.1f}" for end, value in reward.items()))
    echo(f"  length   mean {numbers['episode_len_mean']:.1f}")
    for key, value in numbers.items():
        if key.startswith("info/"):
            echo(f"  {key.removeprefix('info/')}   mean {value:.4g}")
    if sampled is not None:
        echo(sentence(numbers["episode_reward_mean"], sampled, f"{episodes} episodes each"))


@plays(
    1, click.option("--out", metavar="FILE", help="The MP4 file. [default: in the run's videos/]")
)
def record(
    run: str,
    out: str | None,
    episodes: int,
    explore: bool,
    seed: int,
    checkpoint: str,
    folder: str,
    trust: bool,
) -> None:
    """Film the policy; no display is needed.

    RUN is a run folder, the name of a run, `latest`, or a checkpoint folder.
    """
    from poise.training.recording import record as film

    path, owner = find_checkpoint(run, checkpoint, folder)
    place = owner.path / "videos" if owner else path.parent
    target = place / f"{path.resolve().name}.mp4"
    if not out:
        refuse_links(owner.path if owner else target)
    with load_checkpoint(path, trust=trust) as trainer:
        filmed = film(trainer, out or target, episodes=episodes, explore=explore, seed=seed)
    rewards = ", ".join(f"{reward:.1f}" for reward in filmed["episode_reward"])
    echo(f"{filmed['path']} (reward {rewards})")


class ResumeCommand(click.Command):
    """Takes the settings of all algorithms as flags, which its help leaves out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, list(args))
        except click.NoSuchOption:
            known = len(ALGORITHMS)
            self._bring_algorithm(ctx, list(args))
            if len(ALGORITHMS) == known:
                raise
        return super().parse_args(ctx, args)

    def _bring_algorithm(self, ctx: click.Context, args: list[str]) -> None:
        """Imports the module that the run's algorithm is from: then its flags are known."""
        from poise.training.names import bring_algorithm

        parser = self.make_parser(ctx)
        parser.ignore_unknown_options = True
        values, rest, _ = parser.parse_args(args)
        for word in (values.get("run"), *rest):
            with suppress(RunError, ConfigError):
                if isinstance(word, str):
                    found = find_run(word, values.get("folder") or "runs")
                    saved = found.config()
                    bring_algorithm(saved, found.path, trusted=bool(values.get("trust")))
                    algorithm_spec(saved["algorithm"])
                    return

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *setting_flags(None)]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = [param.get_help_record(ctx) for param in super().get_params(ctx)]
        with formatter.section("Options"):
            formatter.write_dl([record for record in records if record])
        formatter.write_paragraph()
        formatter.write_text(
            "Settings to go on with are flags as those of `poise train`: --num_workers 2 --lr 1e-4."
        )


@click.command(
    cls=ResumeCommand,
    context_settings={"token_normalize_func": lambda name: name.replace("-", "_")},
)
@takes(
    run_argument,
    click.option("--stop", "stop_texts", multiple=True, metavar="KEY=NUMBER",
                 help="Where to stop now; may be repeated, or one JSON object. "
                 "[default: where it was to stop]"),
    checkpoint_option,
    folder_option,
    click.option("--log", "loggers", type=Value(list[LoggerName]), metavar="LIST", default=[],
                 help="What gets the run as well from here on, for example wandb,mlflow."),
    click.option("--quiet", is_flag=True, help="Print only where the run is, at the end."),
    trust_option,
    click.pass_context,
)  # fmt: skip
def resume(
    ctx: click.Context,
    /,
    run: str,
    stop_texts: tuple[str, ...],
    checkpoint: str,
    folder: str,
    loggers: list[str],
    quiet: bool,
    trust: bool,
) -> None:
    """Go on with a run, also with other settings.

    RUN is a run folder, the name of a run, or `latest`; or the folder of a search or of several
    seeds.
    """
    if (study := find_study(run, folder)) is not None:
        from poise.cli.tune import finish_study
        from poise.tuning.run import resume as go_on_searching

        if stop_texts or given(ctx).keys() - {"ray_address"} or checkpoint != "latest" or loggers:
            raise click.UsageError(
                f"{study} is several runs, which go on as they were to: "
                "leave out --stop, --checkpoint, --log and settings but --ray-address."
            )
        how: dict[str, Any] = {"signals": ENDING, "trust": trust, "quiet": quiet}
        analysis = go_on_searching(study, **how, **given(ctx))
        finish_study(ctx, analysis, quiet=quiet)
    stop, found = parse_stop(stop_texts), find_run(run, folder)

    from poise.tracking.launch import resume as go_on

    before = found.status().get("training_iteration")
    resumed = go_on(
        found,
        stop=stop,
        overrides=given(ctx),
        which=checkpoint,
        loggers=loggers,
        signals=ENDING,
        quiet=quiet,
        trust=trust,
    )
    if resumed.trainer.iteration == before and not quiet:
        echo(
            "It was there already; --stop sets a further goal, "
            "for example --stop timesteps_total=1000000."
        )
    finish(ctx, resumed, quiet=quiet)


def find_checkpoint(run: str, which: str, root: str) -> tuple[Path, RunFolder | None]:
    """The checkpoint that is meant, and the run that it belongs to, if it lies in one.

    Raises:
        RunError: there is no such run.
        CheckpointError: the run has no such checkpoint, or none that is whole.
    """
    from poise.training import checkpoint
    from poise.training.loading import choose

    path = Path(run)
    if (path / checkpoint.MANIFEST).is_file():
        if which != "latest":
            raise RunError(
                f"{path} is a checkpoint; --checkpoint {which} chooses among those of a run."
            )
        owner = RunFolder(path.resolve().parent.parent)
        inside = path.resolve().parent == owner.checkpoints and owner.exists()
        return path, owner if inside else None
    found = find_run(run, root)
    return choose(found.path, which), found


def load_checkpoint(path: Path, *, trust: bool) -> Trainer:
    """The trainer of a checkpoint; the module that its environment will import is named."""
    from poise.envs.make import admit_env
    from poise.training.loading import load

    trainer = load(path, trust=trust)
    admit_env(trainer.config.env, trainer.config.env_config)
    module, colon, _ = str(trainer.config.env).partition(":")
    if colon:
        echo(f"Importing {module} for the environment {trainer.config.env}.", err=True)
    return trainer
