"""Configurations of RLlib's dictionary years as Poise's settings.

A warning tells of everything that is left out.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

from poise.compat import cluster
from poise.compat.gym.ids import living
from poise.compat.left_out import IDLE, INSTEAD, NESTED, OTHER_SCALE, PRIORITIES, WITHOUT_EFFECT
from poise.config.agents import _asked
from poise.config.algorithms import algorithm_spec
from poise.config.hints import setting_hint
from poise.config.resolve import canonical, field_types, resolve
from poise.envs.atari import is_atari
from poise.errors import ConfigError, PoiseWarning
from poise.tuning.space import is_search, searches


def translated(
    algorithm: str, config: Mapping[str, Any], env: Any = None
) -> tuple[dict[str, Any], list[Any]]:
    """Settings and callbacks of a configuration of RLlib's.

    Args:
        algorithm: its name.
        config: as RLlib took it; it may hold searches.
        env: the environment, unless it is in the configuration.
    """
    given = {**config, **({} if env is None else {"env": env})}
    several = {**given, **(given.get("multiagent") or {})}
    callbacks = given.pop("callbacks", None)
    settings = settings_of(algorithm, given)
    if callable(settings["env"]) or several.get("policies"):
        from poise.compat.rllib.envs import modern

        policies = several.get("policies")
        known = policies if isinstance(policies, Mapping) else dict.fromkeys(policies or ())
        _refuse_classes(algorithm, known)
        settings["env"] = modern(settings["env"], known, several.get("policy_mapping_fn"))
        if callable(settings.get("policy_mapping_fn")) and known:
            _map(settings)
    if not callbacks:
        return settings, []
    from poise.compat.rllib.hooks import callbacks_of

    made, hooked = callbacks_of(callbacks)
    if hooked is not None:
        settings["wrappers"] = [*settings.get("wrappers", ()), hooked]
    return settings, made


def _refuse_classes(algorithm: str, policies: Mapping[str, Any]) -> None:
    """Refuses policies that are to act by a class of their own.

    Raises:
        ConfigError: one is; it would learn by the algorithm instead, and nobody would know.
    """
    for name, spec in policies.items():
        own = spec[0] if isinstance(spec, (tuple, list)) and spec else None
        label = getattr(own, "__name__", "")
        if own is not None and not re.fullmatch(rf"{algorithm}(TF1|TF2|TF|Torch)?Policy", label):
            raise ConfigError(
                f"policies: {name!r} is to act by {label or own!r}, and every policy learns by "
                f"{algorithm} here: rules of your own belong into the environment, and who is not "
                "to learn is left out of policies_to_train."
            )


def _map(settings: dict[str, Any]) -> None:
    """Asks once which policy acts for which agent, and leaves out the policies of none."""
    from poise.envs.tables import table_of

    made = settings["env"](dict(settings.get("env_config") or {})) \
        if callable(settings["env"]) else None  # fmt: skip
    if (table := table_of(made)) is None:
        return
    found = {str(a): str(_asked(settings["policy_mapping_fn"], str(a))) for a in table.agents}
    settings["policy_mapping_fn"], used = found, {*found.values()}
    for name in [each for each in settings["policies"] if each not in used]:
        _tell(f"policies: {name!r} acts for no agent and is left out: agents keep their policies.")
    keep = [name for name in settings["policies"] if name in used]
    own = settings["policies"]
    settings["policies"] = {n: own[n] for n in keep} if isinstance(own, Mapping) else keep
    if settings.get("policies_to_train"):
        settings["policies_to_train"] = [n for n in settings["policies_to_train"] if n in used]
    table.env.close() if hasattr(table.env, "close") else None


def settings_of(algorithm: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a configuration without callbacks, such as one in a file.

    Args:
        algorithm: its name.
        config: as RLlib took it; it may hold searches.
    """
    given = dict(config)
    env = given.pop("env", None)
    settings: dict[str, Any] = {"env": living(env) if isinstance(env, str) else env}
    exploration = given.pop("exploration_config", None) or {}
    given.update({key: value for key, value in exploration.items() if key != "type"})
    _evaluation(given)
    for key in NESTED:
        if isinstance(given.get(key), Mapping):
            given.update({f"{key}.{inner}": value for inner, value in given.pop(key).items()})
    for key, value in (given.pop("replay_buffer_config", None) or {}).items():
        if key == "type" and "Prioritized" in str(value):
            given["prioritized_replay"] = True
        name = key.removeprefix("prioritized_replay_buffer_")
        given.update({f"prioritized_replay_{name}" if name in PRIORITIES else name: value})
    for key in ("lr", "entropy_coeff"):
        if (schedule := given.pop(f"{key}_schedule", None)) is not None:
            given[key] = schedule  # in RLlib, too, it wins
    if isinstance(given.get("multiagent"), Mapping):
        given.update(given.pop("multiagent"))
    if "policies" in given or "policy_mapping_fn" in given or "policies_to_train" in given:
        given.update(_of_agents(given))
    if given.pop("observation_filter", "NoFilter") == "MeanStdFilter":
        settings["normalize_observations"] = True
    if (horizon := given.pop("horizon", None)) is not None:
        given["env_config"] = {**(given.get("env_config") or {}), "max_episode_steps": horizon}
    if isinstance(given.get("vf_share_layers"), bool):  # of the first versions
        given["model"] = {"vf_share_layers": given.pop("vf_share_layers"), **given.get("model", {})}
    spec = algorithm_spec(algorithm)[1].config
    atari = isinstance(settings["env"], str) and is_atari(settings["env"])
    pictures: dict[str, Any] = {}
    asked: int | None = None
    for key, value in given.items():
        if key in WITHOUT_EFFECT or (key in IDLE and value == IDLE[key]):
            continue
        if key in OTHER_SCALE:
            if value is not None:
                _tell(f"{key}={value!r} is left out: {OTHER_SCALE[key]}.")
        elif key in INSTEAD:
            if value not in (None, False, 0, [], {}):
                _tell(f"{key}={value!r} is left out. {INSTEAD[key]}")
        elif canonical_is(spec, key, "num_workers") and isinstance(value, int):
            asked = value or asked
        elif key in ("num_gpus", "num_gpus_per_learner") and isinstance(value, (int, float)):
            settings["num_gpus"] = min(value, 1)  # to ask for more is no error here
        elif key == "model" and isinstance(value, Mapping):
            settings["model"], pictures = _model(spec, value, atari=atari)
        elif _known(spec, key, value):
            settings[key] = value
    if (workers := cluster.workers(asked)) is not None and "num_workers" not in settings:
        settings["num_workers"] = workers
    settings |= cluster.settings()
    if pictures:
        settings["env_config"] = {**pictures, **settings.get("env_config", {})}
    return _collected(algorithm, canonical(spec, settings))


