"""Models and preprocessors of the user's own, by name.

    poise.register_model("mine", MyModule)                # model={"custom_model": "mine"}
    poise.register_preprocessor("log", LogPreprocessor)   # model={"custom_preprocessor": "log"}

Names, not import paths, go into configurations and checkpoints: loading one never imports what it names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gymnasium import spaces

from poise.errors import ModelError, nearest

_models: dict[str, Callable[..., Any]] = {}
_preprocessors: dict[str, Callable[[spaces.Space], Any]] = {}


def register_model(name: str, model: Callable[..., Any]) -> None:
    """Makes a model known as `name`.

    Args:
        name: for `model={"custom_model": name}`.
        model: called as `model(observation_space, num_outputs, **custom_model_config)`; returns an `nn.Module` whose
            `forward(observation)` takes batched tensors in the structure of the space (float where it is not bytes)
            and returns distribution inputs `[N, num_outputs]` and values `[N]`.
    """
    _models[name] = model


def register_preprocessor(name: str, preprocessor: Callable[[spaces.Space], Any]) -> None:
    """Makes an observation preprocessor known as `name`.

    Args:
        name: for `model={"custom_preprocessor": name}`.
        preprocessor: called with the observation space; returns an object with a `space` (what it makes of it, usually
            a `Box`) and a `transform(observation)` from batched tensors in the structure of the observation space to
            batched tensors in the structure of that one.
    """
    _preprocessors[name] = preprocessor


def find_model(name: str) -> Callable[..., Any]:
    """The model registered as `name`; raises `ModelError` with the nearest name."""
    return _find(name, _models, "model", "register_model")


def find_preprocessor(name: str) -> Callable[[spaces.Space], Any]:
    """The preprocessor registered as `name`; raises `ModelError` with the nearest name."""
    return _find(name, _preprocessors, "preprocessor", "register_preprocessor")


def _find(name: str, known: dict[str, Callable[..., Any]], kind: str, register: str) -> Callable[..., Any]:
    if name not in known:
        raise ModelError(
            f"There is no {kind} {name!r}.{nearest(name, known)} "
            f"Call poise.{register}({name!r}, ...) first; registered: {', '.join(known) or 'none'}."
        )
    return known[name]
