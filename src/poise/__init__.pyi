"""What `import poise` offers, and where it is.

It is the one list, which editors, type checkers and `poise` itself read.
"""

from poise import tune as tune
from poise.api import export as export
from poise.api import load as load
from poise.api import make_trainer as make_trainer
from poise.api import plot as plot
from poise.api import resume as resume
from poise.api import run as run
from poise.checks.check import check_env as check_env
from poise.compat.sb3 import load_sb3 as load_sb3
from poise.config.registry import register_algorithm as register_algorithm
from poise.envs.make import make_env as make_env
from poise.envs.make import register_env as register_env
from poise.envs.old_gym import OldGymEnv as OldGymEnv
from poise.envs.video import render_mp4 as render_mp4
from poise.errors import CheckpointError as CheckpointError
from poise.errors import ClusterError as ClusterError
from poise.errors import ConfigError as ConfigError
from poise.errors import DivergedError as DivergedError
from poise.errors import EnvError as EnvError
from poise.errors import ModelError as ModelError
from poise.errors import PoiseError as PoiseError
from poise.errors import PoiseWarning as PoiseWarning
from poise.errors import RunError as RunError
from poise.errors import SpaceError as SpaceError
from poise.errors import TrustError as TrustError
from poise.models.catalog import register_model as register_model
from poise.models.catalog import register_preprocessor as register_preprocessor
from poise.signatures import *  # noqa: F403  (the algorithms, each with its settings)
from poise.tracking.live import LivePlot as LivePlot
from poise.tracking.logger import LoggedRun as LoggedRun
from poise.tracking.logger import Logger as Logger
from poise.training.callbacks import Callback as Callback
from poise.training.recording import record as record
from poise.training.trainer import Trainer as Trainer
from poise.tuning.seeds import load_seeds as load_seeds
from poise.tuning.seeds import run_seeds as run_seeds
from poise.watch.doctor import diagnose as diagnose

__version__: str
