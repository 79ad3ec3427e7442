"""`train.create_parser()`: the arguments of `rllib train`, for entry scripts that bring their own
`tune.run`.

The command itself is `poise train --run=A2C --env=CartPole-v0`.
"""

from __future__ import annotations

import argparse
import json


def create_parser() -> argparse.ArgumentParser:
    """A parser of `--run`, `--env`, `--config`, `--stop` and what else there was."""
    parser = argparse.ArgumentParser(description="Train an agent.")
    parser.add_argument("--run", type=str, help="the algorithm")
    parser.add_argument("--env", type=str, help="the environment")
    parser.add_argument("--config", type=json.loads, default={}, help="settings, as JSON")
    parser.add_argument("--stop", type=json.loads, default={}, help="when to stop, as JSON")
    parser.add_argument("--ray-address", type=str, default=None, help="without effect")
    parser.add_argument("--ray-num-cpus", type=int, default=None, help="without effect")
    parser.add_argument("--ray-num-gpus", type=int, default=None, help="without effect")
    parser.add_argument("--experiment-name", type=str, default="default")
    parser.add_argument("--local-dir", type=str, default="runs", help="the folder of all runs")
    parser.add_argument(
        "--checkpoint-freq", type=int, default=0, help="iterations between checkpoints"
    )
    parser.add_argument("--checkpoint-at-end", action="store_true", help="always done")
    parser.add_argument("--keep-checkpoints-num", type=int, default=None)
    parser.add_argument(
        "--num-samples", type=int, default=1, help="of what the configuration searches"
    )
    parser.add_argument("-v", action="store_true", help="without effect")
    parser.add_argument("-vv", action="store_true", help="without effect")
    return parser
