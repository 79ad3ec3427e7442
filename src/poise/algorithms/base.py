"""What algorithms have in common: a policy, an optimiser over its flat parameters, counters and state.

An algorithm sees samplers only. The trainer calls

    stats = algorithm.advance(samplers)

which takes up what was changed in the policy and calls `iteration`, the paper's loop: sample, learn, and (where
samplers live elsewhere) broadcast.
"""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from poise.config.algorithms import ALGORITHMS, AlgorithmSpec, algorithm_spec
from poise.config.base import AlgorithmConfig
from poise.config.memory import require_sizes
from poise.envs.changes import WRITTEN
from poise.errors import ConfigError, DivergedError, ModelError
from poise.learning.device import CPU, GPU
from poise.learning.optimizers import Adam, Change, Flat, Optimizer
from poise.learning.returns import advantages
from poise.learning.running import RunningMoments
from poise.learning.schedules import Points, schedule_value
from poise.learning.seeding import drawing_from, torch_generator, torch_seed
from poise.models.encoders import fastest_conv_dtype
from poise.models.policy import Policy
from poise.models.sizes import WithinMemory
from poise.sampling.group import SamplerGroup
from poise.sampling.rollout import Rollout, observation_bytes
from poise.spaces.layout import Layout

_classes: dict[str, type[Algorithm]] = {}

MAX_SKIPPED = 10
"""Updates with a non-finite gradient in a row before training stops."""


