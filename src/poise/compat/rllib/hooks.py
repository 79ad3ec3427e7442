"""RLlib's callbacks: all hooks of `DefaultCallbacks` and `RLlibCallback`, and when each is called.

Hooks of episodes are called where environments step, by a wrapper (`episodes.py`); the others here,
between iterations.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from poise.compat.azureml.core.run import folder as run_folder
from poise.errors import ConfigError, nearest
from poise.training.callbacks import Callback

IN_EPISODES = (
    "on_episode_created", "on_episode_start", "on_episode_step", "on_episode_end",
    "on_postprocess_trajectory", "on_sub_environment_created", "on_environment_created",
)  # fmt: skip
BETWEEN = (
    "on_algorithm_init", "on_trainer_init", "on_create_policy", "on_train_result", "on_sample_end",
    "on_evaluate_start", "on_evaluate_end", "on_checkpoint_loaded",
)  # fmt: skip
NEVER = {
    "on_learn_on_batch": "a loss of your own changes what is learnt (docs/ppo.md)",
    **dict.fromkeys(
        ("on_workers_recreated", "on_env_runners_recreated"),
        "poise.Callback.on_failure is told of environments and workers that are replaced",
    ),
}


class DefaultCallbacks:
    """Derive from this and override what you need.

    A hook gets what its parameters name of RLlib's names of any era: `trainer`, `algorithm`,
    `result`, `worker`, `env_runner`, `base_env`, `env`, `episode`, `policies`, `metrics_logger`...
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        self.legacy_callbacks: dict[str, Any] = {}


def _hook(name: str) -> Callable[..., None]:
    def hook(self: DefaultCallbacks, **_: Any) -> None:
        pass

    hook.__name__, hook.__doc__ = name, f"RLlib's `{name}`; it does nothing."
    return hook


for _name in (*IN_EPISODES, *BETWEEN, *NEVER):
    setattr(DefaultCallbacks, _name, _hook(_name))

RLlibCallback = DefaultCallbacks


class Hooks:
    """The hooks that a script gives.

    Args:
        given: a class of callbacks, an object of one, several of them, or a mapping of functions,
            each of which gets all that there is in one mapping.

    Raises:
        ConfigError: it has a hook that is never called here.
    """

    def __init__(self, given: Any) -> None:
        self.functions: dict[str, list[Callable[..., Any]]] = {}
        for each in given if isinstance(given, (list, tuple)) else [given]:
            self._add(each)
        for name in self.functions:
            if name not in (*IN_EPISODES, *BETWEEN):
                hint = NEVER.get(name)
                hint = f": {hint}." if hint else f".{nearest(name, IN_EPISODES + BETWEEN)}"
                raise ConfigError(f"The callback {name} is never called here{hint}")

    def _add(self, given: Any) -> None:
        if isinstance(given, Mapping):
            found = {name: _with_info(function) for name, function in given.items() if function}
        else:
            own = given() if isinstance(given, type) or not hasattr(given, "on_train_result") \
                else given  # fmt: skip
            names = [name for name in dir(own) if name.startswith("on_")]
            standard = [getattr(DefaultCallbacks, name, None) for name in names]
            found = {
                name: getattr(own, name)
                for name, ours in zip(names, standard, strict=True)
                if getattr(getattr(own, name), "__func__", None) is not ours
            }
        for name, function in found.items():
            self.functions.setdefault(name, []).append(function)

    def has(self, *names: str) -> bool:
        """Whether one of these is given."""
        return any(name in self.functions for name in names)

    def call(self, name: str, **known: Any) -> None:
        """Calls a hook with what its parameters name."""
        for function in self.functions.get(name, ()):
            parameters = inspect.signature(function).parameters
            takes_all = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
            function(**{k: v for k, v in known.items() if takes_all or k in parameters})


def _with_info(function: Callable[[dict[str, Any]], Any]) -> Callable[..., Any]:
    """A function as RLlib called it: with one mapping of everything."""
    return lambda **info: function(info)


