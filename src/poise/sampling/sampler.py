"""Acts with a policy in a batch of environments and fills rollouts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from poise.errors import EnvError
from poise.learning.distributions import correlate_
from poise.learning.seeding import torch_generator
from poise.models.policy import Policy
from poise.sampling.episodes import STAGES, Episode, Harvest, episode_info
from poise.sampling.halt import Halt
from poise.sampling.rollout import Rollout, rollout_for
from poise.stepping.failures import Failures
from poise.stepping.intake import too_large
from poise.stepping.snapshot import reset_seeded, restore_vector, save_vector
from poise.stepping.tolerant import TolerantVectorEnv


class Sampler:
    """One policy, one batch of environments, one reused rollout.

    Args:
        policy: chooses the actions; it is not copied.
        env: the environments, with NEXT_STEP or SAME_STEP autoreset.
        steps: T, the steps of each slot per rollout.
        seed: of the environments and of the exploration noise.
        correlation: of the noise from step to step, for continuous actions. The noise is a
            first-order autoregression with unit variance: over time, actions are distributed as the
            policy says, but given the ones before, they are not, so that gradients are biased a
            little (Hollenstein et al. 2024 measure it).
        failures: counts what fails; shared by all samplers of a run.
        first_slot: the number of its first slot among all of the run.
        halt: the flag that it looks at before every step.

    Attributes:
        filled: how many rows of the current rollout are filled; after a halt, the next call goes
            on there.
        episodes, rows, seconds: what the next `Harvest` will hold.
    """

    def __init__(
        self,
        policy: Policy,
        env: VectorEnv,
        steps: int,
        seed: np.random.SeedSequence,
        *,
        correlation: float = 0.0,
        failures: Failures | None = None,
        first_slot: int = 0,
        halt: Halt | None = None,
    ) -> None:
        mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            raise EnvError(
                "Vector environments must reset themselves (NEXT_STEP or SAME_STEP); "
                f"this one says {mode}."
            )
        self.policy, self.env, self.steps = policy, env, steps
        self.same_step = mode == AutoresetMode.SAME_STEP
        if self.same_step and policy.recurrent:
            raise EnvError(
                "A policy with a memory needs environments that reset a step after an episode's "
                "end (NEXT_STEP): of a last observation apart from the others (SAME_STEP), "
                "it could not tell the value."
            )
        self.slots: int = env.num_envs
        self.first_slot = first_slot
        self.correlation = correlation if policy.dist.normal_noise else 0.0
        self._bind(self.make_rollout(self.slots))
        self.tolerant = env if isinstance(env, TolerantVectorEnv) else None
        self._halves = env if hasattr(env, "send") and hasattr(env, "recv") else _WholeStep(env)
        self.failures = failures or Failures(self.slots)
        self.halt = halt or Halt()
        self.filled = 0
        self._noise: Tensor | None = None  # of the current rollout; None between two
        self._actions: list[Tensor] = []
        self._inputs: list[Tensor] = []
        self.episodes: list[Episode] = []
        self.rows = 0
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.version = 0
        env_seed, noise_seed = seed.spawn(2)
        self._env_seed = env_seed
        self._generator = torch_generator(noise_seed)
        self._last_noise: Tensor | None = None
        self._state = policy.initial_state(self.slots)
        self._returns = np.zeros(self.slots)
        self._lengths = np.zeros(self.slots, np.int64)
        self._done = np.zeros(self.slots, np.bool_)
        self._absent = np.zeros(self.slots, np.bool_)  # slots whose worker is being replaced
        self._started = False
        self._intact = True  # whether rows and environments agree

    def make_rollout(self, slots: int) -> Rollout:
        """Allocates a rollout of so many slots, of which the first is this sampler's first."""
        return rollout_for(self.policy, self.steps, slots, self.first_slot)

    def move_to(self, rollout: Rollout) -> None:
        """Fills another rollout from now on, which begins where the last one ended."""
        for name, leaf in rollout.obs.items():
            leaf[-1] = self.rollout.obs[name][-1]
        rollout.first[-1] = self.rollout.first[-1]
        self._bind(rollout)

    def _bind(self, rollout: Rollout) -> None:
        self.rollout = r = rollout
        self._obs = {name: leaf.numpy() for name, leaf in r.obs.items()}
        self._valid, self._first = r.valid.numpy(), r.first.numpy()
        self._outcome = r.reward.numpy(), r.terminated.numpy(), r.truncated.numpy()
        # Views of every row, taken at once: indexing a tensor costs as much as a small layer.
        rows = zip(*(leaf.unbind(0) for leaf in r.obs.values()), strict=True)
        self._obs_rows = [dict(zip(r.obs, row, strict=True)) for row in rows]
        self._first_rows = r.first.unbind(0)

    def _start(self) -> None:
        """Begins new episodes everywhere.

        Only this reset is seeded: later ones draw from the environments' own generators. Every
        start has seeds of its own, so that no episode is ever played twice.
        """
        obs = reset_seeded(self.env, self._env_seed.spawn(1)[0])
        self._returns[:], self._lengths[:], self._done[:], self._absent[:] = 0.0, 0, False, False
        self._write_obs(self.steps, obs)
        self.rollout.first[-1] = True
        self._started, self._noise, self.filled = True, None, 0

    @property
    def full(self) -> bool:
        """Whether all rows are filled, so that `finish` may be called."""
        return self._noise is not None and self.filled == self.steps

    @property
    def taken(self) -> int:
        """Steps of the current rollout that were taken so far, also as another thread sees it."""
        return len(self._actions)

    def stages(self) -> Iterator[None]:
        """Fills rows until all are filled or a halt is asked for.

        It pauses each time that the environments were told to step, so that another sampler can act
        in the meantime (see `SamplerGroup`).

        Raises:
            EnvError: an environment fails for good, or gave an observation or reward that is not
                finite and cannot be replaced; the sentence names the slot and the step.
        """
        if not (self._started and self._intact):
            self._start()
        halt = self.halt
        if self._noise is None:
            if halt.asked:
                return
            self._begin()
        assert self._noise is not None
        # Until this returns: after an error or Ctrl-C, rows and environments disagree.
        self._intact = False
        policy, env = self.policy, self._halves
        obs, first, noise = self._obs_rows, self._first_rows, self._noise.unbind(0)
        reward, terminated, truncated = self._outcome
        actions, inputs = self._actions, self._inputs
        rewarded = policy.rewarded if policy.hears_rewards else None
        env_seconds, inference_seconds, start = 0.0, 0.0, perf_counter()
        waited = self.tolerant.waited if self.tolerant else 0.0
        for t in range(self.filled, self.steps):
            if halt.asked:
                break
            action, dist_inputs, self._state = policy.act(obs[t], self._state, first[t], noise[t])
            actions.append(action)
            if policy.needs_log_prob:
                inputs.append(dist_inputs)
            env_action = policy.env_action(action)
            sent = perf_counter()
            inference_seconds += sent - start
            env.send(env_action)
            env_seconds += perf_counter() - sent
            yield
            received = perf_counter()
            next_obs, given, terminated[t], truncated[t], info = env.recv()
            reward[t] = given
            start = perf_counter()
            env_seconds += start - received
            self._write_obs(t + 1, next_obs)
            if not math.isfinite(reward[t].sum()):
                self._report_bad(reward[t], "a reward", given)
            if rewarded:
                self._state = rewarded(self._state, reward[t])
            self._follow_episodes(t, reward[t], terminated[t] | truncated[t], info)
            # A lost life is an end for learning alone: the episode goes on. Environments
            # of others may have a number of that name in their info.
            terminated[t] |= np.asarray(info.get("life_lost", False)) == 1
        self.filled = len(actions)
        waited = self.tolerant.waited - waited if self.tolerant else 0.0
        self.seconds["waiting"] += waited
        self.seconds["env"] += env_seconds - waited
        self.seconds["inference"] += inference_seconds + perf_counter() - start
        self._intact = True

    def _begin(self) -> None:
        """Begins a rollout, whose first row is the last one of the rollout before."""
        r = self.rollout
        for array in (*self._obs.values(), self._first):
            array[0] = array[-1]
        r.state, r.version = self._state, self.version
        r.final.clear()
        self._noise, self._actions, self._inputs, self.filled = self._draw_noise(), [], [], 0

    def finish(self) -> Rollout:
        """Completes the rollout, now that it is full, and returns it; the next one may begin."""
        start, r = perf_counter(), self.rollout
        torch.stack(self._actions, out=r.action)
        if self._inputs:
            r.log_prob.copy_(self.policy.dist.log_prob(torch.stack(self._inputs), r.action))
        self.rows += self.steps
        self._noise, self.filled = None, 0
        self.seconds["inference"] += perf_counter() - start
        return r

    def cut(self) -> None:
        """Gives up the rows of a rollout that is not full; the episodes go on."""
        if self._noise is not None:
            for array in (*self._obs.values(), self._first):
                array[-1] = array[self.filled]
            self.rows += self.filled
            self._noise, self.filled = None, 0

    def _follow_episodes(
        self, t: int, reward: np.ndarray, done: np.ndarray, info: dict[str, Any]
    ) -> None:
        """Marks which rows count and where episodes begin; adds up their returns and lengths."""
        first = self._first
        if self.same_step:
            first[t + 1] = done
            self._lengths += 1
            self._returns += reward
        else:
            # A step that starts from a final observation only resets.
            stepped = ~self._done
            first[t + 1] = self._done
            if self.tolerant is not None and (self.tolerant.disturbed or self.tolerant.failures):
                self._follow_failures(t, stepped, self.tolerant)
            self._valid[t] = stepped
            self._lengths += stepped
            self._returns += reward * stepped
        self._done = done
        if done.any():
            self._end_episodes(t, np.flatnonzero(done), info)

    def _follow_failures(self, t: int, stepped: np.ndarray, env: TolerantVectorEnv) -> None:
        """Drops the episodes that a failure ended.

        The step that failed did not happen: its row does not count, and the step before it is where
        the episode was cut, as by a time limit, with this row's observation as its last.
        """
        if not env.disturbed:
            self.failures.add(env.take_failures(), ())
            return
        lost, begun = env.lost, env.begun
        truncated = self.rollout.truncated.numpy()
        truncated[t] |= lost  # ends what is carried from row to row, such as a return
        if t:
            truncated[t - 1] |= lost & stepped
        failed = lost & ~self._absent
        stepped &= ~lost
        self._first[t + 1] = (self._first[t + 1] & ~lost) | begun
        self._returns[lost], self._lengths[lost] = 0.0, 0
        self._absent = lost & ~begun
        self.failures.add(env.take_failures(), (np.flatnonzero(failed) + self.first_slot).tolist())

    def abandon(self) -> None:
        """Its last rollout was lost, so that the next one begins new episodes."""
        self._intact = False

    def harvest(self) -> Harvest:
        """Takes the episodes, rows and seconds since the last call."""
        taken = Harvest(self.episodes, self.rows, self.seconds)
        self.episodes, self.rows, self.seconds = [], 0, dict.fromkeys(STAGES, 0.0)
        return taken

    def _draw_noise(self) -> Tensor:
        """Draws exploration noise for a rollout, `[T, B, ...]`."""
        noise = self.policy.dist.noise((self.steps, self.slots), self._generator)
        if self.correlation:
            self._last_noise = correlate_(noise, self._last_noise, self.correlation)
        return noise

    def _write_obs(self, row: int, obs: Any) -> None:
        """Writes observations into a row; a tolerant environment has checked them already."""
        for name, value in self.policy.obs_layout.flatten(obs).items():
            target = self._obs[name][row]
            target[...] = value
            if not self.tolerant and target.dtype.kind == "f" and not math.isfinite(target.sum()):
                self._report_bad(target, f"an observation {name!r}", value)

    def _report_bad(self, values: np.ndarray, what: str, given: Any) -> None:
        """Raises for the first slot with a value that is not finite in the type that it has here.

        A sum that merely overflows does not: then each value is finite.

        Args:
            values: as stored, `[B, ...]`.
            what: what they are.
            given: as the environment gave them.
        """
        finite = np.isfinite(values.reshape(self.slots, -1)).all(1)
        for b in np.flatnonzero(~finite).tolist():
            resets = not self._started or (self._done[b] and not self.same_step)
            step = 0 if resets else self._lengths[b] + 1
            raise _not_finite(self.first_slot + b, what, given[b], step)

    def _end_episodes(self, t: int, slots: np.ndarray, info: dict[str, Any]) -> None:
        """Notes the episodes of these slots, which ended with row `t`."""
        if self.same_step:
            for b in slots.tolist():
                self.rollout.final.append((t, b, self._final_leaves(b, info["final_obs"][b])))
            info = info.get("final_info", {})
        row = self.rows + t + 1
        for b in slots.tolist():
            slot, numbers = self.first_slot + b, episode_info(info, b)
            length = int(self._lengths[b])
            self.episodes.append(Episode(float(self._returns[b]), length, slot, numbers, row))
            self.failures.episode_finished(slot)
        self._returns[slots] = 0.0
        self._lengths[slots] = 0

    def _final_leaves(self, b: int, obs: Any) -> dict[str, Tensor]:
        """The leaves of a last observation that is in no row, in the types of the rollout.

        Raises:
            EnvError: it is not finite.
        """
        kept = {}
        for name, leaf in self.policy.obs_layout.flatten(obs).items():
            given = np.array(leaf)
            kept[name] = value = torch.as_tensor(given).to(self.rollout.obs[name].dtype)
            if value.is_floating_point() and not torch.isfinite(value).all():
                slot, what = self.first_slot + b, f"a final observation {name!r}"
                raise _not_finite(slot, what, given, self._lengths[b])
        return kept

    def state_dict(self) -> dict[str, Any]:
        """All that the next rollout depends on, and what there is of an unfinished one."""
        row = -1 if self._noise is None else self.filled
        state = {
            "started": self._started and self._intact,
            "obs": {name: leaf[row].clone() for name, leaf in self.rollout.obs.items()},
            "first": self.rollout.first[row].clone(),
            "memory": list(self._state),
            "generator": self._generator.get_state(),
            "noise": self._last_noise,
            "returns": self._returns.copy(),
            "lengths": self._lengths.copy(),
            "done": self._done.copy(),
            "version": self.version,
            "rows": self.rows,
            "episodes": [episode.to_json() for episode in self.episodes],
            "underway": self._underway(),
        }
        return {**state, "env": save_vector(self.env) if self._started else None}

    def _underway(self) -> dict[str, Any] | None:
        """The rollout that a halt left unfinished; None if there is none."""
        if self._noise is None or not self._intact:
            return None
        return {
            **self.rollout.head(self.filled),
            "actions": torch.stack(self._actions) if self._actions else None,
            "inputs": torch.stack(self._inputs) if self._inputs else None,
            "filled": self.filled,
            "noise": self._noise,
        }

    def _go_on_with(self, underway: dict[str, Any]) -> None:
        """Restores what `_underway` returned."""
        self.filled, self._noise = underway["filled"], torch.as_tensor(underway["noise"])
        self.rollout.put_back(underway, self.filled)
        self._actions, self._inputs = _rows(underway["actions"]), _rows(underway["inputs"])

    def load_state_dict(self, state: dict[str, Any]) -> list[int]:
        """Restores what `state_dict` returned.

        Returns:
            The slots that had to start a new episode.
        """
        self._generator.set_state(torch.as_tensor(state["generator"]))
        self._last_noise = None if state["noise"] is None else torch.as_tensor(state["noise"])
        self.version = state["version"]
        self.rows = state.get("rows", 0)
        self.episodes = [Episode.from_json(each) for each in state.get("episodes", ())]
        if not state["started"]:
            return []
        self._state = tuple(torch.as_tensor(part) for part in state["memory"])
        self._start()  # environments must be reset once before their state can be set
        self._returns[:] = state["returns"]
        self._lengths[:] = state["lengths"]
        self._done[:] = state["done"]
        if not np.isfinite(self._returns).all():
            raise ValueError("returns of episodes under way are not finite")
        saved = state["env"]
        lost = list(range(self.slots)) if saved is None else restore_vector(self.env, saved)
        # What the slots show that could not be restored, and begin a new episode instead.
        fresh = getattr(self.env, "observations", None)
        kept = np.setdiff1d(np.arange(self.slots), lost)
        for name, leaf in self.rollout.obs.items():
            if fresh is not None:
                leaf[-1].numpy()[lost] = fresh[name][lost]
            leaf[-1, kept] = torch.as_tensor(state["obs"][name])[kept]
        self.rollout.first[-1, kept] = torch.as_tensor(state["first"])[kept]
        self._returns[lost], self._lengths[lost], self._done[lost] = 0.0, 0, False
        if state.get("underway") is not None and not lost:
            self._go_on_with(state["underway"])
        return lost


def _rows(tensor: Any) -> list[Tensor]:
    return [] if tensor is None else list(torch.as_tensor(tensor).unbind(0))


def _not_finite(slot: int, what: str, given: Any, step: int) -> EnvError:
    """The error for a value that is not finite; step 0 of an episode is its reset."""
    return EnvError(
        f"Environment {slot} {too_large(what, given)}, at step {step} of its episode. "
        "Nothing was learnt from it."
    )


class _WholeStep:
    """`send` and `recv` of an environment that has only `step`."""

    def __init__(self, env: VectorEnv) -> None:
        self._env = env
        self._actions: Any = None

    def send(self, actions: Any) -> None:
        self._actions = actions

    def recv(self) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        return self._env.step(self._actions)