def canonical_is(spec: Any, key: str, name: str) -> bool:
    """Whether a key is a setting, or another name of it."""
    return bool(spec.aliases.get(key, key) == name)


def _evaluation(given: dict[str, Any]) -> None:
    """Makes settings of evaluations of RLlib's dictionary of these."""
    own = dict(given.pop("evaluation_config", None) or {})
    if own.get("explore") is not None:
        given["evaluation_explore"] = own.pop("explore")
    for key in ("env_config", "env", "in_evaluation", "explore"):
        if key in own and own.pop(key) not in (None, True, {}, given.get(key)):
            _tell(f"evaluation_config.{key} is left out: evaluations are in the same environment.")
    for key, value in own.items():
        if key not in WITHOUT_EFFECT and given.get(key, value) != value:
            _tell(f"evaluation_config.{key}={value!r} is left out: it is that of training.")
    if given.pop("evaluation_duration_unit", "episodes") == "timesteps":
        steps = given.pop("evaluation_duration", None)
        _tell(f"evaluation_duration={steps!r} timesteps is left out: it is counted in episodes.")
    if given.get("evaluation_duration") == "auto":
        del given["evaluation_duration"]


def _tell(text: str) -> None:
    """Warns of what is left out."""
    warnings.warn(text, PoiseWarning, stacklevel=5)


def _of_agents(multiagent: Mapping[str, Any]) -> dict[str, Any]:
    """RLlib's settings of several agents, as keys of their own; None and defaults are left out."""
    names = ("policies", "policy_mapping_fn", "policies_to_train")
    own = {key: multiagent[key] for key in names if multiagent.get(key) is not None}
    if isinstance(own.get("policies"), (set, frozenset)):
        own["policies"] = sorted(own["policies"])
    if callable(own.get("policies_to_train")):
        asked = own["policies_to_train"]
        own["policies_to_train"] = [name for name in own.get("policies", ()) if asked(name)]
    return own


def _collected(algorithm: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Leaves out what contradicts the size of a batch.

    RLlib collected fragments until it had `train_batch_size` steps. Here a batch is one fragment of
    each environment: where the three contradict each other, the size of the batch counts.
    """
    for key in ("rollout_fragment_length", "num_envs_per_worker"):
        try:
            resolve(algorithm, None, settled(settings), preset=None)
        except ConfigError as error:
            if "train_batch_size" not in str(error) or key not in settings:
                continue
            batch = f"train_batch_size={settings['train_batch_size']}"
            text = f"{key}={settings[key]!r} is left out: it contradicts {batch}."
            warnings.warn(text, PoiseWarning, stacklevel=5)
            settings = {name: value for name, value in settings.items() if name != key}
    return settings


def settled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not searched."""
    return {key: value for key, value in settings.items() if not any(searches(value))}


def best_preset(algorithm: str, settings: Mapping[str, Any]) -> str | None:
    """`auto`, or None where the environment's preset and these settings contradict each other."""
    try:
        resolve(algorithm, None, settled(settings), preset="auto")
    except ConfigError:
        return None
    return "auto"


def _model(
    spec: Any, given: Mapping[str, Any], *, atari: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of a model, and those of pictures.

    RLlib had these among them, too; here they are the environment's.
    """
    model: dict[str, Any] = {}
    env_config: dict[str, Any] = {}
    if given.get("custom_model") is not None:
        from poise.compat.rllib.models import model_settings

        return model_settings(given), {}
    for key, value in given.items():
        if f"model.{key}" in IDLE and value == IDLE[f"model.{key}"]:
            continue
        if atari and key == "dim":
            env_config["size"] = value
        elif atari and key == "framestack":
            env_config["stack"] = 4 if value else 1
        elif atari and key == "grayscale":
            env_config["grayscale"] = value
        elif _known(spec, key, value, "model."):
            model[key] = value
    return model, env_config


def _known(spec: Any, key: str, value: Any, prefix: str = "") -> bool:
    """Whether Poise has it; a warning says what comes nearest where it has not."""
    try:
        canonical(spec, {prefix + key: value})
    except ConfigError:
        known = (*field_types(spec), *spec.aliases)
        names = [name.removeprefix(prefix) for name in known if name.startswith(prefix)]
        shown = "a search" if is_search(value) else repr(value)
        hint = setting_hint(key, spec.untranslatable, names)
        text = f"{prefix}{key}={shown} has no equivalent here and is left out.{hint}"
        warnings.warn(text, PoiseWarning, stacklevel=5)
        return False
    return True
