"""The wheel in clean environments of every Python from 3.10 to 3.13 that is at hand: it installs,
trains, and agrees.

python benchmarks/pythons.py
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, TORCH, Record, Results, parser, table

VERSIONS = ("3.10", "3.11", "3.12", "3.13")

_TRAIN = """
import hashlib, json, platform, torch, poise
run = poise.run("PPO", "CartPole-v1", stop={"episode_reward_mean": 475}, seed=1, quiet=True)
digest = hashlib.sha256(run.trainer.algorithm.flat.data.numpy().tobytes()).hexdigest()[:16]
print(json.dumps({
    "python": platform.python_version(), "torch": torch.__version__,
    "reward": run.result["episode_reward_mean"], "steps": run.result["timesteps_total"],
    "parameters": digest,
}))
"""


def interpreter(version: str) -> str | None:
    """A Python of this version that runs; a version manager may name one that does not."""
    found = shutil.which(f"python{version}")
    works = found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0
    return found if works else None


def install_and_train(python: str) -> Record:
    """Builds the wheel, installs it into a fresh environment, and trains there."""
    with tempfile.TemporaryDirectory() as folder:
        wheels, inside = Path(folder) / "wheels", str(Path(folder) / "venv" / "bin" / "python")
        pip = ["-m", "pip", "--disable-pip-version-check", "-q"]
        for command in (
            [sys.executable, *pip, "wheel", "--no-deps", "-w", str(wheels), str(ROOT)],
            [python, "-m", "venv", str(Path(folder) / "venv")],
            [inside, *pip, "install", TORCH],
            [inside, *pip, "install", "--find-links", str(wheels), "poise", TORCH],
        ):
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
        done = subprocess.run(
            [inside, "-c", _TRAIN], cwd=folder, capture_output=True, text=True, check=True
        )
    record: Record = json.loads(done.stdout)
    return record


def main() -> int:
    args = parser(__doc__).parse_args()
    results = Results("pythons", quick=args.quick, fresh=args.fresh)
    print("Pythons:", flush=True)
    at_hand = {version: path for version in VERSIONS if (path := interpreter(version))}
    wanted = dict(list(at_hand.items())[:1]) if args.quick else at_hand
    measured = [
        results.measure(v, lambda path=path: install_and_train(path)) for v, path in wanted.items()
    ]
    rows = [
        [r["python"], r["torch"], f"{r['reward']:.1f}", f"{r['steps']:,}", f"`{r['parameters']}`"]
        for r in measured
    ]
    missing = ", ".join(version for version in VERSIONS if version not in at_hand)
    text = (
        "The wheel, built from this repository, in a fresh environment of each Python: PPO on"
        " CartPole-v1 to 475 with "
        "seed 1, and the SHA-256 of the parameters that it ends"
        f" with.{f' Not at hand: {missing}.' if missing else ''}"
        f"\n\n{table(['Python', 'PyTorch', 'Reward', 'Steps', 'Parameters'], rows)}"
    )
    results.publish("Clean environments", text, measured)
    return 0


if __name__ == "__main__":
    sys.exit(main())
