"""`poise serve`: its answers are those of `predict`, and strangers get none."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from click.testing import CliRunner
from gymnasium import spaces

import poise
from poise.cli.main import poise as command
from poise.errors import PoiseError
from poise.training.trainer import Trainer

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from poise.watch import policy as serving_policy
from poise.watch import serve

TOKEN = "the-token"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
SMALL: dict[str, Any] = {"preset": None, "seed": 1, "progress": False}


@contextmanager
def serving(trainer: Trainer, **about: Any) -> Iterator[tuple[str, int]]:
    """The server of a policy, by its address."""
    told, ready, servers = list[str](), threading.Event(), list[Any]()

    def begin(server: Any) -> None:
        servers.append(server)
        ready.set()

    about = {"port": 0, "token": TOKEN, "say": lambda at, token: told.append(at), **about}
    about["ready"] = begin
    thread = threading.Thread(target=serve.serve_policy, args=(trainer,), kwargs=about)
    thread.start()
    assert ready.wait(30)
    host, _, port = told[0].removeprefix("http://").rpartition(":")
    try:
        yield host, int(port)
    finally:
        servers[0].should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def ask(
    at: tuple[str, int],
    question: Any = None,
    path: str = "/act",
    method: str = "POST",
    **headers: str,
) -> tuple[int, Any, Any]:
    """Status, answer and headers of a question: JSON, or bytes."""
    connection = HTTPConnection(*at, timeout=30)
    raw = isinstance(question, bytes)
    body = question if raw or question is None else json.dumps(question)
    kind = {"Content-Type": "application/octet-stream"} if raw else {}
    connection.request(method, path, body, {**HEADERS, **kind, **headers})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    is_json = answer.headers.get("content-type") == "application/json"
    return answer.status, json.loads(content) if is_json else content, answer.headers


@pytest.fixture(scope="module")
def cart_pole() -> Iterator[tuple[Trainer, tuple[str, int]]]:
    with poise.PPO("CartPole-v1", **SMALL) as trainer, serving(trainer) as at:
        yield trainer, at


@pytest.fixture(scope="module")
def observations() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)


# --- what is answered -----------------------------------------------------------------------------


def test_answers_are_those_of_predict_in_json_and_in_bytes(
    cart_pole: Any, observations: np.ndarray
) -> None:
    trainer, at = cart_pole
    expected = trainer.predict(observations)[0]
    assert {0, 1} == set(expected.tolist())
    status, answer, _ = ask(at, {"observation": observations.tolist()})
    assert (status, answer) == (200, {"action": expected.tolist()})
    status, answer, _ = ask(at, {"observation": observations[3].tolist()})
    assert (status, answer) == (200, {"action": int(expected[3])})
    status, content, headers = ask(at, observations.astype("<f4").tobytes())
    assert (status, headers["x-dtype"], headers["x-shape"]) == (200, "int64", "40")
    assert np.frombuffer(content, "<i8").tolist() == expected.tolist()
    sampled = ask(at, {"observation": [[0.0] * 4] * 200, "explore": True})[1]["action"]
    assert 0 < sum(sampled) < 200


def test_many_callers_at_once_are_computed_together(observations: np.ndarray) -> None:
    """Each gets its own answer; one whose observation is not finite spoils no other's."""
    with poise.PPO("CartPole-v1", **SMALL) as trainer, serving(trainer, window_s=0.3) as at:
        expected = trainer.predict(observations)[0].tolist()
        questions: list[Any] = [{"observation": each.tolist()} for each in observations]
        questions[7] = {"observation": [0.0, 0.0, float("nan"), 0.0]}
        with ThreadPoolExecutor(len(questions)) as pool:
            answers = list(pool.map(lambda question: ask(at, question), questions))
        assert [status for status, _, _ in answers] == [400 if i == 7 else 200 for i in range(40)]
        assert "not finite" in answers[7][1]["error"]
        found = [answer.get("action") for _, answer, _ in answers]
        assert [each for i, each in enumerate(found) if i != 7] == [
            each for i, each in enumerate(expected) if i != 7
        ]
        text = ask(at, path="/metrics", method="GET")[1].decode()
        numbers = dict(line.rsplit(" ", 1) for line in text.splitlines())
        assert numbers['poise_requests_total{status="200"}'] == "39"
        assert numbers['poise_requests_total{status="400"}'] == "1"
        assert numbers['poise_request_seconds_bucket{le="+Inf"}'] == "39"
        assert int(numbers["poise_observations_total"]) == 39
        assert int(numbers["poise_batches_total"]) < 20


