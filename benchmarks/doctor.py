"""What the doctor says of runs that are sick, each in its own way, and of runs that are well.

    python benchmarks/doctor.py

The sick ones are those of `tests/sick_envs.py`. The well ones are runs of presets, some of them
looked at early.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from typing import Any

from common import ROOT, Record, Results, parser, table

import poise
from poise.tracking.launch import start

sys.path.append(str(ROOT / "tests"))
from sick_envs import SICK, STEPS

WELL = [
    ("PPO", "CartPole-v1", 8_000),
    ("PPO", "CartPole-v1", 60_000),
    ("A2C", "CartPole-v0", 30_000),
    ("DQN", "CartPole-v1", 12_000),
    ("DQN", "MountainCar-v0", 20_000),
    ("IMPALA", "CartPole-v1", 40_000),
    ("APPO", "CartPole-v1", 40_000),
    ("PPO", "Acrobot-v1", 40_000),
    ("PPO", "Pendulum-v1", 60_000),
    ("PPO", "MountainCar-v0", 60_000),
    ("PPO", "MountainCarContinuous-v0", 40_000),
    ("PPO", "LunarLander-v3", 60_000),
    ("PPO", "CartPoleNoVel-v1", 20_000),
    ("PPO", "InvertedDoublePendulum-v5", 60_000),
    ("SAC", "Pendulum-v1", 9_000),
    ("TD3", "Pendulum-v1", 9_000),
]
"""Algorithm, environment and steps."""


def look(algorithm: str, env: Any, settings: dict[str, Any], steps: int, preset: str | None) -> Any:
    with tempfile.TemporaryDirectory() as root, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = start(
            algorithm, env, {"seed": 1, **settings}, preset=preset, root=root, quiet=True,
            stop={"timesteps_total": steps},
        )  # fmt: skip
        run.trainer.close()
        return poise.diagnose(run.path)


def sick(symptom: str) -> Record:
    algorithm, env, settings = SICK[symptom]
    found = look(algorithm, env, settings, STEPS.get(symptom, 20_000), None).findings
    return {"told": [each.symptom for each in found], "text": found[0].text if found else ""}


def well(algorithm: str, env: str, steps: int) -> Record:
    found = look(algorithm, env, {}, steps, "auto")
    return {"told": [each.symptom for each in found.findings], "learns": found.learns}


def main() -> int:
    args = parser(__doc__).parse_args()
    results, records, rows = Results("doctor", quick=args.quick, fresh=args.fresh), [], []
    names = list(SICK)[:3] if args.quick else list(SICK)
    for name in names:
        records.append(results.measure(f"sick: {name}", lambda n=name: sick(n)))
        told = records[-1]["told"]
        place = told.index(name) + 1 if name in told else "not told"
        rows.append([name, place, records[-1]["text"]])
    named = sum(row[1] != "not told" for row in rows)
    chosen, others = WELL[:2] if args.quick else WELL, []
    for algorithm, env, steps in chosen:
        what = f"{algorithm} on {env}, {steps:,} steps"
        record = results.measure(f"well: {what}", lambda a=algorithm, e=env, s=steps: well(a, e, s))
        records.append(record)
        learns = {True: "it learns", False: "its return has not risen", None: "too early to tell"}
        others.append([what, learns[record["learns"]], ", ".join(record["told"]) or "nothing"])
    accused = sum(row[2] != "nothing" for row in others)
    body = (
        f"Named: {named} of {len(rows)} sick runs. Accused: {accused} of {len(others)} well ones."
    )
    told = table(["What is wrong", "Place among what is told", "The first sentence"], rows)
    body += f"\n\n{told}\n\n{table(['Well', 'The doctor says', 'Accused of'], others)}"
    results.publish("The doctor", body, records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
