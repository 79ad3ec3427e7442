"""Environments of other people's packages, each in a virtual environment of its own: train, save,
load, act, evaluate, record.

python benchmarks/third_party.py --only minigrid,crafter      `make proof ENVS=1` runs all
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import ROOT, TORCH, VENVS, Record, Results, parser, table

HEADLESS = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy", "MPLBACKEND": "agg"}
LIMIT_S = 1800
"""Of one package's check, on a busy machine."""

NO_MODE = "its metadata lists no `rgb_array`"

STEPS = ("train", "save", "load", "act", "evaluate", "record")


@dataclass(frozen=True)
class Package:
    """One package and the environment of it that is tried.

    Attributes:
        packages: what pip installs.
        env: as a user would give it to `poise.PPO`: a name, or `here:function` of this file.
        how: as a user would write it.
        settings: beside the small ones of the check.
        unfilmed: why it cannot be filmed, where it cannot.
    """

    packages: list[str]
    env: str
    how: str
    settings: dict[str, Any] = field(default_factory=dict)
    unfilmed: str = ""


def minigrid_flat(config: dict[str, Any]) -> Any:
    import gymnasium as gym

    wrappers = importlib.import_module("minigrid.wrappers")
    return wrappers.FlatObsWrapper(gym.make("MiniGrid-Empty-5x5-v0", **config))


def minigrid_image(config: dict[str, Any]) -> Any:
    import gymnasium as gym

    wrappers = importlib.import_module("minigrid.wrappers")
    return wrappers.ImgObsWrapper(gym.make("MiniGrid-Empty-5x5-v0", **config))


def scalarised(config: dict[str, Any]) -> Any:
    import numpy as np

    mo = importlib.import_module("mo_gymnasium")
    wrappers = importlib.import_module("mo_gymnasium.wrappers")
    return wrappers.LinearReward(
        mo.make("deep-sea-treasure-v0", **config), weight=np.array([0.9, 0.1])
    )


def crafter_new(config: dict[str, Any]) -> Any:
    import poise

    return poise.OldGymEnv(importlib.import_module("crafter").Env())


def tetris(config: dict[str, Any]) -> Any:
    import gymnasium as gym

    importlib.import_module("tetris_gymnasium.envs")
    return gym.make("tetris_gymnasium/Tetris", **config)


def pool(config: dict[str, Any]) -> Any:
    return importlib.import_module("envpool").make(
        "CartPole-v1", env_type="gymnasium", num_envs=8, **config
    )


PACKAGES = {
    "minigrid": Package(
        ["minigrid"], "here:minigrid_flat", 'FlatObsWrapper(gym.make("MiniGrid-Empty-5x5-v0"))'
    ),
    "minigrid-image": Package(
        ["minigrid"], "here:minigrid_image", 'ImgObsWrapper(gym.make("MiniGrid-Empty-5x5-v0"))'
    ),
    "highway-env": Package(
        ["highway-env"], "highway_env:highway-fast-v0", '"highway_env:highway-fast-v0"'
    ),
    "gymnasium-robotics": Package(
        ["gymnasium-robotics", "mujoco<3.4"],
        "gymnasium_robotics:FetchReach-v4",
        '"gymnasium_robotics:FetchReach-v4"',
    ),
    "panda-gym": Package(["panda-gym"], "panda_gym:PandaReach-v3", '"panda_gym:PandaReach-v3"'),
    "flappy-bird-gymnasium": Package(
        ["flappy-bird-gymnasium"],
        "flappy_bird_gymnasium:FlappyBird-v0",
        '"flappy_bird_gymnasium:FlappyBird-v0"',
    ),
    "mo-gymnasium": Package(
        ["mo-gymnasium"],
        "here:scalarised",
        'LinearReward(mo_gymnasium.make("deep-sea-treasure-v0"), weight=...)',
    ),
    "crafter": Package(
        ["crafter"], "here:crafter_new", "poise.OldGymEnv(crafter.Env())", unfilmed=NO_MODE
    ),
    "gym-anytrading": Package(
        ["gym-anytrading"],
        "gym_anytrading:stocks-v0",
        '"gym_anytrading:stocks-v0"',
        unfilmed=NO_MODE,
    ),
    "tetris-gymnasium": Package(
        ["tetris-gymnasium", "numpy<2.4"], "here:tetris", 'gym.make("tetris_gymnasium/Tetris")'
    ),
    "vizdoom": Package(
        ["vizdoom"],
        "vizdoom.gymnasium_wrapper:VizdoomBasic-v1",
        '"vizdoom.gymnasium_wrapper:VizdoomBasic-v1"',
    ),
    "envpool": Package(
        ["envpool"],
        "here:pool",
        'envpool.make("CartPole-v1", env_type="gymnasium", num_envs=8)',
        unfilmed="a vector environment renders no single film",
    ),
}


