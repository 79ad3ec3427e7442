"""`rllib train` and `rllib rollout` for Poise's command and for scripts of their own."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

import click

from poise.compat.raytune.analysis import old_path


def create_parser() -> argparse.ArgumentParser:
    """A parser of `--run`, `--env`, `--config`, `--stop` and what else there was.

    The command itself is `poise train --run=A2C --env=CartPole-v1`.
    """
    parser = argparse.ArgumentParser(description="Train an agent.")
    add = parser.add_argument
    add("--run", type=str, help="the algorithm")
    add("--env", type=str, help="the environment")
    add("--config", type=json.loads, default={}, help="settings, as JSON")
    add("--stop", type=json.loads, default={}, help="when to stop, as JSON")
    add("--ray-address", type=str, default=None, help="a cluster, for ray.init")
    add("--ray-num-cpus", type=int, default=None, help="without effect")
    add("--ray-num-gpus", type=int, default=None, help="without effect")
    add("--experiment-name", type=str, default="default")
    add("--local-dir", type=str, default="runs", help="the folder of all runs")
    add("--checkpoint-freq", type=int, default=0, help="iterations between checkpoints")
    add("--checkpoint-at-end", action="store_true", help="always done")
    add("--keep-checkpoints-num", type=int, default=None)
    add("--num-samples", type=int, default=1, help="of what the configuration searches")
    add("-v", action="store_true", help="without effect")
    add("-vv", action="store_true", help="without effect")
    return parser


@click.command()
@click.argument("checkpoint")
@click.option("--run", "algorithm", help="The algorithm, which the checkpoint knows.")
@click.option("--env", help="Another environment of the same spaces.")
@click.option(
    "--steps",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    help="Ends after so many steps, at an episode's end.",
)
@click.option(
    "--episodes",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Plays so many episodes, whatever their steps; 0 goes by --steps.",
)
@click.option("--video-dir", type=click.Path(), help="Films an episode into this folder.")
@click.option("--render/--no-render", default=False, help="Nothing is drawn: see --video-dir.")
@click.option("--config", "settings", default="{}", help="Settings as JSON, such as env_config.")
@click.option("--explore/--no-explore", default=False, help="Whether actions are sampled.")
def rollout(checkpoint: str, algorithm: str | None, env: str | None, steps: int, episodes: int,
            video_dir: str | None, render: bool, settings: str, explore: bool) -> None:  # fmt: skip
    """Play episodes with a checkpoint, as RLlib's command did.

    \b
    poise rollout runs/PPO_CartPole-v1/2026.../checkpoints/000040 --run PPO --episodes 5
    """
    from poise.api import load
    from poise.config.algorithms import algorithm_spec
    from poise.config.reading import parse_json
    from poise.errors import ConfigError
    from poise.training.recording import record

    if render:
        click.echo("--render is left out: nothing is drawn here; --video-dir films.", err=True)
    given: Mapping[str, Any] = parse_json(settings, "--config")
    trainer = load(old_path(checkpoint), env=env, env_config=given.get("env_config"))
    if algorithm and algorithm_spec(algorithm)[0] != trainer.name:
        raise ConfigError(f"--run {algorithm}: {checkpoint} is a checkpoint of {trainer.name}.")
    for key in given:
        if key not in ("env_config", "env"):
            click.echo(f"--config {key} is left out: a checkpoint has its settings.", err=True)
    taken = played = 0
    with trainer:
        while played < episodes if episodes else taken < steps:
            found = trainer.evaluate(1, explore=explore, seed=played)
            played, taken = played + 1, taken + int(found["episode_len_mean"])
            click.echo(f"Episode #{played}: reward: {found['episode_reward_mean']:g}")
        click.echo(f"{played} episodes, {taken:,} steps.")
        if video_dir:
            click.echo(f"Filmed: {record(trainer, f'{video_dir}/rollout.mp4')['path']}")
