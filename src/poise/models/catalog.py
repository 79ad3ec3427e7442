"""The user's own models and preprocessors, by name.

    poise.register_model("mine", MyModule)                # model={"custom_model": "mine"}
    poise.register_preprocessor("log", LogPreprocessor)   # model={"custom_preprocessor": "log"}

A class of an importable module needs no registration: `model={"custom_model": "nets:Net"}`.

Names go into configurations and checkpoints. Loading one imports what it names only if this machine
knows it, or the user says so (`poise.envs.trust`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gymnasium import spaces

from poise.envs import trust
from poise.errors import ModelError, nearest

_models: dict[str, Callable[..., Any]] = {}
_preprocessors: dict[str, Callable[[spaces.Space], Any]] = {}


def register_model(name: str, model: Callable[..., Any]) -> None:
    """Makes a model known as `name`.

    Args:
        name: for `model={"custom_model": name}`.
        model: called as `model(observation_space, num_outputs, **custom_model_config)`; returns an
            `nn.Module` whose `forward(observation)` takes batched tensors in the structure of the
            space (floats, or bytes as they are) and returns distribution inputs
            `[N, num_outputs]` and values `[N]`. Where it takes a keyword `action_space`, it is told
            that, too.

            A class with a method `initial_state(batch)` has a memory: this returns it empty, a
            tuple of tensors `[batch, ...]`. Then `forward(observation, state, first)` gets T steps
            of B slots in turn, `[T * B, ...]`, the memory before them and where it is to be
            cleared before a step, `[T, B]` bool; it returns outputs `[T * B, num_outputs]`, values
            `[T * B]` and the memory after. T is 1 in acting.
    """
    _models[name] = model


def register_preprocessor(name: str, preprocessor: Callable[[spaces.Space], Any]) -> None:
    """Makes an observation preprocessor known as `name`.

    Args:
        name: for `model={"custom_preprocessor": name}`.
        preprocessor: called with the observation space; returns an object with a `space` (that of
            what it makes, usually a `Box`) and a method `transform(observation)`, from batched
            tensors in the structure of the observation space to batched tensors in the structure
            of `space`.
    """
    _preprocessors[name] = preprocessor


def registered_model(name: str | None) -> Callable[..., Any] | None:
    """What `register_model` was given under a name; None if nothing was."""
    return _models.get(name) if name else None


def registered_preprocessor(name: str | None) -> Callable[[spaces.Space], Any] | None:
    """What `register_preprocessor` was given under a name; None if nothing was."""
    return _preprocessors.get(name) if name else None


def find_model(name: str, config: dict[str, Any] | None = None) -> Callable[..., Any]:
    """Finds the model registered as `name`, or that `module:Class` names.

    Args:
        name: of the model.
        config: what it will be made with, which may hold names that need the user's trust, too.

    Raises:
        ModelError: there is none; the sentence has the nearest name.
    """
    return _find(name, _models, "model", "register_model", config)


def find_preprocessor(name: str) -> Callable[[spaces.Space], Any]:
    """Finds the preprocessor registered as `name`, or that `module:Class` names.

    Raises:
        ModelError: there is none; the sentence has the nearest name.
    """
    return _find(name, _preprocessors, "preprocessor", "register_preprocessor")


def _find(
    name: str,
    known: dict[str, Callable[..., Any]],
    kind: str,
    register: str,
    config: dict[str, Any] | None = None,
) -> Callable[..., Any]:
    if name in known:
        return known[name]
    if ":" in name:
        return trust.find(name, kind, ModelError, config)
    raise ModelError(
        f"There is no {kind} {name!r}.{nearest(name, known)} "
        f"Call poise.{register}({name!r}, ...) first, or give module:Class; "
        f"registered: {', '.join(known) or 'none'}."
    )
