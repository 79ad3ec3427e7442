"""A learner beside the driver's: the process in which it learns, and what goes there.

driver, which is learner 0                      learner 1
message(algorithm, rollout)             ->      algorithm.update(rollout), in step with the others
pickled(algorithm), where they differ   ->
fingerprint(algorithm)                  ==      fingerprint(algorithm)
"""

from __future__ import annotations

import copy
import io
import os
import sys
import zlib
from typing import Any, cast

import cloudpickle
import ray
import torch
from torch import Tensor

from poise.algorithms.base import learning_mode
from poise.algorithms.on_policy import OnPolicy
from poise.cluster.connect import about_here
from poise.envs.changes import apply
from poise.errors import ClusterError
from poise.learning.group import ALONE, LostError, Ring, meeting
from poise.sampling.rollout import Rollout
from poise.sampling.wire import as_arrays, as_tensors


class LearnerActor:
    """Learns with a copy of the driver's algorithm, from the same rollouts, in step with it."""

    def greet(self, path: list[str], changed: bytes) -> dict[str, str]:
        """Gets ready.

        Args:
            path: where the driver imports from.
            changed: what the driver's script has changed in Poise, pickled by it.

        Returns:
            What must be the same on all machines, which one this is, and its address.
        """
        sys.path += [folder for folder in path if folder not in sys.path and os.path.isdir(folder)]
        apply(cloudpickle.loads(changed))
        return {**about_here(), "address": own_address()}

    def join(
        self, store: tuple[str, int], rank: int, size: int, address: str, *, gpu: bool
    ) -> bool:
        """Meets the others; whether all of them have come."""
        try:
            self.ring = Ring(meeting(*store), rank, size, address, gpu=gpu)
        except LostError:
            return False
        return True

    def update(self, sent: dict[str, Any], pickled: bytes | None) -> int | None:
        """Learns from a rollout with the others.

        Args:
            sent: see `message`.
            pickled: the driver's algorithm, where this one is not the same.

        Returns:
            The fingerprint of what was learnt; None if a learner was lost.
        """
        try:
            if pickled is not None:
                self.algorithm = unpickled(pickled)
                torch.set_num_threads(int(self.algorithm.config.num_threads))
            rollout = received(self.algorithm, sent)
            with learning_mode(), self.algorithm.in_group(self.ring):
                self.algorithm.update(rollout)
        except LostError:
            self.ring.leave()
            return None
        except BaseException:
            self.ring.leave()  # nobody waits for a learner that failed
            raise
        return fingerprint(self.algorithm)

    @ray.method(concurrency_group="meanwhile")  # type: ignore[untyped-decorator]
    def leave(self) -> None:
        """Ends an update that waits for a learner which will not come."""
        self.ring.gone = lambda: True


def own_address() -> str:
    """That of this machine, by which others of the cluster reach it."""
    address: str = cast(Any, ray.util).get_node_ip_address()
    return address


def message(algorithm: OnPolicy, rollout: Rollout) -> dict[str, Any]:
    """What an update depends on and that changes from one to the next, as arrays."""
    config, scaler = algorithm.config, algorithm.reward_scaler
    return {
        "rollout": as_arrays(vars(rollout)),
        "timesteps": algorithm.timesteps,
        "generator": as_arrays(algorithm.generator.get_state()),
        "rewards": as_arrays(scaler.state_dict()) if scaler else None,
        "buffers": as_arrays([*algorithm.policy.buffers()]),
        "config": {key: vars(config)[key] for key in config.adjustable & vars(config).keys()},
    }


def received(algorithm: OnPolicy, sent: dict[str, Any]) -> Rollout:
    """Takes up what `message` has brought, and returns its rollout."""
    sent = as_tensors(sent)
    for key, value in sent["config"].items():
        setattr(algorithm.config, key, value)
    algorithm.timesteps = sent["timesteps"]
    algorithm.generator.set_state(sent["generator"])
    for own, buffer in zip(algorithm.policy.buffers(), sent["buffers"], strict=True):
        own.copy_(buffer)
    if algorithm.reward_scaler is not None:
        algorithm.reward_scaler.carry = sent["rewards"].pop("carry")
        algorithm.reward_scaler.moments.load_state_dict(sent["rewards"])
    return Rollout(**sent["rollout"])


def fingerprint(algorithm: OnPolicy) -> int:
    """A number that is another one where a bit of a parameter is."""
    found = 0
    for learner in algorithm.learners.values():
        data: Any = learner.flat.whole.view(torch.uint8).numpy(force=True)
        found = zlib.crc32(data, found)
    return found


def pickled(algorithm: OnPolicy) -> bytes:
    """An algorithm without its environment, for other learners.

    Raises:
        ClusterError: it holds what cannot be sent.
    """
    config, together = algorithm.config, algorithm.together
    bare = copy.copy(config)
    vars(bare).update(env=None, env_config={})
    file = io.BytesIO()
    try:
        algorithm.config, algorithm.together = bare, None
        with algorithm.in_group(ALONE):
            _Pickler(file).dump(algorithm)
    except Exception as error:
        name = type(algorithm).__name__
        raise ClusterError(f"{name} cannot be sent to other learners: {error}") from error
    finally:
        algorithm.config, algorithm.together = config, together
    return file.getvalue()


def unpickled(sent: bytes) -> OnPolicy:
    """What `pickled` returned in the driver, whose child this process is."""
    algorithm: OnPolicy = cloudpickle.loads(sent)
    for learner in algorithm.learners.values():
        learner.bind()
    algorithm.policy.refresh()
    return algorithm


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Sends each tensor by itself: a view would take all of the vector along that it looks at."""

    def reducer_override(self, thing: Any) -> Any:
        if type(thing) in (Tensor, torch.nn.Parameter) and thing.dtype != torch.bfloat16:
            place = str(thing.device), thing.requires_grad, type(thing)
            return _tensor, (thing.numpy(force=True), *place)
        return super().reducer_override(thing)


def _tensor(array: Any, device: str, requires_grad: bool, kind: type) -> Any:
    tensor = torch.from_numpy(array.copy()).to(device)
    if kind is Tensor:
        return tensor.requires_grad_(requires_grad)
    return kind(tensor, requires_grad)
