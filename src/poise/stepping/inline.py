"""A batch of environments stepped one after the other, in this process or in a worker.

It differs from Gymnasium's `SyncVectorEnv` in that it checks what environments return, replaces
those that fail, hands out its buffers without copying them, and can say and restore where each of
its environments stands, so that a resumed run goes on in the middle of its episodes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from threading import get_ident
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import iterate

from poise.config.memory import one_by_one
from poise.envs.instances import claim, normaliser_sentence, release
from poise.envs.old_gym import WrongApiError, explain_step, old_reset_sentence, old_step_sentence
from poise.envs.raised import is_interrupt, own_traceback, said
from poise.errors import EnvError, PoiseWarning
from poise.spaces.layout import Layout
from poise.stepping import snapshot
from poise.stepping.arrays import StepArrays
from poise.stepping.calls import Call, remember
from poise.stepping.failures import Failure, said_action
from poise.stepping.intake import (
    FLAGS,
    LARGEST,
    REALS,
    ContractError,
    Intake,
    check_flags,
    number_of,
    short,
    too_large,
)
from poise.stepping.tolerant import TolerantVectorEnv, numbers_in

STEPPING, RESETTING, MAKING, IDLE = range(4)
"""Phases, as the pulse tells them."""

_ATTEMPTS = 3  # to make and reset a fresh instance
_BOUNDS_EVERY = 16  # steps between two looks at the bounds of observations


class InlineVectorEnv(TolerantVectorEnv):
    """A batch of environments with NEXT_STEP autoreset: the step after an episode's end resets.

    Args:
        make: makes one environment.
        num_envs: number of environments.
        worker: number of the process that they are in, for messages.
        total_envs: number of environments in the whole run; they share the memory for actions that
            are replayed on a resume.

    Attributes:
        observations: the current leaves `[num_envs, ...]`; what `reset` and `step` return are views
            of them, valid until the next step.
        pulse: a count that rises with every step of an environment, and the phase it is in.
        thread: identity of the thread that steps them, or did so last.
        report_hang: is told where an environment hangs, while `poise.stepping.watchdog` watches.

    Raises:
        EnvError: `make` returned an environment a second time.
    """

    report_hang: Callable[[Failure], None]

    def __init__(
        self,
        make: Callable[[], gym.Env],
        num_envs: int,
        *,
        worker: int = 0,
        total_envs: int | None = None,
    ) -> None:
        total_envs = total_envs or num_envs
        self._make, self._worker = make, worker
        self.envs: list[gym.Env] = []
        try:
            for _ in one_by_one(num_envs, total_envs, "environments"):
                env = make()
                claim(env, self)
                self.envs.append(env)
        except BaseException as error:
            # Not left to the garbage collector: whoever keeps the traceback would keep them.
            self.close_extras()
            if isinstance(error, Exception) or is_interrupt(error):
                raise
            # Such as an environment's sys.exit().
            raise EnvError(f"The environment raised {said(error)} when it was made.") from error
        super().__init__(num_envs, self.envs[0].observation_space, self.envs[0].action_space)
        self._layout = Layout(self.single_observation_space)
        self._action_layout = Layout(self.single_action_space)
        self._calls: dict[tuple[str, str], Call] = {}  # for fresh instances
        longest = snapshot.longest_replay(self.single_action_space, total_envs)
        self._journals = [snapshot.Journal(longest) for _ in range(num_envs)]
        self._seeds: list[int | None] = [None] * num_envs
        self._incarnations = [0] * num_envs
        self._done = [False] * num_envs
        self._actions: Any = None
        acted = self.single_action_space
        self._scalars = isinstance(acted, spaces.Box) and not acted.shape
        self._steps = 0
        self._noticed: set[str] = set()
        if worker == 0 and (sentence := normaliser_sentence(self.envs[0])):
            self.failures.append(Failure("odd", sentence))
        self.thread = get_ident()
        self.bind(StepArrays.carve((self._layout, self._action_layout), num_envs))

    def bind(self, arrays: StepArrays) -> None:
        """Steps through these arrays from now on."""
        self._arrays = arrays
        self.observations = arrays.observations
        self.lost, self.begun = arrays.lost, arrays.begun
        self.lost[:] = self.begun[:] = False  # a worker before this one may have left some
        self._intake = Intake(self._layout, self.single_action_space, arrays.observations)
        self._obs = self._layout.unflatten(arrays.observations)
        # A memoryview is the fastest way to write one number.
        self.pulse = memoryview(arrays.pulse.data).cast("B").cast("q")

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resets all environments; a seed is as for `seed_of_each`.

        Raises:
            EnvError: one of them failed; at the start that is a bug, and nothing is tried again.
        """
        self._seeds = self.seed_of_each(seed)
        self.thread = get_ident()
        try:
            for i, env_seed in enumerate(self._seeds):
                try:
                    self._reset_one(i, env_seed, options)
                except BaseException as error:
                    if is_interrupt(error) or _is_final(error):
                        raise
                    raise EnvError(str(self._failure(i, error))) from error
            self._done = [False] * self.num_envs
            for i, what in self._intake.faults(self._done).items():
                raise EnvError(self._sentence(i, what))
            self._look_at_bounds()
        finally:
            # The watchdog must not take the time after an error or Ctrl-C for a hang.
            self.pulse[1] = IDLE
        return self._obs, {}

    def _reset_one(
        self, i: int, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> None:
        """Begins an episode of one environment, and notes how it began."""
        self.pulse[1] = RESETTING
        self.pulse[0] += 1
        self._journals[i].begin(self.envs[i], seed)
        found = self.envs[i].reset(seed=seed, options=options)
        if sentence := old_reset_sentence(self.envs[i], found):
            raise WrongApiError(sentence)
        self._numbers(found[1], i)
        self._intake.store(i, found[0])
        self.pulse[1] = STEPPING

    def send(self, actions: Any) -> None:
        # A copy: an environment may keep or change the action that it was given, and the rollout
        # needs it as it was.
        if isinstance(actions, np.ndarray):
            self._actions = actions.copy()
        else:
            leaves = self._action_layout.flatten(actions)
            copies = {name: np.array(leaf) for name, leaf in leaves.items()}
            self._actions = self._action_layout.unflatten(copies)

    def recv(self) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self.thread = get_ident()
        try:
            return self._step_all()
        finally:
            self.pulse[1] = IDLE

    def _step_all(self) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps every environment, or resets it if its episode is over; takes in what it gives."""
        if self.disturbed:
            self.disturbed = False
            self.lost[:] = self.begun[:] = False
        arrays, done, pulse = self._arrays, self._done, self.pulse
        # Attributes are looked up once, since this loop runs for every step of every environment.
        envs, journals, store = self.envs, self._journals, self._intake.store
        rewards, infos = [0.0] * self.num_envs, dict[str, Any]()
        arrays.terminated.fill(False)
        arrays.truncated.fill(False)
        pulse[1] = STEPPING
        actions: Any = self._actions
        if not isinstance(actions, np.ndarray):
            actions = iterate(self.action_space, actions)
        # The space has arrays without axes, of which iterating would make NumPy numbers.
        if self._scalars:
            actions = [actions[i, ...] for i in range(self.num_envs)]
        for i, action in enumerate(actions):
            pulse[0] += 1
            try:
                if done[i]:
                    done[i] = False
                    self._reset_one(i)
                    continue
                journals[i].actions.append(action)
                stepped: Any = envs[i].step(action)
                if type(stepped) is not tuple or len(stepped) != 5:
                    raise WrongApiError(old_step_sentence(self.envs[i], stepped))
                obs, reward, terminated, truncated, info = stepped
                store(i, obs)
                rewards[i] = reward = reward if type(reward) in REALS else number_of(reward)
                if not -LARGEST <= reward <= LARGEST:
                    raise ContractError(too_large("a reward", float(reward)))
                if terminated is not False or truncated is not False:
                    if type(terminated) not in FLAGS or type(truncated) not in FLAGS:
                        check_flags(terminated, truncated)
                    if terminated or truncated:
                        arrays.terminated[i] = bool(terminated)
                        arrays.truncated[i] = bool(truncated)
                        done[i] = True
                        infos = self._add_info(infos, self._numbers(info, i), i)
            except BaseException as error:
                rewards[i] = 0.0
                self._fail(i, error)
        arrays.reward[:] = rewards
        for i, what in self._intake.faults(done).items():
            arrays.reward[i] = 0.0
            self._fail(i, ContractError(what))
        self._steps += 1
        if self._steps % _BOUNDS_EVERY == 0:
            self._look_at_bounds()
            self._look_at_journals()
        return self._obs, arrays.reward, arrays.terminated, arrays.truncated, infos

    # --- failures ---------------------------------------------------------------------------------

    def _fail(self, i: int, error: BaseException) -> None:
        """Puts a fresh instance in the place of an environment that failed.

        Raises:
            EnvError: that would not help, since it follows the old Gym API, or fresh instances fail
                at once.
            KeyboardInterrupt: it did not fail: the user pressed Ctrl-C.
        """
        if is_interrupt(error):
            raise error
        journal = self._journals[i].actions
        if journal and (sentence := explain_step(self.envs[i], journal[-1], error)):
            raise WrongApiError(sentence) from error
        if _is_final(error):
            raise error
        first = self._failure(i, error)
        self.failures.append(first)
        self.disturbed = self.lost[i] = self.begun[i] = True
        self._arrays.terminated[i] = self._arrays.truncated[i] = False
        self._renew(i, f"after it failed. The first failure: {first}")

    def _renew(self, i: int, why: str) -> None:
        """Puts a fresh instance in the place of an environment; it begins an unplayed episode.

        Raises:
            EnvError: fresh instances fail at once.
        """
        self._done[i] = False
        for attempt in range(1, _ATTEMPTS + 1):
            self._incarnations[i] += 1
            try:
                self._close(i)
                self.pulse[1] = MAKING
                env = self._make()
                for call in self._calls.values():
                    call.of(env)
                claim(env, self)
                self.envs[i] = env
                self._reset_one(i, self._fresh_seed(i))
                if what := self._intake.faults(self._done).get(i):
                    raise ContractError(what)
                return
            except BaseException as again:
                if is_interrupt(again):
                    raise
                self.failures.append(self._failure(i, again))
                if attempt == _ATTEMPTS:
                    what = f"Environment {i} of worker {self._worker} could not be replaced {why}"
                    raise EnvError(what) from again

    def _fresh_seed(self, i: int) -> int | None:
        """A seed of its own for every incarnation, so that no episode is played twice."""
        seed = self._seeds[i]
        if seed is None:
            return None
        return int(np.random.SeedSequence((seed, self._incarnations[i])).generate_state(1)[0])

    def _failure(self, i: int, error: BaseException) -> Failure:
        """The failure of an environment that raised this error."""
        if isinstance(error, ContractError):
            return Failure("contract", self._sentence(i, str(error)))
        actions, about = self._journals[i].actions, ""
        if actions and self.pulse[1] == STEPPING:
            about = f"The action was {said_action(self.single_action_space, actions[-1])}.\n"
        what = self._sentence(i, f"raised {said(error)}")
        return Failure("raised", what, about + own_traceback(error))

    def _sentence(self, i: int, what: str) -> str:
        """Says what an environment did, and at which step."""
        journal = self._journals[i]
        above = "above " if journal.overflowed else ""
        step = f"{above}{len(journal.actions) - journal.overflowed}"
        phases = {RESETTING: "at a reset", MAKING: "when it was made anew"}
        when = phases.get(self.pulse[1], f"at step {step} of its episode")
        return f"Environment {i} of worker {self._worker} {what}, {when}."

    def _look_at_journals(self) -> None:
        """Says once that an episode is too long to be replayed."""
        long = next((i for i, journal in enumerate(self._journals) if journal.overflowed), None)
        if long is None or "long" in self._noticed or snapshot.offers_state(self.envs[long]):
            return
        self._noticed.add("long")
        text = (
            f"Environment {long} of worker {self._worker} has run for more than "
            f"{self._journals[long].longest:,} steps of an episode, too many to replay. "
            "A run that is resumed begins a new episode there, "
            "unless the environment has get_state and set_state."
        )
        self.failures.append(Failure("odd", text))

    def _look_at_bounds(self) -> None:
        """Says once that observations leave their space, which networks can take."""
        if "bounds" not in self._noticed:
            for i, what in self._intake.out_of_bounds().items():
                self._notice("bounds", i, what)

    def _numbers(self, info: Any, i: int) -> dict[str, float]:
        """The numbers in an environment's info; says once that there is none."""
        if isinstance(info, Mapping):
            return numbers_in(info)
        what = f"gave {short(info)} as its info, which must be a dict: return {{}}"
        self._notice("info", i, what)
        return {}

    def _notice(self, kind: str, i: int, what: str) -> None:
        """Reports what does no harm, once."""
        if kind not in self._noticed:
            self._noticed.add(kind)
            more = "Training goes on with it; `poise check-env` tells more."
            self.failures.append(Failure("odd", f"{self._sentence(i, what)} {more}"))

    # --- where they stand -------------------------------------------------------------------------

    def call_each(self, call: Call) -> list[Any]:
        """Does something to every environment, and later to those that replace a failed one."""
        results = [call.of(env) for env in self.envs]
        remember(self._calls, call)
        return results

    def close_extras(self, **kwargs: Any) -> None:
        failed = [what for i in range(len(self.envs)) if (what := self._close(i))]
        if failed:
            others = f" {len(failed) - 1} more could not be closed." if len(failed) > 1 else ""
            warnings.warn(f"{failed[0]}{others}", PoiseWarning, stacklevel=2)

    def _close(self, i: int) -> str | None:
        """Closes an environment; a failure is returned, since it must not leave the others open."""
        release(self.envs[i])
        try:
            self.envs[i].close()
        except BaseException as error:
            if is_interrupt(error):
                raise
            name = f"Environment {i} of worker {self._worker}"
            return f"{name} raised {said(error)} when it was closed."
        return None

    def state_dict(self) -> dict[str, Any]:
        """Where every environment stands, as arrays and plain values."""
        slots = list(map(snapshot.save, self.envs, self._journals))
        obs = {name: array.copy() for name, array in self.observations.items()}
        return {"slots": slots, "obs": obs, "done": np.array(self._done)}

    def load_state_dict(self, state: dict[str, Any]) -> list[int]:
        """Restores what `state_dict` returned.

        Returns:
            The slots that start a new episode instead, because their environment did not replay to
            the same observation.
        """
        lost = []
        self._done = [bool(done) for done in state["done"]]
        for i in range(self.num_envs):
            expected = {name: array[i] for name, array in state["obs"].items()}
            self.pulse[1] = RESETTING
            try:
                saved, journal = state["slots"][i], self._journals[i]
                obs = snapshot.restore(self.envs[i], saved, journal, self._beat)
                if obs is not None and self._is_at(obs, expected):
                    self._intake.store(i, obs)
                    continue
            except BaseException as error:
                if is_interrupt(error):
                    raise
                self.failures.append(self._failure(i, error))
            lost.append(i)
            self._renew(i, "after its episode could not be restored.")
        self.pulse[1] = IDLE
        return lost

    def _beat(self) -> None:
        """Moves the pulse at each step of a replay, so that each has the time limit of its own."""
        self.pulse[1] = STEPPING
        self.pulse[0] += 1

    def _is_at(self, obs: Any, expected: dict[str, np.ndarray]) -> bool:
        """Whether an observation equals the one that was saved."""
        found = {name: np.asarray(leaf) for name, leaf in self._layout.flatten(obs).items()}
        return all(
            np.array_equal(found[name].astype(leaf.dtype), leaf, equal_nan=leaf.dtype.kind == "f")
            for name, leaf in expected.items()
        )


def _is_final(error: BaseException) -> bool:
    """Whether an error stops the run: an `EnvError` does, but for one environment's accident."""
    return isinstance(error, EnvError) and not isinstance(error, ContractError)
