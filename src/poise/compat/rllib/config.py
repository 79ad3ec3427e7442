"""RLlib's configurations: the dictionaries of its first years, and the builders since 2.0.

    config = PPOConfig().environment("CartPole-v1").training(lr=3e-4)
    config["lr"] == config.lr == 3e-4

They are one thing here: a dict of what the script sets. What it leaves alone is Poise's to choose;
asked for, it is Poise's default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from poise.config.algorithms import algorithm_spec
from poise.config.base import plain
from poise.errors import nearest

NESTED = (
    "model", "env_config", "multiagent", "exploration_config", "evaluation_config", "optimization",
    "policy_model", "Q_model", "policy_model_config", "q_model_config", "replay_buffer_config",
    "tf_session_args", "local_tf_session_args", "custom_resources_per_worker", "input_config",
)  # fmt: skip
"""Settings that are dictionaries themselves."""

FIXED: dict[str, Any] = {
    "framework": "torch", "explore": True, "log_level": "WARN", "env": None, "callbacks": None,
    "observation_filter": "NoFilter", "batch_mode": "truncate_episodes", "horizon": None,
    "policies": None, "policy_mapping_fn": None, "create_env_on_driver": False,
    "evaluation_num_workers": 0, "num_cpus_per_worker": 1, "num_gpus_per_worker": 0,
    "normalize_actions": True, "clip_actions": False, "use_gae": True, "use_critic": True,
    "num_cpus_for_driver": 1,
}  # fmt: skip
"""What scripts read that is no setting of Poise's, as it is here."""

BUILDERS: dict[str, tuple[str, ...]] = {
    "environment": ("env",), "framework": ("framework",), "callbacks": ("callbacks",),
    **dict.fromkeys(
        ("api_stack", "checkpointing", "connectors", "debugging", "env_runners", "evaluation",
         "experimental", "exploration", "fault_tolerance", "learners", "multi_agent",
         "offline_data", "python_environment", "reporting", "resources", "rl_module", "rollouts",
         "training"), ()),
}  # fmt: skip
"""The builder's methods, and the names of what they take by place."""

SPELT = {"callbacks_class": "callbacks", "lambda_": "lambda", "model_config": "model"}


class Section(dict[str, Any]):
    """A configuration, or a dictionary in it.

    Args:
        given: what is set.
        algorithm: whose defaults stand for the rest.
        prefix: of the keys, among all settings.
    """

    algorithm: str
    prefix: str

    def __init__(
        self, given: Mapping[str, Any] | None = None, *, algorithm: str = "PPO", prefix: str = ""
    ) -> None:
        super().__init__(given or {})
        self.__dict__.update(algorithm=algorithm, prefix=prefix)

    def __missing__(self, key: str) -> Any:
        """Poise's default; a dictionary that is to be filled is made."""
        place, spec = self.prefix + key, algorithm_spec(self.algorithm)[1].config
        if not self.prefix and key in NESTED:
            self[key] = Section(algorithm=self.algorithm, prefix=f"{key}.")
            return self[key]
        owner: Any = spec()
        for part in spec.aliases.get(place, place).split("."):
            if not hasattr(owner, part):
                return self._fixed(key)
            owner = getattr(owner, part)
        return plain(owner)

    def _fixed(self, key: str) -> Any:
        if key in FIXED:
            return FIXED[key]
        raise KeyError(f"{key!r} is not set, and no setting of Poise's.{nearest(key, self)}")

    def copy(self, *_: Any, **__: Any) -> Any:
        """The same, with dictionaries of its own."""
        own = {k: v.copy() if isinstance(v, Section) else v for k, v in self.items()}
        made = type(self).__new__(type(self))
        Section.__init__(made, own, algorithm=self.algorithm, prefix=self.prefix)
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self.copy()

    def __reduce__(self) -> Any:
        return _again, (self.algorithm, self.prefix, dict(self))


def _again(algorithm: str, prefix: str, given: dict[str, Any]) -> Section:
    """What travels to another process."""
    return Section(given, algorithm=algorithm, prefix=prefix)


class AlgorithmConfig(Section):
    """RLlib's builder, `PPOConfig` and its siblings, which is a dictionary as well.

    Its methods (`BUILDERS`) take settings by RLlib's names and return the configuration. What has
    no equivalent is said when an algorithm is built.
    """

    algorithm = "PPO"
    environment: Callable[..., AlgorithmConfig]

    def __init__(self, given: Any = None, **_: Any) -> None:
        named = getattr(given, "algorithm", None) or self.algorithm
        known = given if isinstance(given, Mapping) else {}
        super().__init__(known, algorithm=named)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> AlgorithmConfig:
        """A configuration of a dictionary's settings."""
        return cls(given)

    @staticmethod
    def overrides(**settings: Any) -> dict[str, Any]:
        """Settings of an evaluation or a policy."""
        return settings

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[SPELT.get(name, name)]
        except KeyError as error:
            raise AttributeError(
                f"A configuration has no {name!r}.{nearest(name, [*BUILDERS, *self])}"
            ) from error

    def __setattr__(self, name: str, value: Any) -> None:
        self.put({name: value})

    def put(self, settings: Mapping[str, Any]) -> AlgorithmConfig:
        """Sets what is given; of dictionaries such as `model`, the keys that are given."""
        for key, value in settings.items():
            name = SPELT.get(key, key)
            if name.startswith("on_") and callable(value):
                self["callbacks"] = {**(self.get("callbacks") or {}), name: _by_keywords(value)}
            elif name in NESTED and isinstance(value, Mapping):
                self[name].update(value)
            else:
                self[name] = value
        return self

    def update_from_dict(self, settings: Mapping[str, Any]) -> AlgorithmConfig:
        """See `put`."""
        return self.put(settings)

    def to_dict(self) -> dict[str, Any]:
        """The settings as a dictionary of its own."""
        copied: dict[str, Any] = self.copy()
        return {k: dict(v) if isinstance(v, Section) else v for k, v in copied.items()}

    @property
    def algo_class(self) -> Any:
        """The class of its algorithm."""
        from poise.compat.rllib.registry import of_name

        return of_name(self.algorithm)

    def validate(self) -> None:
        """There is nothing to do: settings are checked when an algorithm is built."""

    freeze = validate

    def is_multi_agent(self) -> bool:
        """Whether it names several policies."""
        return bool(self.get("policies") or self["multiagent"].get("policies"))

    def build(self, env: Any = None, **_: Any) -> Any:
        """The algorithm with this configuration."""
        from poise.compat.rllib.registry import of_name

        return of_name(self.algorithm)(self, env)

    build_algo = build


def _builder(name: str, places: tuple[str, ...]) -> Callable[..., AlgorithmConfig]:
    def put(self: AlgorithmConfig, *by_place: Any, **settings: Any) -> AlgorithmConfig:
        return self.put({**dict(zip(places, by_place, strict=False)), **settings})

    put.__name__, put.__doc__ = name, "Sets what is given, and returns the configuration."
    return put


for _name, _places in BUILDERS.items():
    setattr(AlgorithmConfig, _name, _builder(_name, _places))


def _by_keywords(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that wants what the old dictionary's functions got in one mapping."""
    return lambda info: function(**info)


def with_common_config(extra: Mapping[str, Any]) -> AlgorithmConfig:
    """RLlib's common configuration with more settings."""
    return AlgorithmConfig(extra)


def DefaultModelConfig(**settings: Any) -> dict[str, Any]:  # noqa: N802
    """Settings of a network."""
    return settings


COMMON_CONFIG = AlgorithmConfig()
MODEL_DEFAULTS = Section(prefix="model.")
