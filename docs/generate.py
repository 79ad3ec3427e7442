"""Writes the tables of settings, aliases, presets and commands into the pages, from the code.

    python docs/generate.py            # rewrites the marked sections
    python docs/generate.py --check    # exits with 1 if a page is out of date

A section stands between `<!-- generated: NAME -->` and `<!-- end generated -->`; `SECTIONS` knows
the names.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from poise.advice.symptoms import SYMPTOMS
from poise.cli.main import COMMANDS
from poise.cluster.spec import ClusterSpec, Group
from poise.compat import left_out
from poise.compat.names import HOMES, ROOMS
from poise.compat.ray_missing import ABSENT
from poise.compat.rllib.registry import ALGORITHMS as CLASSES
from poise.config.algorithms import ALGORITHMS
from poise.config.base import AlgorithmConfig
from poise.config.docs import field_docs
from poise.config.presets import PRESETS
from poise.config.resolve import field_types
from poise.config.run import RunOptions
from poise.config.signature import stub
from poise.config.types import describe
from poise.watch.probes import PROBES

DOCS = Path(__file__).parent
PARTS = {"head", "workers", *(f"head.{key}" for key in field_types(Group))}
"""Of a cluster: what has a table of its own."""
RESULTS = DOCS.parent / "benchmarks" / "RESULTS.md"
_SECTION = re.compile(r"(<!-- generated: ([\w ]+) -->\n).*?(<!-- end generated -->)", re.DOTALL)

RLLIB, SB3, CLEANRL = "RLlib", "Stable-Baselines3", "CleanRL"
ORIGINS: dict[str, tuple[str, ...]] = {
    "learning_rate": (SB3, CLEANRL),
    "max_grad_norm": (SB3, CLEANRL),
    "num_env_runners": (RLLIB,),
    "num_rollout_workers": (RLLIB,),
    "n_envs": (SB3,),
    "num_envs": (CLEANRL,),
    "num_envs_per_env_runner": (RLLIB,),
    "sample_batch_size": (RLLIB,),
    "min_sample_timesteps_per_iteration": (RLLIB,),
    "train_batch_size_per_learner": (RLLIB,),
    "evaluation_num_episodes": (RLLIB,),
    "policy_kwargs": (SB3,),
    "model_config": (RLLIB,),
    "model.net_arch": (SB3,),
    "model.activation_fn": (SB3,),
    "model.lstm_hidden_size": (SB3,),
    "lambda": (RLLIB,),
    "lambda_": (RLLIB,),
    "ent_coef": (SB3, CLEANRL),
    "vf_coef": (SB3, CLEANRL),
    "n_steps": (SB3,),
    "num_steps": (CLEANRL,),
    "normalize_advantage": (SB3,),
    "norm_adv": (CLEANRL,),
    "num_epochs": (RLLIB,),
    "n_epochs": (SB3,),
    "update_epochs": (CLEANRL,),
    "minibatch_size": (RLLIB,),
    "batch_size": (SB3,),
    "clip_range": (SB3,),
    "clip_coef": (CLEANRL,),
    "clip_range_vf": (SB3,),
    "epsilon": (RLLIB,),
    "decay": (RLLIB,),
    "train_freq": (SB3,),
    "train_frequency": (CLEANRL,),
    "capacity": (RLLIB,),
    "num_steps_sampled_before_learning_starts": (RLLIB,),
    "target_update_interval": (SB3,),
    "target_network_frequency": (CLEANRL,),
    "exploration_initial_eps": (SB3,),
    "replay_burn_in": (RLLIB,),
    "exploration_final_eps": (SB3,),
    "start_e": (CLEANRL,),
    "end_e": (CLEANRL,),
    "stats_window_size": (SB3,),
    "actor_lr": (RLLIB,),
    "policy_lr": (CLEANRL,),
    "q_lr": (CLEANRL,),
    "autotune": (CLEANRL,),
    "target_entropy_scale": (CLEANRL,),
    "policy_frequency": (CLEANRL,),
    "policy_noise": (CLEANRL,),
    "noise_clip": (CLEANRL,),
    "target_policy_noise": (SB3,),
    "n_critics": (SB3,),
    "model.n_critics": (SB3,),
    "n_quantiles": (SB3,),
    "model.n_quantiles": (SB3,),
    "top_quantiles_to_drop_per_net": (SB3,),
    "optimization.actor_learning_rate": (RLLIB,),
    "optimization.critic_learning_rate": (RLLIB,),
    "optimization.entropy_learning_rate": (RLLIB,),
    "policy_model.fcnet_hiddens": (RLLIB,),
    "policy_model.fcnet_activation": (RLLIB,),
    "policy_model_config.fcnet_hiddens": (RLLIB,),
    "policy_model_config.fcnet_activation": (RLLIB,),
    "Q_model.fcnet_hiddens": (RLLIB,),
    "q_model_config.fcnet_hiddens": (RLLIB,),
    "actor_hiddens": (RLLIB,),
    "critic_hiddens": (RLLIB,),
    "actor_hidden_activation": (RLLIB,),
}
"""Where an alias is at home; those that are not here stand under "elsewhere"."""


def table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(titles), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(value: Any) -> str:
    """A value as it is written in JSON and on the command line."""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def default(config: type, key: str) -> Any:
    """The default of a dotted key."""
    return reduce(getattr, key.split("."), config())


def settings_table(
    config: type, keys: Iterable[str], aliases: Mapping[str, str] | None = None
) -> str:
    """What each key is by default, means and may be."""
    types, docs = field_types(config), field_docs(config)
    rows = []
    for key in keys:
        value = default(config, key)
        shown = "derived" if value is None and "Derived:" in docs[key] else code(value)
        others = ", ".join(
            code(alias) for alias, target in (aliases or {}).items() if target == key
        )
        rows.append([code(key), shown, docs[key], describe(types[key]), others])
    if aliases is None:
        return table(("setting", "default", "meaning", "allowed"), (row[:-1] for row in rows))
    return table(("setting", "default", "meaning", "allowed", "also known as"), rows)


def own_keys(config: type[AlgorithmConfig]) -> list[str]:
    """The keys that only this algorithm has, and those of all algorithms for which it has a default
    of its own."""
    shared = field_types(AlgorithmConfig)
    keys = [key for key in field_types(config) if key not in shared]
    return keys + [key for key in shared if default(config, key) != default(AlgorithmConfig, key)]


def shared_settings() -> str:
    keys = [key for key in field_types(AlgorithmConfig) if not key.startswith("model.")]
    return settings_table(AlgorithmConfig, keys)


def model_settings() -> str:
    keys = [key for key in field_types(AlgorithmConfig) if key.startswith("model.")]
    return settings_table(AlgorithmConfig, keys)


def algorithm_settings(name: str) -> str:
    config = ALGORITHMS[name].config
    return settings_table(config, own_keys(config), config.aliases)


ELSEWHERE = {
    "PPO": {"CartPole-v0", "InvertedDoublePendulum-v5", "HalfCheetah-v5", "PongNoFrameskip-v4"},
    "A2C": {"CartPole-v0"},
    "DQN": {"CartPole-v1", "tutorial", "PongNoFrameskip-v4"},
    "IMPALA": {"PongNoFrameskip-v4"},
    "APPO": {"PongNoFrameskip-v4"},
}
"""Presets that other sections of RESULTS.md measure than those with the scores of many."""


def presets(name: str) -> str:
    """The presets of one algorithm, those with the same settings in one row, and which of them are
    measured."""
    measured = {env for env, algorithm in preset_scores() if algorithm == name} | ELSEWHERE.get(
        name, set()
    )
    rows: dict[str, list[str]] = {}
    for env, settings in PRESETS.get(name, {}).items():
        shown = ", ".join(f"`{key}={json.dumps(value)}`" for key, value in settings.items())
        rows.setdefault(shown, []).append(code(env))
    if not rows:
        return f"{name} has no presets in this version: every environment gets the defaults."
    listed = []
    for shown, envs in rows.items():
        known = [env for env in envs if env.strip("`") in measured]
        listed.append(
            [", ".join(envs), shown, "yes" if known == envs else ", ".join(known) or "no"]
        )
    return table(("environments", f"what differs from {name}'s defaults", "measured"), listed)


def aliases() -> str:
    """All aliases by the setting that they mean."""
    targets: dict[str, dict[tuple[str, ...], list[str]]] = {}
    pairs = [
        (name, alias, key)
        for name, spec in ALGORITHMS.items()
        for alias, key in spec.config.aliases.items()
    ]
    for alias, key in dict.fromkeys((alias, key) for _, alias, key in pairs):
        names = tuple(name for name, a, k in pairs if (a, k) == (alias, key))
        targets.setdefault(key, {}).setdefault(names, []).append(alias)
    rows = []
    for key, groups in targets.items():
        texts = []
        for names, words in groups.items():
            only = "" if names == tuple(ALGORITHMS) else f" ({', '.join(names)})"
            texts.append(", ".join(code(word) for word in words) + only)
        rows.append([code(key), "; ".join(texts)])
    return table(("setting", "also known as"), rows)


def origins(library: str) -> str:
    """Names of one library and what they are called here."""
    rows = []
    for alias in dict.fromkeys(
        alias for spec in ALGORITHMS.values() for alias in spec.config.aliases
    ):
        if library not in ORIGINS.get(alias, ("elsewhere",)):
            continue
        meant: dict[str, list[str]] = {}
        for name, spec in ALGORITHMS.items():
            if alias in spec.config.aliases:
                meant.setdefault(spec.config.aliases[alias], []).append(name)
        single = len(meant) == 1 and len(next(iter(meant.values()))) == len(ALGORITHMS)
        texts = [
            code(key) + ("" if single else f" ({', '.join(names)})") for key, names in meant.items()
        ]
        rows.append([code(alias), ", ".join(texts)])
    return table((f"{library}" if library != "elsewhere" else "name", "Poise"), rows)


def names_of_ray() -> str:
    """The names of RLlib and Ray Tune that there are, by the package that has them."""
    rows = []
    for room, homes in ROOMS.items():
        names = {n for home, ns in HOMES.items() if home.startswith(homes) for n in ns.split()}
        if names and room not in ("train", "air"):
            shown = "ray" if not room else f"ray.{room}"
            rows.append([code(shown), ", ".join(code(name) for name in sorted(names))])
    classes = ", ".join(code(name) for name in CLASSES)
    rows.append(
        [
            f"{code('ray.rllib.agents')}, {code('ray.rllib.algorithms')}",
            f"{classes}, "
            "each also as `...Trainer`, `...Agent` and `...Config`, and `DEFAULT_CONFIG`",
        ]
    )
    return table(("package", "names"), rows)


def left_out_of_rllib() -> str:
    """RLlib's settings that are left out with a warning, and what there is in their place."""
    grouped: dict[str, list[str]] = {}
    said = {**left_out.INSTEAD, **{key: f"{text}." for key, text in left_out.OTHER_SCALE.items()}}
    for key, text in said.items():
        grouped.setdefault(text, []).append(key)
    rows = ([", ".join(map(code, keys)), text] for text, keys in grouped.items())
    return table(("settings", "in their place"), rows)