def test_a_memory_goes_out_and_in_or_stays_as_a_session(observations: np.ndarray) -> None:
    memory = {"memory": "lstm", "lstm_cell_size": 8, "lstm_use_prev_action": True}
    with poise.PPO("CartPole-v1", model=memory, **SMALL) as trainer, serving(trainer) as at:
        expected, state = [], None
        for each in observations[:6]:
            action, state = trainer.predict(each, state)
            expected.append(int(action))
        ends = [part.tolist() for part in state]
        given: Any = None
        for each, action in zip(observations[:6], expected, strict=True):
            answer = ask(at, {"observation": each.tolist(), "state": given})[1]
            given = answer["state"]
            assert answer["action"] == action
        for mine, theirs in zip(given, ends, strict=True):
            assert np.allclose(mine, theirs, atol=1e-6)
        began = []
        for each, action in zip(observations[:6], expected, strict=True):
            answer = ask(at, {"observation": each.tolist(), "session": "a"})[1]
            began.append(answer["began"])
            assert answer["action"] == action
        assert began == [True, *[False] * 5]
        wrong = ask(at, {"observation": [0.0, 0.0, float("nan"), 0.0], "session": "a"})
        assert wrong[0] == 400
        again = ask(at, {"observation": observations[0].tolist(), "session": "a"})[1]
        assert not again["began"]  # a question that is refused changes no memory
        both = {"observation": observations[0].tolist(), "session": "a", "state": given}
        assert "not both" in ask(at, both)[1]["error"]
        assert ask(at, path="/sessions/a", method="DELETE")[1] == {"forgotten": True}
        assert ask(at, path="/sessions/a", method="DELETE")[1] == {"forgotten": False}
        assert ask(at, {"observation": observations[0].tolist(), "session": "a"})[1]["began"]


def test_a_session_answers_one_question_at_a_time() -> None:
    question = {"observation": [0.0] * 4, "session": "a"}
    with poise.PPO("CartPole-v1", **SMALL) as trainer, serving(trainer, window_s=0.5) as at:
        with ThreadPoolExecutor(2) as pool:
            answers = [each[:2] for each in pool.map(lambda _: ask(at, question), range(2))]
        assert sorted(status for status, _ in answers) == [200, 409]
        (refused,) = (answer for status, answer in answers if status == 409)
        assert refused["error"] == "A question of the session 'a' is underway."
        assert ask(at, question)[0] == 200


def test_sessions_are_forgotten_beyond_a_number_and_that_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving_policy, "SESSIONS", 2)
    with poise.PPO("CartPole-v1", **SMALL) as trainer, serving(trainer) as at:
        for name in "abac":
            ask(at, {"observation": [0.0] * 4, "session": name})
        assert ask(at, {"observation": [0.0] * 4, "session": "a"})[1]["began"] is False
        assert ask(at, {"observation": [0.0] * 4, "session": "b"})[1]["began"] is True
        text = ask(at, path="/metrics", method="GET")[1].decode()
        assert "poise_sessions 2\n" in text
        assert "poise_sessions_forgotten_total 2\n" in text


class Mixed(gym.Env):
    """Observations and actions of several parts, with a mask in its info."""

    observation_space = spaces.Dict({"x": spaces.Box(-1, 1, (2,)), "n": spaces.Discrete(3)})
    action_space = spaces.Tuple((spaces.Discrete(4), spaces.Box(-2, 2, (2,))))

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, True, {}


class Masked(gym.Env):
    observation_space = spaces.Dict(
        {"observation": spaces.Box(-1, 1, (2,)), "action_mask": spaces.Box(0, 1, (3,), np.int8)}
    )
    action_space = spaces.Discrete(3)
    reset, step = Mixed.reset, Mixed.step


def test_parts_and_masks_go_through_json() -> None:
    with poise.PPO(Mixed, **SMALL) as trainer, serving(trainer) as at:
        given = [{"x": [0.5, -0.5], "n": 2}, {"x": [[0.5, -0.5], [0, 1]], "n": [2, 0]}]
        for each in given:
            seen = {"x": np.array(each["x"], np.float32), "n": np.array(each["n"])}
            choice, numbers = trainer.predict(seen)[0]
            answer = ask(at, {"observation": each})[1]["action"]
            assert answer[0] == choice.tolist()
            assert np.allclose(answer[1], numbers)
        assert "several parts come as JSON" in ask(at, b"\0" * 12)[1]["error"]
    with poise.PPO(Masked, **SMALL) as trainer, serving(trainer) as at:
        for allowed in range(3):
            mask = [int(i == allowed) for i in range(3)]
            question = {"observation": {"observation": [0.1, 0.2], "action_mask": [1, 1, 1]}}
            assert ask(at, {**question, "action_mask": mask})[1] == {"action": allowed}
            question["observation"]["action_mask"] = mask
            assert ask(at, question)[1] == {"action": allowed}


