"""`poise serve`: a policy that answers over HTTP, in JSON or in raw arrays."""

from __future__ import annotations

import hmac
import json
import time
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from poise.config.base import env_name
from poise.config.types import brief
from poise.errors import PoiseError, nearest
from poise.install import version_of_poise
from poise.models.policy import State
from poise.spaces.layout import Layout
from poise.tracking.folder import plain
from poise.training.trainer import Trainer
from poise.watch.batching import Batching
from poise.watch.guard import is_local_name

LARGEST = 64 * 2**20
"""Bytes that a question may have."""
SESSIONS = 10_000
"""Memories that are kept at once; the one that was not asked for longest goes first."""
BOUNDS_MS = (1, 2, 5, 10, 20, 50, 100, 1000)
"""Upper bounds, in milliseconds, of the histogram of how long callers waited."""
KEYS = ("observation", "state", "episode_start", "action_mask", "reward")
OTHERS = ("session", "explore", "policy")
RAW = "application/octet-stream"


@dataclass
class Counts:
    """What `/metrics` tells."""

    statuses: Counter[int] = field(default_factory=Counter)
    waited: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_MS) + 1))
    waited_s: float = 0.0
    forgotten: int = 0


class PolicyServer:
    """Answers requests.

    Args:
        trainer: whose policies act; their environment is not made.
        token: the secret that every question but that for health has in its header.
        window_s: how long a question waits for others, to be computed with them.
    """

    def __init__(self, trainer: Trainer, token: str, window_s: float = 0.001) -> None:
        self.trainer, self.token = trainer, token
        self.batching, self.counts = Batching(trainer, window_s), Counts()
        self.sessions: OrderedDict[str, State] = OrderedDict()
        self.busy: set[str] = set()
        routes = [
            Route("/", self.about),
            Route("/act", self.act, methods=["POST"]),
            Route("/sessions/{name}", self.forget, methods=["DELETE"]),
            Route("/metrics", self.metrics),
            Route("/health", self.health),
        ]
        handlers: Any = {HTTPException: self._refused, PoiseError: self._refused}
        self.app = Starlette(routes=routes, exception_handlers=handlers)

    async def about(self, request: Request) -> Response:
        """What acts here, and for which observations."""
        self._admit(request.headers)
        first = next(iter(self.batching.policies.values()))
        return JSONResponse({
            "poise": version_of_poise(), "algorithm": self.trainer.name,
            "env": env_name(self.trainer.config.env), "iteration": self.trainer.iteration,
            "timesteps_total": self.trainer.algorithm.timesteps,
            "policies": list(self.batching.policies), "memory": first.recurrent,
            "observation_space": first.obs_layout.to_json(),
            "action_space": first.action_layout.to_json(),
        })  # fmt: skip

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def act(self, request: Request) -> Response:
        """Actions for one observation or a batch, as `Trainer.predict` has them."""
        began = time.perf_counter()
        self._admit(request.headers)
        raw = request.headers.get("content-type", "").startswith(RAW)
        content = await _content(request)
        asked: dict[str, Any] = dict(request.query_params) if raw else _json(content)
        name = asked.get("policy") or next(iter(self.batching.policies))
        if name not in self.batching.policies:
            known = ", ".join(self.batching.policies)
            raise HTTPException(400, f"policy={brief(name)} is not allowed: there are {known}.")
        policy = self.batching.policies[name]
        if raw:
            asked["observation"] = _array(policy.obs_layout, content)
        if unknown := [key for key in asked if key not in (*KEYS, *OTHERS)]:
            hint = nearest(unknown[0], (*KEYS, *OTHERS))
            raise HTTPException(400, f"A question has no {brief(unknown[0])}.{hint}")
        if "observation" not in asked:
            raise HTTPException(400, "The question has no observation.")
        session = None if asked.get("session") is None else str(asked["session"])
        with self._session(session, asked) as remember:
            question = [asked.get(key) for key in KEYS]
            explore = str(asked.get("explore", False)).lower() in ("true", "1")
            leaves, memory, single = await self.batching.ask(name, explore, *question)
            found = remember(memory)
        self._count(200, time.perf_counter() - began)
        if raw:
            return _bytes(leaves)
        layout = policy.action_layout
        actions = layout.element(leaves, 0) if single else layout.unflatten(leaves)
        return JSONResponse({"action": plain(actions), **found})

    async def forget(self, request: Request) -> Response:
        """Ends a session."""
        self._admit(request.headers)
        known = self.sessions.pop(request.path_params["name"], None) is not None
        return JSONResponse({"forgotten": known})

    async def metrics(self, request: Request) -> Response:
        """In Prometheus's text format."""
        self._admit(request.headers)
        counts, batching, total = self.counts, self.batching, sum(self.counts.waited)
        lines = [f'poise_requests_total{{status="{k}"}} {n}' for k, n in counts.statuses.items()]
        for place, bound in enumerate([*(str(ms / 1000) for ms in BOUNDS_MS), "+Inf"]):
            below = sum(counts.waited[: place + 1])
            lines.append(f'poise_request_seconds_bucket{{le="{bound}"}} {below}')
        lines += [
            f"poise_request_seconds_sum {counts.waited_s:.6f}",
            f"poise_request_seconds_count {total}",
            f"poise_observations_total {batching.observations}",
            f"poise_batches_total {batching.batches}",
            f"poise_policy_seconds_total {batching.seconds:.6f}",
            f"poise_sessions {len(self.sessions)}",
            f"poise_sessions_forgotten_total {counts.forgotten}",
        ]
        return PlainTextResponse("\n".join([*lines, ""]))

    def _admit(self, headers: Headers) -> None:
        """Refuses who has not the token, and pages in browsers."""
        host, given = headers.get("host", ""), headers.get("authorization", "")
        if not is_local_name(host):
            raise HTTPException(421, f"The name {host[:100]!r} is not one of this server's.")
        if "origin" in headers or headers.get("sec-fetch-site", "none") != "none":
            raise HTTPException(403, "Pages in browsers may not ask this server.")
        if not hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode()):
            raise HTTPException(
                401, "The header `Authorization: Bearer TOKEN` is missing, or has another token."
            )

    @contextmanager
    def _session(
        self, name: str | None, asked: dict[str, Any]
    ) -> Iterator[Callable[[State], dict[str, Any]]]:
        """Puts the memory of a session into a question, and gives what takes the one after.

        That returns what is answered beside the action: the memory, where there is no session, or
        whether the session has begun with this question.
        """
        if name is None:
            yield lambda memory: {"state": plain(list(memory))} if memory else {}
            return
        if "state" in asked:
            raise HTTPException(400, "Give a state or a session, not both.")
        if name in self.busy:
            raise HTTPException(409, f"A question of the session {brief(name)} is underway.")
        asked["state"], new = self.sessions.get(name) or None, name not in self.sessions

        def remember(memory: State) -> dict[str, Any]:
            self.sessions[name] = memory
            self.sessions.move_to_end(name)
            while len(self.sessions) > SESSIONS:
                self.sessions.popitem(last=False)
                self.counts.forgotten += 1
            return {"began": new}

        self.busy.add(name)
        try:
            yield remember
        finally:
            self.busy.remove(name)

    def _count(self, status: int, seconds: float) -> None:
        self.counts.statuses[status] += 1
        self.counts.waited_s += seconds
        self.counts.waited[bisect_left(BOUNDS_MS, 1000 * seconds)] += 1

    async def _refused(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 400
        said = error.detail if isinstance(error, HTTPException) else str(error)
        self.counts.statuses[status] += 1
        return JSONResponse({"error": said}, status)


async def _content(request: Request) -> bytearray:
    """A request's body, of which no more is read than is allowed."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > LARGEST:
            raise HTTPException(413, f"A question has at most {LARGEST:,} bytes.")
    return content


def _json(content: bytearray) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"The question is no JSON ({error}).") from None
    if not isinstance(found, dict):
        raise HTTPException(400, 'The question is no JSON object such as {"observation": ...}.')
    return found


def _array(layout: Layout, content: bytearray) -> np.ndarray:
    """A batch of observations of one array each, `[N, ...]`, as their bytes."""
    if len(layout.leaves) != 1:
        raise HTTPException(400, "Observations of several parts come as JSON.")
    leaf = layout.leaves[0]
    size = leaf.dtype.itemsize * int(np.prod(leaf.shape, dtype=int))
    if not content or len(content) % size:
        raise HTTPException(
            400, f"One observation is {size:,} bytes ({leaf.dtype} {list(leaf.shape)}), of which "
            f"{len(content):,} are no multiple.")  # fmt: skip
    return np.frombuffer(content, leaf.dtype.newbyteorder("<")).reshape(-1, *leaf.shape)


def _bytes(leaves: dict[str, np.ndarray]) -> Response:
    """Actions of one array each, as their bytes."""
    if len(leaves) != 1:
        raise HTTPException(400, "Actions of several parts are answered in JSON.")
    (found,) = leaves.values()
    made = np.ascontiguousarray(found, found.dtype.newbyteorder("<"))
    about = {"x-dtype": found.dtype.name, "x-shape": ",".join(map(str, made.shape))}
    return Response(made.tobytes(), media_type=RAW, headers=about)