def installed(name: str) -> Path:
    """The Python of a package's own environment, which sees this one's packages behind its own.

    Raises:
        SystemExit: pip's last words.
    """
    home = VENVS / f"env_{name}"
    python, done = home / "bin" / "python", home / ".installed"
    wanted = PACKAGES[name].packages
    if done.is_file() and done.read_text() == " ".join(wanted):
        return python
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    folder = subprocess.check_output(
        [str(python), "-c", "import site; print(site.getsitepackages()[0])"], text=True
    )
    behind = [path for path in sys.path if path.endswith("site-packages")]
    (Path(folder.strip()) / "zz_project.pth").write_text("\n".join(behind) + "\n")
    pip = [
        str(python),
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "-c",
        str(ROOT / "constraints.txt"),
    ]
    ended = subprocess.run([*pip, *wanted, TORCH], capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit((ended.stderr.strip().splitlines() or ["pip failed"])[-1])
    done.write_text(" ".join(wanted))
    return python


def outcome(name: str) -> Record:
    """Installs a package and tries its environment; what went wrong stands in the record."""
    try:
        python = installed(name)
    except SystemExit as error:
        return {"installed": False, "why": str(error)[:200]}
    code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    version = subprocess.check_output(
        [str(python), "-c", code, PACKAGES[name].packages[0]], text=True
    ).strip()
    paths = os.pathsep.join([str(ROOT / "src"), str(Path(__file__).parent)])
    environment = {**os.environ, **HEADLESS, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"}
    start = time.perf_counter()
    command = [str(python), str(Path(__file__).resolve()), "--try", name]
    try:
        with tempfile.TemporaryDirectory() as cwd:  # some write files where they are started
            ended = subprocess.run(
                command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=LIMIT_S
            )
    except subprocess.TimeoutExpired:
        return {"installed": True, "version": version, "why": f"not done after {LIMIT_S} s"}
    lines = [line for line in ended.stdout.splitlines() if line.startswith('{"tried"')]
    told = (
        json.loads(lines[-1])
        if lines
        else {"tried": [], "why": ended.stderr.strip()[-300:] or "it ended at once"}
    )
    return {
        "installed": True,
        "version": version,
        **told,
        "took_s": round(time.perf_counter() - start, 1),
    }


def attempt(name: str) -> None:
    """Takes every step in the package's own environment; prints what was done, and what failed."""
    import poise

    package = PACKAGES[name]
    here = package.env.removeprefix("here:") if package.env.startswith("here:") else ""
    env: Any = globals()[here] if here else package.env
    tried: list[str] = []
    why = ""
    try:
        with tempfile.TemporaryDirectory() as folder:
            _steps(poise, package, env, Path(folder), tried.append)
    except poise.PoiseError as error:
        # The first line, since an environment's own traceback may follow.
        why = f"{type(error).__name__}: {error}".splitlines()[0]
    except Exception as error:  # the table shows it
        import traceback

        traceback.print_exc()
        why = f"{type(error).__name__}: {error}, not in one sentence"
    print(json.dumps({"tried": tried, "why": why[:400]}), flush=True)


def _steps(
    poise: Any, package: Package, env: Any, folder: Path, done: Callable[[str], None]
) -> None:
    small = {"rollout_fragment_length": 16, "num_sgd_iter": 1, "seed": 1, "preset": None}
    limit = {} if package.env == "here:pool" else {"env_config": {"max_episode_steps": 50}}
    settings = {"num_envs_per_worker": 2, **small, **limit, **package.settings}
    if package.env == "here:pool":
        del settings["num_envs_per_worker"]
    with poise.PPO(env, **settings) as algo:
        for _ in range(3):
            result = algo.train()
        assert result["timesteps_total"] > 0
        done("train")
        algo.save(folder / "saved")
        done("save")
        with poise.load(folder / "saved", env=env) as loaded:
            loaded.train()
            done("load")
            observation = algo.policy.obs_layout.space.sample()
            with poise.load(folder / "saved", env=env) as twin:
                first, second = (each.compute_action(observation) for each in (algo, twin))
            assert algo.policy.action_layout.space.contains(first), f"{first} is not an action"
            assert str(first) == str(second), f"{second} instead of {first}"
            done("act")
        score = algo.evaluate(2)
        assert score["episodes"] == 2
        done("evaluate")
        if not package.unfilmed:
            film = poise.record(algo, folder / "film.mp4", max_steps=60)
            assert film["frames"]
            assert (folder / "film.mp4").stat().st_size > 0
            done("record")


def shown(name: str, record: Record) -> list[str]:
    """A row of the table."""
    package = PACKAGES[name]
    if not record["installed"]:
        return [name, "-", f"`{package.how}`", "not installed", record["why"]]
    did = (
        "all"
        if record.get("tried") == list(STEPS)
        else ", ".join(record.get("tried", [])) or "nothing"
    )
    note = f"not filmed: {package.unfilmed}" if package.unfilmed else ""
    return [
        name,
        record["version"],
        f"`{package.how}`",
        did,
        " ".join((record.get("why") or note).split()),
    ]


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--only", default=",".join(PACKAGES), help="packages, by comma")
    options.add_argument("--try", dest="attempt", choices=PACKAGES, help="tries one here and now")
    args = options.parse_args()
    if args.attempt:
        attempt(args.attempt)
        return 0
    chosen = [name for name in args.only.split(",") if name]
    wrong = [name for name in chosen if name not in PACKAGES]
    if wrong:
        options.error(f"there is no {wrong[0]!r}; packages are {', '.join(PACKAGES)}")
    results = Results("third_party", quick=args.quick, fresh=args.fresh)
    print("Packages:", flush=True)
    records = {
        name: results.measure(name, lambda name=name: outcome(name))
        for name in chosen[: 2 if args.quick else None]
    }
    rows = [shown(name, record) for name, record in records.items()]
    text = (
        "Packages of other people, as a user gives them to `poise.PPO`, "
        "each in a virtual environment of its own: three iterations of training, a checkpoint, "
        "training on from it, the same action before and after, an evaluation, "
        f"and a film.\n\n{table(['Package', 'Version', 'Environment', 'Does', 'Note'], rows)}"
    )
    results.publish("Third-party environments", text, list(records.values()))
    return int(any(record.get("why") for record in records.values()))


if __name__ == "__main__":
    sys.exit(main())
