"""`train.create_parser()`: the arguments of `rllib train`, for scripts with their own `tune.run`.

The command itself is `poise train --run=A2C --env=CartPole-v0`.
"""

from __future__ import annotations

import argparse
import json


def create_parser() -> argparse.ArgumentParser:
    """A parser of `--run`, `--env`, `--config`, `--stop` and what else there was."""
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
