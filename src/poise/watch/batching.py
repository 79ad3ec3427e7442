"""Many callers, one policy: what comes within a moment is computed at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from poise.errors import PoiseError, SpaceError
from poise.learning.seeding import torch_generator
from poise.models.policy import Policy, State
from poise.training.acting import ACTING, asked
from poise.training.evaluation import check_outputs
from poise.training.threads import torch_threads
from poise.training.trainer import Trainer

MOST = 256
"""Observations that are computed at once; with so many, nothing is waited for."""


Answer = tuple[dict[str, np.ndarray], State]
"""Actions, leaves `[N, ...]` by name, and the memory after."""


@dataclass
class Question:
    """What a caller wants to know, and where the answer goes."""

    single: bool
    obs: dict[str, torch.Tensor]
    memory: State
    first: torch.Tensor
    answer: asyncio.Future[Answer]


class Batching:
    """Answers questions in batches, in a thread of its own; of one event loop.

    Args:
        trainer: whose policies act.
        window_s: how long the first question of a batch waits for others.

    Attributes:
        observations, batches, seconds: that were computed so far, and in how long.
    """

    def __init__(self, trainer: Trainer, window_s: float) -> None:
        self.policies: Mapping[str, Policy] = trainer.algorithm.policies
        self.window_s = window_s
        self.observations, self.batches, self.seconds = 0, 0, 0.0
        self._threads = int(trainer.config.num_threads)
        self._generator = torch_generator(trainer.stream(ACTING, trainer.iteration))
        self._waiting: dict[tuple[str, bool], list[Question]] = {}
        self._worker = ThreadPoolExecutor(1, "poise-policy")

    async def ask(self, name: str, explore: bool, *question: Any) -> tuple[Any, State, bool]:
        """Actions for one observation or a batch.

        Args:
            name: of the policy.
            explore: samples the actions.
            question: observation, memory, episode starts, mask and reward, as in `predict`.

        Returns:
            The actions, leaves of the batch by name, and the memory; whether it is of one alone.

        Raises:
            SpaceError, EnvError, ModelError: as `predict`.
        """
        try:
            given = asked(self.policies[name], *question)
        except (TypeError, ValueError, OverflowError) as error:  # such as texts for numbers
            space = self.policies[name].obs_layout.space
            raise SpaceError(f"This is no observation of {space} ({error}).") from None
        loop = asyncio.get_running_loop()
        mine, key = Question(*given, loop.create_future()), (name, explore)
        waiting = self._waiting.setdefault(key, [])
        waiting.append(mine)
        if sum(len(each.first) for each in waiting) >= MOST:
            self._begin(key)
        elif len(waiting) == 1:
            loop.call_later(self.window_s, self._begin, key, mine)
        return *await mine.answer, given[0]

    def _begin(self, key: tuple[str, bool], oldest: Question | None = None) -> None:
        """Has a batch computed: all that waits, unless the oldest of it went with another."""
        waiting = self._waiting.get(key, [])
        if waiting and (oldest is None or waiting[0] is oldest):
            del self._waiting[key]
            loop = asyncio.get_running_loop()
            done = loop.run_in_executor(self._worker, self._answers, *key, waiting)
            done.add_done_callback(lambda found: _deliver(waiting, found))

    def _answers(
        self, name: str, explore: bool, questions: list[Question]
    ) -> list[Answer | PoiseError]:
        """The answers to all questions of a batch, or why there is none."""
        try:
            return [*self._compute(name, explore, questions)]
        except PoiseError as error:  # such as NaN in one of the observations: the others are well
            if len(questions) == 1:
                return [error]
            halves = questions[: len(questions) // 2], questions[len(questions) // 2 :]
            return [answer for half in halves for answer in self._answers(name, explore, half)]

    @torch.no_grad()
    def _compute(self, name: str, explore: bool, questions: list[Question]) -> list[Answer]:
        began, policy = time.perf_counter(), self.policies[name]
        sizes = [len(each.first) for each in questions]
        obs = {key: torch.cat([q.obs[key] for q in questions]) for key in questions[0].obs}
        memory = tuple(map(torch.cat, zip(*(q.memory for q in questions), strict=True)))
        first = torch.cat([each.first for each in questions])
        noise = policy.dist.noise((len(first),), self._generator) if explore else None
        with torch_threads(self._threads):
            action, inputs, memory = policy.act(obs, memory, first, noise)
        check_outputs(policy, obs, inputs)
        leaves = policy.action_layout.flatten(policy.env_action(action))
        ends = np.cumsum(sizes)[:-1].tolist()
        parts = {key: np.split(np.asarray(leaf), ends) for key, leaf in leaves.items()}
        memories: list[Any] = [torch.split(part, sizes) for part in memory]
        self.batches, self.observations = self.batches + 1, self.observations + len(first)
        self.seconds += time.perf_counter() - began
        return [
            ({key: part[i] for key, part in parts.items()}, tuple(part[i] for part in memories))
            for i in range(len(questions))
        ]


def _deliver(questions: list[Question], found: asyncio.Future[list[Answer | PoiseError]]) -> None:
    """Gives each question its answer; an internal error goes to all of them."""
    error = found.exception()
    answers: list[Any] = [error] * len(questions) if error else found.result()
    for question, answer in zip(questions, answers, strict=True):
        if question.answer.done():  # whoever asked has gone
            continue
        if isinstance(answer, BaseException):
            question.answer.set_exception(answer)
        else:
            question.answer.set_result(answer)