class OldCallbacks(Callback):
    """Calls RLlib's hooks between iterations.

    Args:
        hooks: the script's.

    Attributes:
        result: the latest result as RLlib had it, with what hooks have put in.
    """

    def __init__(self, hooks: Hooks) -> None:
        self.hooks = hooks
        self.result: dict[str, Any] = {}
        self._begun = False

    def on_run_start(self, trainer: Any) -> None:
        """Once: what RLlib told when an algorithm was made."""
        if self._begun:
            return
        self._begun = True
        known = self._known(trainer)
        for name in ("on_trainer_init", "on_algorithm_init"):
            self.hooks.call(name, **known)
        view = known["algorithm"]
        for policy_id in view.policy_ids:
            policy = view.get_policy(policy_id)
            self.hooks.call("on_create_policy", policy_id=policy_id, policy=policy)
        if self.hooks.has("on_evaluate_start"):  # before each evaluation, whoever asks for it
            play = trainer.evaluate

            def evaluate(*args: Any, **how: Any) -> Any:
                self.hooks.call("on_evaluate_start", **known)
                return play(*args, **how)

            trainer.evaluate = evaluate

    def on_iteration(self, trainer: Any, result: dict[str, Any]) -> None:
        """What hooks put into the result is kept with it: numbers, by their place in it."""
        from poise.compat.rllib.results import classic, flat
        from poise.tracking.recorder import RunRecorder

        if not self.hooks.has("on_train_result", "on_sample_end"):
            return
        known = self._known(trainer)
        steps = result["timesteps_this_iter"]
        samples = SimpleNamespace(count=steps, env_steps=lambda: steps)
        workers = known["algorithm"].workers
        self.hooks.call("on_sample_end", samples=samples, worker=workers, **known)
        self.result = classic(trainer, result)
        before = dict(flat(self.result))
        recorders = [c for c in trainer.callbacks if isinstance(c, RunRecorder)]
        token = run_folder.set(recorders[0].folder.path if recorders else None)
        try:
            self.hooks.call("on_train_result", result=self.result, **known)
        finally:
            run_folder.reset(token)
        changed = {k: v for k, v in flat(self.result) if k not in before or before[k] is not v}
        result.update({k: float(v) for k, v in changed.items() if isinstance(v, (int, float))})

    def on_evaluation(self, trainer: Any, evaluation: dict[str, float]) -> None:
        from poise.compat.rllib.results import layouts

        if self.hooks.has("on_evaluate_end"):
            shown = {"evaluation": layouts(evaluation)}
            self.hooks.call("on_evaluate_end", evaluation_metrics=shown, **self._known(trainer))

    @staticmethod
    def _known(trainer: Any) -> dict[str, Any]:
        from poise.compat.rllib.algorithm import Algorithm

        view = Algorithm.around(trainer)
        return {"trainer": view, "algorithm": view, "metrics_logger": Logged({})}


class Logged:
    """RLlib's `metrics_logger`: what is logged goes into a mapping of lists."""

    def __init__(self, into: dict[str, Any]) -> None:
        self.into = into

    def log_value(self, key: Any, value: Any, **_: Any) -> None:
        """Adds a value."""
        name = key if isinstance(key, str) else "/".join(key)
        self.into[name] = [*self.into.get(name, ()), value]

    def log_dict(self, values: Mapping[str, Any], **_: Any) -> None:
        """Adds several values."""
        for key, value in values.items():
            self.log_value(key, value)

    def peek(self, key: Any, *_: Any, default: Any = None, **__: Any) -> Any:
        """The latest value."""
        return (self.into.get(key if isinstance(key, str) else "/".join(key)) or [default])[-1]


def callbacks_of(given: Any) -> tuple[list[Callback], Callable[[Any], Any] | None]:
    """Callbacks and the wrapper of environments that call a script's hooks; None without any."""
    if not given or given is DefaultCallbacks:
        return [], None
    hooks = Hooks(given)
    if not hooks.has(*IN_EPISODES):
        return [OldCallbacks(hooks)], None

    def hooked(env: Any) -> Any:
        from poise.compat.rllib.episodes import Hooked

        return Hooked(env, hooks)

    return [OldCallbacks(hooks)], hooked