def absent_of_ray() -> str:
    """Names of RLlib and Tune that are absent, and what there is in their place."""
    rows = [[code(pattern), f"{text[0].upper()}{text[1:]}."] for pattern, text in ABSENT.items()]
    return table(("names", "in their place"), rows)


def algorithm_table() -> str:
    shared = {"APPO": "impala", "TQC": "sac", "CrossQ": "sac", "TD3": "sac", "DDPG": "sac"}
    pages = [
        [f"[{name}]({shared.get(name, name.lower())}.md)", spec.summary]
        for name, spec in ALGORITHMS.items()
    ]
    return table(("algorithm", "what it is"), pages)


def measured(title: str) -> Callable[[], str]:
    """The table under a heading of RESULTS.md as the benchmark wrote it, so that no number is typed
    in here."""

    def copy() -> str:
        lines = RESULTS.read_text().splitlines() if RESULTS.is_file() else []
        start = next((i for i, line in enumerate(lines) if line.startswith(f"### {title}")), None)
        if start is None:
            return "Not measured yet: `make proof`."
        first = next(i for i in range(start, len(lines)) if lines[i].startswith("|"))
        last = next(
            (i for i in range(first, len(lines)) if not lines[i].startswith("|")), len(lines)
        )
        return "\n".join(lines[first:last])

    return copy


