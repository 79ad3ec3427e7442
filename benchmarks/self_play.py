"""Self-play: connect four in 15 minutes, and then against players that have learnt nothing.

    python benchmarks/self_play.py --seeds 3

PPO trains with its preset and two worker processes, for so many minutes of training. The policy
that it then has plays its most likely moves, as many games on each seat: against a player who moves
at random, and one who wins if it can, else blocks if it must, else moves at random.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

from common import HERE, Record, Results, all_versions, parser, table, venv_python

GAME = "pettingzoo.classic.connect_four_v3"
PACKAGES = ("poise", "torch", "pettingzoo")
GAMES = 50
"""Games on each seat against each player."""

CODE = """
import json, sys, time, poise
from peers.seats import chance, lookahead, wins
game, minutes, games, seed = json.loads(sys.argv[1])
algo = poise.PPO(game, seed=seed, num_workers=2, progress=False)
result = algo.learn(stop={"time_total_s": 60 * minutes})
algo.close()
print(json.dumps({
    "steps": result["timesteps_total"],
    "minutes": result["time_total_s"] / 60,
    "cpu": time.process_time() / 60,
    "elo": [round(each.elo) for each in reversed(algo.opponents)],
    "random": wins(algo, chance, games),
    "lookahead": wins(algo, lookahead, games),
}))
"""


def learn(minutes: float, games: int, seed: int) -> Record:
    """Trains, and plays; wins are of the games in which the policy began, and of the others."""
    given = json.dumps([GAME, minutes, games, seed])
    command = [str(venv_python("poise", "pettingzoo==1.27.0", "pygame")), "-W", "ignore"]
    done = subprocess.run([*command, "-c", CODE, given], capture_output=True, text=True, cwd=HERE)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--minutes", type=float, default=15)
    args = options.parse_args()
    minutes, games = (0.5, 2) if args.quick else (args.minutes, GAMES)
    results = Results("self_play", quick=args.quick, fresh=args.fresh)
    found, rows = [], []
    for seed in range(1 if args.quick else args.seeds):
        run = partial(learn, minutes, games, seed)
        record = results.measure(f"{minutes:g} minutes, seed {seed}", run)
        found.append(record)
        ratings = ", ".join(map(str, record["elo"][:: max(1, len(record["elo"]) // 4)]))
        rows.append([
            seed, f"{record['steps']:,}", f"{record['minutes']:.1f}", f"{record['cpu']:.1f}",
            " + ".join(map(str, record["random"])), " + ".join(map(str, record["lookahead"])),
            f"{ratings}; {record['elo'][-1]}",
        ])  # fmt: skip
    headers = [
        "Seed", "Steps", "Minutes", "Processor, minutes", f"Against chance, of {games} + {games}",
        f"Against one step of lookahead, of {games} + {games}", "Elo of the pool; of the policy",
    ]  # fmt: skip
    body = f"{(__doc__ or '').strip().rpartition(chr(10) * 2)[2]}\n\n{table(headers, rows)}"
    versions = all_versions({"poise": venv_python("poise")}, PACKAGES)
    results.publish("Self-play: connect four", body, found, versions)
    return 0


if __name__ == "__main__":
    sys.exit(main())
