"""Calling methods and setting attributes of environments, wherever they step."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import gymnasium as gym

from poise.envs.raised import own_traceback, said
from poise.errors import EnvError


@dataclass
class Call:
    """What is asked of every environment.

    Attributes:
        kind: to call a method, or to set or get an attribute.
        name: name of the method or attribute, of the environment or one of its wrappers.
        args, kwargs: arguments of the method; the one argument of `set` is the value.
    """

    kind: Literal["call", "set", "get"]
    name: str
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def of(self, env: gym.Env) -> Any:
        """Does it to one environment.

        Raises:
            EnvError: it has no such method or attribute, or its method raised.
        """
        if not env.has_wrapper_attr(self.name):
            raise EnvError(
                f"{type(env.unwrapped).__name__} has no {self.name!r}, nor has a wrapper of it."
            )
        if self.kind == "set":
            env.set_wrapper_attr(self.name, self.args[0])
            return None
        found = env.get_wrapper_attr(self.name)
        return self._called(found) if self.kind == "call" else found

    def of_batch(self, env: Any) -> list[Any]:
        """Does it to a batch: to each environment of it, or to a native one as a whole.

        Returns:
            One result for each environment; a single one from a native batch.
        """
        if hasattr(env, "call_each"):
            results: list[Any] = env.call_each(self)
            return results
        if hasattr(env, "envs"):
            return [self.of(each) for each in env.envs]
        batch = env.unwrapped
        if not hasattr(batch, self.name):
            raise EnvError(
                f"{type(batch).__name__} steps many environments as one, and has no {self.name!r}."
            )
        if self.kind == "set":
            setattr(batch, self.name, self.args[0])
            return [None]
        found = getattr(batch, self.name)
        return [self._called(found) if self.kind == "call" else found]

    def _called(self, method: Any) -> Any:
        if not callable(method):
            raise EnvError(
                f"{self.name!r} of the environment is a {type(method).__name__}, not a method."
            )
        try:
            return method(*self.args, **self.kwargs)
        except Exception as error:
            raise EnvError(
                f"{self.name!r} of the environment raised {said(error)}:\n{own_traceback(error)}"
            ) from error


def remember(calls: dict[tuple[str, str], Call], call: Call) -> None:
    """Keeps what changes an environment, for fresh instances: the latest of each name, in order."""
    if call.kind != "get":
        calls.pop((call.kind, call.name), None)
        calls[call.kind, call.name] = call