def rows_of(section: str) -> list[list[str]]:
    """The cells of the first table in a benchmark's section of RESULTS.md."""
    text = RESULTS.read_text() if RESULTS.is_file() else ""
    lines = (
        text.partition(f"<!-- {section}:start -->")[2]
        .partition(f"<!-- {section}:end -->")[0]
        .splitlines()
    )
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in lines
        if line.startswith("|")
    ][2:]


def preset_scores() -> dict[tuple[str, str], tuple[str, str]]:
    """Steps and score of the presets that were measured, by environment and algorithm."""
    scores = {(row[0], "PPO"): (row[1], row[3]) for row in rows_of("quality")}
    return scores | {(row[0], row[1]): (row[6], row[9]) for row in rows_of("past_goal")}


def measured_presets() -> str:
    """Environments and algorithms with what their presets score."""
    rows = [
        [
            code(env),
            algorithm,
            score,
            steps.partition(" (")[0],
            code(f"poise train {algorithm} --env {env}"),
        ]
        for (env, algorithm), (steps, score) in sorted(preset_scores().items())
    ]
    return table(("environment", "algorithm", "score after training", "steps", "command"), rows)


def command_table() -> str:
    return table(
        ("command", "what it does"),
        ([code(f"poise {name}"), line] for name, (_, line) in COMMANDS.items()),
    )