# --- who may ask, and what ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status", "sentence"),
    [
        ({"Authorization": ""}, 401, "is missing, or has another token"),
        ({"Authorization": "Bearer another"}, 401, "is missing, or has another token"),
        ({"Host": "evil.example"}, 421, "'evil.example' is not one of this server's"),
        ({"Origin": "http://127.0.0.1"}, 403, "Pages in browsers may not ask"),
        ({"Sec-Fetch-Site": "cross-site"}, 403, "Pages in browsers may not ask"),
    ],
)
def test_strangers_are_refused(
    cart_pole: Any, headers: dict[str, str], status: int, sentence: str
) -> None:
    _, at = cart_pole
    for method, path in (
        ("POST", "/act"),
        ("GET", "/"),
        ("GET", "/metrics"),
        ("DELETE", "/sessions/a"),
    ):
        question = {"observation": [0.0] * 4} if method == "POST" else None
        found, answer, _ = ask(at, question, path, method, **headers)
        assert found == status
        assert sentence in answer["error"]
    assert ask(at, None, "/health", "GET", Authorization="")[1] == {"status": "ok"}


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ({"observation": [0.0] * 3}, "of shape (3,) does not fit"),
        ({"observation": [0.0, "a", 0.0, 0.0]}, "This is no observation of Box"),
        ({"observation": None}, "This is no observation of Box"),
        ({}, "has no observation"),
        ([1], "no JSON object"),
        ({"observation": [0.0] * 4, "stat": []}, "no 'stat'. Did you mean 'state'?"),
        (
            {"observation": [0.0] * 4, "policy": "b"},
            "policy='b' is not allowed: there are default.",
        ),
        (b"\0" * 15, "One observation is 16 bytes (float32 [4]), of which 15 are no multiple."),
    ],
)
def test_bad_questions_are_one_sentence(cart_pole: Any, question: Any, sentence: str) -> None:
    status, answer, _ = ask(cart_pole[1], question)
    assert status == 400
    assert sentence in answer["error"]


def test_what_is_not_there_and_what_is_too_large(
    cart_pole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, at = cart_pole
    assert ask(at, None, "/nothing", "GET")[0] == 404
    assert ask(at, None, "/act", "GET")[0] == 405
    monkeypatch.setattr(serving_policy, "LARGEST", 100)
    status, answer, _ = ask(at, {"observation": [[0.0] * 4] * 50})
    assert (status, answer["error"]) == (413, "A question has at most 100 bytes.")
    about = ask(at, None, "/", "GET")[1]
    assert (about["algorithm"], about["env"], about["policies"]) == (
        "PPO",
        "CartPole-v1",
        ["default"],
    )
    assert about["action_space"] == {"type": "Discrete", "n": 2, "start": 0}


def test_the_command_says_where_it_is_and_what_is_missing(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with poise.PPO("CartPole-v1", **SMALL) as trainer:
        saved = str(trainer.save(tmp_path / "c"))

    def served(trainer: Trainer, **about: Any) -> None:
        about["say"]("http://127.0.0.1:1", about["token"] or "made")
        assert about["window_s"] == 0.002

    monkeypatch.setattr(serve, "serve_policy", served)
    done = CliRunner().invoke(command, ["serve", saved, "--window-ms", "2"])
    assert done.exit_code == 0, done.output
    assert "http://127.0.0.1:1/act" in done.output
    assert "The token is made;" in done.output
    monkeypatch.setenv("POISE_TOKEN", "secret")
    done = CliRunner().invoke(command, ["serve", saved, "--window-ms", "2"])
    assert "The token is the one in POISE_TOKEN;" in done.output
    assert "secret" not in done.output
    assert CliRunner().invoke(command, ["serve", str(tmp_path / "nowhere")]).exit_code == 2


def test_small_answers_are_sent_at_once() -> None:
    """asyncio takes Nagle's delay from sockets whose protocol says that they are TCP's."""
    with serve.listen("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP


def test_without_the_extra_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    with (
        poise.PPO("CartPole-v1", **SMALL) as trainer,
        pytest.raises(PoiseError, match=r"poise serve` needs Starlette and uvicorn: .*\[serve\]"),
    ):
        serve.serve_policy(trainer)
