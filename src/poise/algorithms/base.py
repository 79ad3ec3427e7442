"""What algorithms have in common: a policy, its learners, counters and state.

An algorithm sees samplers only. The trainer calls

    stats = algorithm.advance(samplers)

which takes up what was changed in the policy and calls `iteration`, the paper's loop: sample,
learn, publish.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from poise.config.memory import require_sizes
from poise.envs.changes import WRITTEN
from poise.errors import ConfigError, DivergedError, ModelError
from poise.learning.device import CPU, GPU
from poise.learning.learner import Learner
from poise.learning.optimizers import Adam, Change, Flat, Optimizer, listed, replaced
from poise.learning.schedules import Points, schedule_value
from poise.learning.seeding import drawing_from, torch_generator, torch_seed
from poise.models.central import policy_class
from poise.models.encoders import fastest_conv_dtype
from poise.models.policy import Policy
from poise.models.sizes import WithinMemory
from poise.sampling.episodes import Episode
from poise.sampling.group import SamplerGroup, largest_of
from poise.sampling.opponents import Pool
from poise.sampling.rewards import RewardScaler
from poise.sampling.rollout import Rollout, observation_bytes
from poise.spaces.layout import Layout

DEFAULT = "default"
"""The name of the policy where there is only one."""

RENAMED = {
    "apply_gradient": "descend",
    "clip_gradient": "clip",
    "update_target": "update_targets",
    "at": "scheduled",
}
"""Methods that subclasses could override under another name in earlier versions."""


class Algorithm(ABC):
    """Base of all algorithms.

    Args:
        config: the resolved configuration.
        obs_layout, action_layout: layouts of the single spaces.
        seed: of the initial parameters and of the minibatches.

    Attributes:
        policy: the policy being learnt.
        device: where it computes.
        learners: what takes gradient steps, by name; most algorithms have one, of the whole policy.
        learner: the first of them, whose parameters choose the actions.
        timesteps: environment steps sampled so far; schedules go by it.
        start: environment steps and gradient steps when the current iteration began; None between
            iterations.
        waited: seconds of the latest iteration in which the learner waited for rollouts that were
            sampled beside it; None where sampling and learning take turns.
    """

    repeatable: bool = True
    """Whether equal seeds give equal results."""

    opponents: Pool | None = None
    """The earlier selves that a policy plays, with several agents and `opponents`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for old in sorted(RENAMED.keys() & vars(cls).keys()):
            raise ConfigError(f"{cls.__name__}.{old} is not called: it is {RENAMED[old]} now.")
        setattr(cls, WRITTEN, dict(vars(cls)))

    def __init__(
        self, config: Any, obs_layout: Layout, action_layout: Layout, seed: np.random.SeedSequence
    ) -> None:
        self.config = config
        self.device = GPU if config.num_gpus else CPU
        if config.num_gpus:
            self.repeatable = False  # GPUs add numbers in no fixed order
        init_seed, shuffle_seed = seed.spawn(2)
        if config.model.conv_dtype == "auto":
            config.model.conv_dtype = fastest_conv_dtype(obs_layout.leaves, self.device)
        with drawing_from(torch_seed(init_seed)), WithinMemory(config.model):
            self.policy = self.make_policy(obs_layout, action_layout).to(self.device)
        self.learners = self.make_learners()
        self.learner = next(iter(self.learners.values()))
        self.generator = torch_generator(shuffle_seed)
        self.reward_scaler = RewardScaler(config.gamma) if config.normalize_rewards else None
        self.timesteps = 0
        self.start: tuple[int, int] | None = None
        self.waited: float | None = None
        self._told: set[str] = set()
        self._restored: list[str] = []  # parameters that a checkpoint froze, until it is said
        # By learner, until `rebind` has told the samplers.
        self._changes: list[tuple[str, Change]] = []

    def make_policy(self, obs_layout: Layout, action_layout: Layout) -> Policy:
        """Makes the policy, untrained."""
        config, normalize = self.config.model, self.config.normalize_observations
        kind = policy_class(obs_layout, config)
        return kind(obs_layout, action_layout, config, normalize_observations=normalize)

    def make_learners(self) -> dict[str, Learner]:
        """Makes what takes gradient steps, by the names that it has in checkpoints."""
        return {"policy": Learner(self.policy, self.make_optimizer, self.clip)}

    def make_optimizer(self, flat: Flat) -> Optimizer:
        """Makes the optimiser of a learner."""
        return Adam(flat)

    def clip(self, flat: Flat) -> float:
        """Clips the gradient of a learner.

        Returns:
            Its norm before.
        """
        return flat.clip_grad_norm(self.config.grad_clip)

    @property
    def flat(self) -> Flat:
        """The parameters of the first learner, and their gradients, as two vectors."""
        return self.learner.flat

    @property
    def optimizer(self) -> Optimizer:
        """The optimiser of the first learner."""
        return self.learner.optimizer

    @property
    def updates(self) -> int:
        """Gradient steps that the first learner has taken: the version of the policy."""
        return self.learner.updates

    @property
    def skipped(self) -> int:
        """Gradient steps of all learners that were skipped: their gradient was not finite."""
        return sum(learner.skipped for learner in self.learners.values())

    def announce(self) -> list[str]:
        """Sentences for whoever begins a new run.

        Raises:
            ConfigError: this machine cannot do what the configuration asks for.
        """
        require_sizes(self.config, observation_bytes(self.policy.obs_layout))
        return []

    def advance(self, samplers: SamplerGroup) -> dict[str, float]:
        """Runs one iteration, with a policy that may have been changed since the last.

        Gradients are computed whatever the caller's mode (`torch.no_grad()`,
        `torch.inference_mode()`). If nothing was learnt although something should have been, this
        is said once.

        Returns:
            The learner's statistics.

        Raises:
            ModelError: the policy was changed so that it cannot learn.
            DivergedError: no gradient was finite any more; or parameters overflowed, and are now
                those before the iteration.
        """
        with learning_mode():
            self.rebind(samplers)
            before = {name: learner.flat.data.clone() for name, learner in self.learners.items()}
            updates, skipped = self.updates, self.skipped
            began, lr = self.start[1] if self.start else updates, self.scheduled(self.config.lr)
            try:
                stats = self.iteration(samplers)
            except DivergedError as error:
                sentence = f"After {self.timesteps} steps, {error} {largest_of(samplers)}"
                raise DivergedError(sentence) from None
            finally:
                self._take_back_overflow(before, samplers)
            if self.skipped > skipped == 0:
                why = f"Updates are skipped whose gradient is not finite. {largest_of(samplers)}"
                self.say(samplers, why)
            tried = self.updates + self.skipped > updates + skipped
            if tried and lr and not self._moved(before):
                self._say_why_nothing_moved(samplers)
            return {**stats, "sgd_steps": self.updates - began}

    def place(self, samplers: SamplerGroup) -> SamplerGroup:
        """The samplers as this algorithm wants them: they wait for it, unless it says so."""
        samplers.follow(self.policy, self.flat, self.updates)
        return samplers

    @abstractmethod
    def iteration(self, samplers: SamplerGroup) -> dict[str, float]:
        """Samples and learns in `rounds`.

        Returns:
            The learner's statistics.
        """

    def rounds(self) -> Iterator[None]:
        """The rounds of sampling and learning of one iteration; after a halt, those that are left.

        There is at least one, and as many as it takes to `timesteps_per_iteration` steps.
        """
        start, _ = self.start = self.start or (self.timesteps, self.updates)
        while True:
            yield
            if self.timesteps >= start + max(self.config.timesteps_per_iteration, 1):
                break
        self.start = None

    def rebind(self, samplers: SamplerGroup) -> None:
        """Takes up what was changed in the policy since the last iteration.

        Parameters or layers may have been replaced or frozen, and gradients set to None.

        Raises:
            ModelError: nothing is left that could learn, or a parameter is not finite.
        """
        if self.policy.training:
            self.policy.eval()
            self.say(
                samplers,
                "The policy was in training mode: "
                "it acts and learns in evaluation mode, and is in it again.",
            )
        self._bind()
        if any(change.rebuilt or change.places is not None for _, change in self._changes):
            samplers.follow(self.policy, self.flat, self.updates)
        for name, change in self._changes:
            if change.replaced:
                self.say(samplers, replaced(name, change))
        if self._restored:
            self.say(samplers, f"Frozen, as when it was saved: {listed(self._restored)}.")
        self._changes, self._restored = [], []
        for name, learner in self.learners.items():
            if (parameter := learner.flat.overflown) is not None:
                whose = f"The policy's parameter {parameter!r}"
                if name != "policy":
                    whose = f"The parameter {parameter!r} of the {name}"
                raise ModelError(
                    f"{whose} holds numbers that are not finite, from which nothing can be learnt: "
                    "give it finite ones."
                )
            if learner.optimizer.overflown is not None:
                self.say(
                    samplers,
                    f"The optimiser's {learner.optimizer.overflown!r} moments hold numbers that "
                    "are not finite: parameters that go by them do not move any more. "
                    "Set grad_clip, begin anew.",
                )
        if self._frozen() and not any(learner.flat.places for learner in self.learners.values()):
            raise ModelError(
                "All parameters of the policy are frozen, so that nothing can be learnt: "
                "let some learn by requires_grad_(True)."
            )

    def _bind(self) -> None:
        """Has all learners take up what was changed, and notes it for `rebind`."""
        for name, learner in self.learners.items():
            if (change := learner.bind()) is not None:
                self.follow(name, change)
                self._changes.append((name, change))

    def _beside(self) -> dict[str, nn.Module]:
        """What learns and is no part of the policy, such as a temperature, by learner."""
        inside = set(self.policy.modules())
        modules = {name: learner.module for name, learner in self.learners.items()}
        return {name: module for name, module in modules.items() if module not in inside}

    def _frozen(self) -> list[str]:
        return [name for learner in self.learners.values() for name in learner.flat.frozen]

    def follow(self, name: str, change: Change) -> None:
        """Brings copies of a learner's module, and whatever else depends on it, into line with it.

        Args:
            name: of the learner.
            change: what was changed in its module.
        """
        self.policy.refresh()

    def say(self, samplers: SamplerGroup, sentence: str) -> None:
        """Tells whoever trains, but each sentence only once."""
        if sentence not in self._told:
            self._told.add(sentence)
            samplers.tell(sentence)

    def _moved(self, before: dict[str, Tensor]) -> bool:
        """Whether any parameter that learns is other than before."""
        learners = self.learners.items()
        return not all(torch.equal(before[name], learner.flat.data) for name, learner in learners)

    def _say_why_nothing_moved(self, samplers: SamplerGroup) -> None:
        zero = self.learner.skipped_in_a_row == 0
        why = "the gradient was 0 throughout" if zero else "no gradient was finite"
        still = f"No parameter moved in an iteration, although lr is not 0: {why}."
        learns = any(learner.flat.places for learner in self.learners.values())
        self.say(samplers, still if learns else "The model has no parameters: nothing is learnt.")

    def _take_back_overflow(self, good: dict[str, Tensor], samplers: SamplerGroup) -> None:
        """Puts parameters back to `good` if an iteration left some of them infinite.

        Each gradient that moved them was finite, and so is what the optimiser remembers; what the
        steps add up to need not be.

        Raises:
            DivergedError: some were infinite.
        """
        if all(torch.isfinite(learner.flat.data).all() for learner in self.learners.values()):
            return
        self.take_back(good)
        # This drops what was sampled ahead with the infinite parameters.
        samplers.follow(self.policy, self.flat, self.updates)
        raise DivergedError(
            f"Parameters overflowed float32 after {self.timesteps} steps: training has diverged. "
            f"Lower lr ({self.scheduled(self.config.lr):g} now), or normalise observations and "
            f"rewards. The parameters are those before this iteration. {largest_of(samplers)}"
        )

    def take_back(self, good: dict[str, Tensor]) -> None:
        """Puts the parameters that learn back to `good`, which holds a vector per learner."""
        for name, learner in self.learners.items():
            learner.flat.data.copy_(good[name])

    def finish_round(self, rollout: Rollout) -> None:
        """Counts the steps of a rollout and updates the observation normaliser with them.

        On-policy algorithms do this last: while a rollout is learnt from, the policy must see its
        observations as it did when it acted.
        """
        steps = rollout.env_steps
        self.timesteps += int(rollout.valid.sum().item()) if steps is None else steps
        if self.policy.moments:
            seen = {name: leaf[:-1] for name, leaf in rollout.obs.items()}
            self.policy.update_normalizer(seen, rollout.valid)

    def explore(self, sampling: bool) -> None:  # noqa: B027 - most explore by their policy alone
        """Sets how much the policy explores from now on.

        Args:
            sampling: whether it samples the next rollout; else, between iterations, whoever has the
                trainer acts with it.
        """

    def counted(self) -> dict[str, float]:
        """What results say of several agents: how many steps they took, and how self-play goes."""
        return {}

    def of_episodes(self, episodes: Sequence[Episode]) -> dict[str, float]:
        """What results say of episodes beside the return and length of each; for several agents."""
        return {}

    @property
    def behaviour(self) -> Any:
        """What samplers act with: the policy, but where another acts for some of the agents."""
        return self.policy

    @property
    def policies(self) -> dict[str, Policy]:
        """The policies by the names that they have in checkpoints."""
        return {DEFAULT: self.policy}

    def scheduled(self, schedule: float | Points) -> float:
        """The value of a schedule now."""
        return schedule_value(schedule, self.timesteps)

    def descend(self, loss: Tensor, lr: float) -> float:
        """Takes one step of the first learner down the gradient of a loss; see `Learner.step`."""
        return self.learner.descend(loss, lr)

    def asked(self, call: Any) -> None:  # noqa: B027 - most have no environment of their own
        """Hears what was asked of all environments, a `poise.stepping.calls.Call`."""

    def leave_environment(self) -> list[str]:
        """Forgets what belongs to an environment that is given up.

        Returns:
            What was forgotten, in words that a user knows.
        """
        self.start = None
        if self.reward_scaler is not None:
            self.reward_scaler.carry = None
        return []

    def state_dict(self) -> dict[str, Any]:
        """All that a continued run needs, beside the state of the policy."""
        with learning_mode():
            self._bind()
        return {
            "learners": {name: learner.state_dict() for name, learner in self.learners.items()},
            "modules": {name: dict(module.state_dict()) for name, module in self._beside().items()},
            "generator": self.generator.get_state(),
            "rewards": self.reward_scaler.state_dict() if self.reward_scaler else None,
            "timesteps": self.timesteps,
            "start": self.start,
        }

    def form(self) -> dict[str, Any]:
        """A state to hold one from a file against, of which some parts may have any size."""
        state = self.state_dict()
        for learner in state["learners"].values():
            # Its moments are as long as what learns, which loading freezes and thaws first.
            learner["optimizer"] = None
        return state

    def load(self, state: dict[str, Any], policies: dict[str, dict[str, Tensor]]) -> None:
        """Restores what `state_dict` returned, and all policies; errors as `load_state_dict`."""
        self.load_state_dict(state, policies[DEFAULT])

    def load_state_dict(self, state: dict[str, Any], policy: dict[str, Tensor]) -> None:
        """Restores what `state_dict` returned, and the policy.

        Args:
            state: of the algorithm.
            policy: the policy's own state.

        Raises:
            Exception: of many kinds, if the two are not those of such an algorithm.
        """
        with learning_mode():
            self.policy.load_state_dict(policy)
            for name, module in self._beside().items():
                module.load_state_dict(state["modules"][name])
            for name, learner in self.learners.items():
                if (change := learner.load_state_dict(state["learners"][name])) is not None:
                    self.follow(name, change)
        self._restored, self._changes = self._frozen(), []
        self.generator.set_state(torch.as_tensor(state["generator"]))
        # A checkpoint has none if rewards are scaled only from here on.
        if self.reward_scaler and state["rewards"] is not None:
            self.reward_scaler.load_state_dict(state["rewards"], self.config.num_envs)
        self.timesteps = int(state["timesteps"])
        start = state.get("start")
        self.start = (int(start[0]), int(start[1])) if start else None


@contextmanager
def learning_mode() -> Iterator[None]:
    """Computes gradients within the block, whatever the caller's mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