def faults() -> str:
    """What becomes of each environment in the tests' zoo, and what is said: the tests compare it
    with what happens."""
    sys.path.append(str(DOCS.parent / "tests"))
    import zoo

    return table(("an environment that ...", "what happens", "what you read"), zoo.table())


def symptoms() -> str:
    """What `poise doctor` tells of a run."""
    found = ((name, function.__doc__ or "") for name, (function, _) in SYMPTOMS.items())
    return table(("symptom", "what it means"), found)


SECTIONS: dict[str, Callable[[], str]] = {
    "headline": measured("The whole process"),
    "pendulum": measured("InvertedDoublePendulum-v5"),
    "pong": measured("Pong to 18"),
    "dqn cartpole": measured("DQN on CartPole-v1 to 475"),
    "impala cartpole": measured("IMPALA on CartPole-v1 to 475"),
    "stepping": measured("Stepping alone"),
    "on ray": measured("Two workers"),
    "on ray start": measured("Until a first iteration"),
    "scaling costs": measured("What a step costs"),
    "scaling": measured("Measured beside the model"),
    "scaling model": measured("The model, from 1 to 1,000 workers"),
    "tutorial search": measured("The tutorial's search"),
    "samplers": measured("Samplers"),
    "populations": measured("Populations"),
    "algorithms": algorithm_table,
    "commands": command_table,
    "faults": faults,
    "symptoms": symptoms,
    "probes": lambda: table(("task", "what is to be learnt"), PROBES.items()),
    "settings shared": shared_settings,
    "settings model": model_settings,
    "run options": lambda: settings_table(RunOptions, field_types(RunOptions)),
    "cluster": lambda: settings_table(
        ClusterSpec, {k: t for k, t in field_types(ClusterSpec).items() if k not in PARTS}
    ),
    "machines": lambda: settings_table(Group, field_types(Group)),
    "aliases": aliases,
    "names RLlib": lambda: origins(RLLIB),
    "names SB3": lambda: origins(SB3),
    "names of ray": names_of_ray,
    "left out of RLlib": left_out_of_rllib,
    "without effect": lambda: ", ".join(code(key) for key in sorted(left_out.WITHOUT_EFFECT)) + ".",
    "absent of ray": absent_of_ray,
    "names CleanRL": lambda: origins(CLEANRL),
    "names elsewhere": lambda: origins("elsewhere"),
    **{f"settings {name}": (lambda name=name: algorithm_settings(name)) for name in ALGORITHMS},
    "measured presets": measured_presets,
    **{f"presets {name}": (lambda name=name: presets(name)) for name in ALGORITHMS},
}


STUB = DOCS.parent / "src" / "poise" / "signatures.pyi"
"""What type checkers and editors read of the algorithms' settings."""


def render(text: str) -> str:
    """A page with its generated sections as the code says today."""
    return _SECTION.sub(lambda found: f"{found[1]}\n{SECTIONS[found[2]]()}\n\n{found[3]}", text)


def stale() -> dict[Path, str]:
    """The pages that are out of date, with what should be in them."""
    pages = {
        page: render(page.read_text())
        for page in (DOCS.parent / "README.md", *sorted(DOCS.glob("*.md")))
    }
    pages[STUB] = stub()
    return {page: text for page, text in pages.items() if text != page.read_text()}


def main() -> None:
    pages = stale()
    for page, text in pages.items():
        if "--check" not in sys.argv:
            page.write_text(text)
        print(f"{page.name}: {'out of date' if '--check' in sys.argv else 'rewritten'}")
    sys.exit(bool(pages and "--check" in sys.argv))


if __name__ == "__main__":
    main()