class Algorithm(ABC):
    """Base of all algorithms.

    Args:
        config: resolved configuration.
        obs_layout, action_layout: of the single spaces.
        seed: of the initial parameters and of the minibatches.

    Attributes:
        policy: the policy being learnt.
        device: where it computes.
        flat: its parameters and gradients as two vectors.
        optimizer: of these.
        timesteps: environment steps sampled so far; schedules go by it.
        updates: gradient steps taken.
        skipped: gradient steps not taken because the gradient was not finite.
        start: environment steps and gradient steps when the iteration under way began; None between iterations.
        waited: seconds of the latest iteration in which the learner waited for rollouts that were sampled beside it;
            None where sampling and learning take turns.
    """

    repeatable: bool = True
    """Whether equal seeds give equal results."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        setattr(cls, WRITTEN, dict(vars(cls)))

    def __init__(self, config: Any, obs_layout: Layout, action_layout: Layout, seed: np.random.SeedSequence) -> None:
        self.config = config
        self.device = GPU if config.num_gpus else CPU
        if config.num_gpus:
            self.repeatable = False  # sums are in whatever order they are finished
        init_seed, shuffle_seed = seed.spawn(2)
        if config.model.conv_dtype == "auto":
            config.model.conv_dtype = fastest_conv_dtype(obs_layout.leaves, self.device)
        with drawing_from(torch_seed(init_seed)), WithinMemory(config.model):
            self.policy = self.make_policy(obs_layout, action_layout).to(self.device)
        self.flat = Flat(self.policy)
        self.optimizer = self.make_optimizer()
        self.generator = torch_generator(shuffle_seed)
        self.reward_scaler = RewardScaler(config.gamma) if config.normalize_rewards else None
        self.timesteps = 0
        self.updates = 0
        self.skipped = 0
        self._skipped_in_a_row = 0
        self.start: tuple[int, int] | None = None
        self.waited: float | None = None
        self._told: set[str] = set()
        self._restored: list[str] = []  # what a checkpoint froze, until it is said

    def make_policy(self, obs_layout: Layout, action_layout: Layout) -> Policy:
        """The policy, untrained."""
        normalize = self.config.normalize_observations
        return Policy(obs_layout, action_layout, self.config.model, normalize_observations=normalize)

    def make_optimizer(self) -> Optimizer:
        """What takes gradient steps."""
        return Adam(self.flat)

    def announce(self) -> list[str]:
        """Sentences for whoever begins a new run.

        Raises:
            ConfigError: this machine cannot do what the configuration asks for.
        """
        require_sizes(self.config, observation_bytes(self.policy.obs_layout))
        return []

    def advance(self, samplers: SamplerGroup) -> dict[str, float]:
        """An iteration of a policy that may have been changed since the last; returns the learner's statistics.

        Gradients are followed whatever the caller's mode (`torch.no_grad()`, `torch.inference_mode()`). Where nothing
        was learnt that should have been, it is said once.

        Raises:
            ModelError: the policy was changed so that it cannot learn.
            DivergedError: no gradient was finite any more, or parameters overflowed, which are taken back.
        """
        with learning_mode():
            self.rebind(samplers)
            data, updates, skipped = self.flat.data.clone(), self.updates, self.skipped
            began, lr = self.start[1] if self.start else updates, self.at(self.config.lr)
            try:
                stats = self.iteration(samplers)
            except DivergedError as error:
                raise DivergedError(f"{error} {_largest(samplers)}") from None
            finally:
                self._take_back_overflow(data, samplers)
            if self.skipped > skipped == 0:
                self.say(samplers, f"Updates are skipped whose gradient is not finite. {_largest(samplers)}")
            tried = self.updates + self.skipped > updates + skipped
            if tried and lr and torch.equal(data, self.flat.data):
                self._say_why_nothing_moved(samplers, lr)
            return {**stats, "sgd_steps": self.updates - began}

    def place(self, samplers: SamplerGroup) -> SamplerGroup:
        """The samplers where this algorithm wants them: in this thread, unless it says so."""
        return samplers

    @abstractmethod
    def iteration(self, samplers: SamplerGroup) -> dict[str, float]:
        """Samples and learns in `rounds`; returns the learner's statistics."""

    def rounds(self) -> Iterator[None]:
        """As many update rounds as an iteration has (`timesteps_per_iteration`); after a halt, those that are left."""
        start, _ = self.start = self.start or (self.timesteps, self.updates)
        while True:
            yield
            if self.timesteps >= start + max(self.config.timesteps_per_iteration, 1):
                break
        self.start = None

    def rebind(self, samplers: SamplerGroup) -> None:
        """Takes up what was changed in the policy since the last iteration: parameters or layers that were replaced,
        gradients that were set to None, layers that were frozen.

        Raises:
            ModelError: nothing is left that could learn.
        """
        if self.policy.training:
            self.policy.eval()
            self.say(
                samplers, "The policy was in training mode: it acts and learns in evaluation mode, and is in it again."
            )
        change = self.flat.bind()
        if change is not None:
            self.follow(change)
            if change.rebuilt or change.places is not None:
                samplers.follow(self.policy, self.flat, self.updates)
            if change.replaced:
                self.say(samplers, _replaced(change))
        if self._restored:
            self.say(samplers, f"Frozen, as when it was saved: {_listed(self._restored)}.")
        self._restored = []
        if not torch.isfinite(self.flat.whole).all():
            raise ModelError(
                f"The policy's parameter {self.policy.overflown!r} holds numbers that are not finite, "
                "from which nothing can be learnt: give it finite ones."
            )
        if (moment := self.optimizer.overflown) is not None:
            what = f"The optimiser's {moment!r} moments hold numbers that are not finite"
            self.say(samplers, f"{what}: parameters that go by them do not move any more. Set grad_clip, begin anew.")
        if self.flat.frozen and not self.flat.places:
            raise ModelError(
                "All parameters of the policy are frozen, so that nothing can be learnt: let some learn by "
                "requires_grad_(True)."
            )

    def follow(self, change: Change) -> None:
        """Brings all that goes by the places of parameters, or is a copy of the policy, into line with it."""
        self.policy.refresh()
        if change.places is not None:
            self.optimizer.rearrange(change.places)

    def say(self, samplers: SamplerGroup, sentence: str) -> None:
        """Tells whoever trains, once."""
        if sentence not in self._told:
            self._told.add(sentence)
            samplers.tell(sentence)

    def _say_why_nothing_moved(self, samplers: SamplerGroup, lr: float) -> None:
        if not self.flat.places:
            self.say(samplers, "The model has no parameters: nothing is learnt.")
            return
        why = "the gradient was 0 throughout" if self._skipped_in_a_row == 0 else "no gradient was finite"
        self.say(samplers, f"No parameter moved in an iteration, although lr is not 0: {why}.")

    def _take_back_overflow(self, good: Tensor, samplers: SamplerGroup) -> None:
        """Puts parameters back to `good` where an iteration, even one that was broken off, left some of them infinite.
        A step's gradient is finite, and with it what the optimiser remembers; what it adds up to need not be."""
        if torch.isfinite(self.flat.data).all():
            return
        self.take_back(good)
        samplers.follow(self.policy, self.flat, self.updates)  # what was sampled ahead is of the policy taken back
        raise DivergedError(
            f"Parameters overflowed float32 after {self.timesteps} steps: training has diverged. "
            f"Lower lr ({self.at(self.config.lr):g} now), or normalise observations and rewards. "
            f"The parameters are those before this iteration. {_largest(samplers)}"
        )

    def take_back(self, good: Tensor) -> None:
        """Puts the parameters that learn back to what they were, `[P]`."""
        self.flat.data.copy_(good)

    def at(self, schedule: float | Points) -> float:
        """A schedule's value now."""
        return schedule_value(schedule, self.timesteps)

    def clip_gradient(self) -> float:
        """Clips the gradient; returns its norm before."""
        return self.flat.clip_grad_norm(self.config.grad_clip)

    def apply_gradient(self, lr: float) -> float:
        """Clips the gradient and takes one optimiser step, unless the gradient is not finite.

        Returns:
            The gradient's norm before clipping.

        Raises:
            DivergedError: `MAX_SKIPPED` gradients in a row were not finite.
        """
        norm = self.clip_gradient()
        if math.isfinite(norm):
            self.optimizer.step(lr)
            self.updates += 1
            self._skipped_in_a_row = 0
            return norm
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MAX_SKIPPED:
            raise DivergedError(
                f"The gradient was not finite {MAX_SKIPPED} times in a row after {self.timesteps} steps: training has "
                "diverged. Lower lr, or normalise observations and rewards. The parameters are those before it began."
            )
        return norm

    def descend(self, loss: Tensor, lr: float) -> float:
        """One step down the gradient of a loss; see `apply_gradient`."""
        self.flat.zero_grad()
        if loss.requires_grad:  # a custom model may have nothing to learn
            loss.backward()  # type: ignore[no-untyped-call]
        return self.apply_gradient(lr)

    def state_dict(self) -> dict[str, Any]:
        """All that a continued run needs of the learner."""
        with learning_mode():
            if (change := self.flat.bind()) is not None:
                self.follow(change)
        return {
            "frozen": self.flat.frozen,
            "policy": dict(self.policy.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "rewards": self.reward_scaler.state_dict() if self.reward_scaler else None,
            "timesteps": self.timesteps,
            "updates": self.updates,
            "skipped": self.skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
            "start": self.start,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned. What was frozen then is frozen again, and nothing else is."""
        with learning_mode():
            self.policy.load_state_dict({name: torch.as_tensor(t) for name, t in state["policy"].items()})
            for name, parameter in self.policy.named_parameters():
                parameter.requires_grad_(name not in state.get("frozen", self.flat.frozen))
            if (change := self.flat.bind()) is not None:
                self.follow(change)
        self._restored = self.flat.frozen
        self.optimizer.load_state_dict({k: torch.as_tensor(v) for k, v in state["optimizer"].items()})
        self.generator.set_state(torch.as_tensor(state["generator"]))
        if self.reward_scaler and state["rewards"] is not None:  # they may be scaled from here on
            self.reward_scaler.load_state_dict(state["rewards"])
        self.timesteps, self.updates, self.skipped = state["timesteps"], state["updates"], state["skipped"]
        self._skipped_in_a_row = state["skipped_in_a_row"]
        start = state.get("start")
        self.start = None if start is None else (start[0], start[1])


@contextmanager
def learning_mode() -> Iterator[None]:
    """Gradients are followed within the block, whatever the caller's mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _largest(samplers: SamplerGroup) -> str:
    """How large the numbers of the latest rollouts are, where that may be why gradients are not finite."""
    observed, rewards = samplers.largest()
    return f"The latest observations reach {observed:.2g}, and rewards {rewards:.2g}."


def _replaced(change: Change) -> str:
    new = "" if change.places is None else " The optimiser remembers nothing of those that are new to it."
    names = _listed(change.replaced)
    return f"Parameters of the policy were replaced ({names}): training goes on with those that are there now.{new}"


def _listed(names: list[str]) -> str:
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")


class OnPolicy(Algorithm):
    """What PPO and A2C share: rewards as the learner sees them, values of what came next, the normalisers' turn."""

    def collect(self, samplers: SamplerGroup) -> Rollout:
        """A rollout of all samplers."""
        self.warm_up(samplers)
        return samplers.collect()

    def warm_up(self, samplers: SamplerGroup) -> None:
        """The first rollout only shows the observation normaliser what observations are like: a policy that learnt from
        it would have learnt in another input space than the one it goes on in."""
        if any(moments.count == 0 for moments in self.policy.moments):
            self.finish_round(samplers.collect())
            samplers.publish(self.updates)

    def learner_reward(self, rollout: Rollout) -> Tensor:
        """Rewards `[T, B]` as they enter the loss: clipped or normalised if asked for. Reports use the raw ones."""
        if self.config.clip_rewards:
            return rollout.reward.sign()
        return self.reward_scaler(rollout) if self.reward_scaler else rollout.reward

    def next_values(self, rollout: Rollout, value: Tensor) -> Tensor:
        """Values `[T, B]` of the observation each step led to, from the values `[T + 1, B]` of all rows.

        Under NEXT_STEP that is simply the next row. Where an episode's final observation is not the next row, it is
        in `rollout.final`, and its value is put in its place.
        """
        if not rollout.final:
            return value[1:]
        result = value[1:].clone()
        leaves = {k: torch.stack([obs[k] for _, _, obs in rollout.final]) for k in rollout.obs}
        with torch.no_grad():
            finals = self.policy.critic(self.policy.prepare(leaves))
        for (t, b, _), v in zip(rollout.final, finals, strict=True):
            result[t, b] = v
        return result

    def advantages(self, rollout: Rollout, value: Tensor, rho: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """Generalized advantages `[T, B]` from the values `[T + 1, B]` of all rows; V-trace's with importance weights
        `[T, B]`."""
        return advantages(
            self.learner_reward(rollout),
            value[:-1],
            self.next_values(rollout, value),
            rollout.terminated,
            rollout.truncated,
            gamma=self.config.gamma,
            lambda_=self.config.gae_lambda,
            rho=rho,
            c=c,
        )

    def finish_round(self, rollout: Rollout) -> None:
        """Counts the steps and lets the observation normaliser see them, now that they have been learnt from."""
        self.timesteps += int(rollout.valid.sum().item())
        if self.policy.moments:
            self.policy.update_normalizer({k: v[:-1] for k, v in rollout.obs.items()}, rollout.valid)


class RewardScaler:
    """Divides rewards by the running deviation of the discounted return (Engstrom et al. 2020, arXiv 2005.12729).

    Each slot carries R_t = γ (1 - done_{t-1}) R_{t-1} + r_t; the rewards become r_t / √(Var[R] + ε), clipped to ±10.
    """

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma
        self.moments = RunningMoments(())
        self.carry: Tensor | None = None

    def __call__(self, rollout: Rollout) -> Tensor:
        """Updates the deviation with a rollout's returns and scales its rewards; `[T, B]`."""
        carry = self.carry if self.carry is not None else torch.zeros(rollout.slots, dtype=torch.float64)
        reward = (rollout.reward * rollout.valid).to(CPU)  # whatever a reset row holds
        going_on = (~(rollout.terminated | rollout.truncated)).to(CPU).double()
        returns = torch.empty(rollout.steps, rollout.slots, dtype=torch.float64)
        for t in range(rollout.steps):
            returns[t] = carry * self.gamma + reward[t]
            carry = returns[t] * going_on[t]
        self.carry = carry
        self.moments.update(returns.flatten(), rollout.valid.flatten())
        return (reward * (self.moments.var + 1e-8).rsqrt().float()).clamp_(-10, 10).to(rollout.reward.device)

    def scale(self, reward: np.ndarray) -> np.ndarray:
        """Rewards of any steps `[N]`, scaled by the deviation as it is now."""
        scaled = reward * np.float32(1 / math.sqrt(self.moments.var.item() + 1e-8))
        return np.clip(scaled, -10, 10)

    def state_dict(self) -> dict[str, Any]:
        return {**self.moments.state_dict(), "carry": self.carry}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.carry = None if state["carry"] is None else torch.as_tensor(state["carry"])
        self.moments.load_state_dict({k: torch.as_tensor(v) for k, v in state.items() if k != "carry"})


def make_algorithm(
    name: str, config: AlgorithmConfig, obs_layout: Layout, action_layout: Layout, seed: np.random.SeedSequence
) -> Algorithm:
    """The algorithm registered as `name`."""
    with learning_mode():
        return find_algorithm(name)(config, obs_layout, action_layout, seed)


def find_algorithm(name: str) -> type[Algorithm]:
    """The class registered as `name`."""
    name, spec = algorithm_spec(name)
    module, _, attribute = spec.location.partition(":")
    found: type[Algorithm] = _classes.get(name) or getattr(importlib.import_module(module), attribute)
    return found


def register_algorithm(
    name: str, algorithm: type[Algorithm], config: type[AlgorithmConfig] | None = None, summary: str = ""
) -> None:
    """Makes an algorithm known as `name`: for `poise.make_trainer`, `poise.tune.run`, and the command.

        class Careful(PPO):
            def loss(self, ...): ...

        poise.register_algorithm("Careful", Careful)

    Args:
        name: any that no algorithm of Poise has.
        algorithm: the class.
        config: its configuration; that of the class it is derived from unless given.
        summary: one line.

    Raises:
        ConfigError: the name is taken, the class is no algorithm, or it is derived from none whose configuration it
            could have.
    """
    shipped = {known.lower() for known in ALGORITHMS if known not in _classes}
    if not isinstance(algorithm, type) or not issubclass(algorithm, Algorithm):
        raise ConfigError(f"algorithm={algorithm!r} is not allowed: it must be a class derived from an algorithm.")
    if name.lower() in shipped:
        raise ConfigError(f"name={name!r} is not allowed: Poise has an algorithm of this name. Give it one of its own.")
    if config is None:
        homes = [f"{base.__module__}:{base.__qualname__}" for base in algorithm.__mro__]
        inherited = [spec.config for home in homes for spec in ALGORITHMS.values() if spec.location == home]
        if not inherited:
            raise ConfigError(f"config=None is not allowed for {algorithm.__name__}: it is derived from no algorithm.")
        config = inherited[0]
    _classes[name] = algorithm
    ALGORITHMS[name] = AlgorithmSpec(config, f"{algorithm.__module__}:{algorithm.__qualname__}", summary)


def registered_algorithm(name: str) -> tuple[AlgorithmSpec, type[Algorithm]] | None:
    """Entry and class of an algorithm that this process has registered; None of one of Poise's."""
    name, spec = algorithm_spec(name)
    own = spec.location.startswith("poise.algorithms.") and name not in _classes
    return None if own else (spec, find_algorithm(name))
