"""`poise watch`: what its server tells of run folders, and whom it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import poise
from poise.cli.main import poise as command
from poise.errors import PoiseError, RunError
from poise.tracking.folder import EPISODES_HEADER, RunFolder, episode_lines, json_line, result_of
from poise.training.callbacks import Callback
from poise.training.trainer import Trainer

pytest.importorskip("uvicorn", reason="the extra `watch` is not installed")

from poise.watch.growing import BLOCK, RESULTS, Episodes, Results, sampled
from poise.watch.inside import look
from poise.watch.library import Library
from poise.watch.serve import own_token, serve

TOKEN = "the-token"


def result(iteration: int, steps: int, reward: float | None, **more: Any) -> dict[str, Any]:
    return {
        "episode_reward_mean": reward, "episode_reward_min": reward, "episode_len_mean": 20.0,
        "episodes_total": steps // 20, "timesteps_total": steps, "training_iteration": iteration,
        "time_total_s": steps / 1000, "env_failures_total": 0, "worker_restarts_total": 0,
        "learner/kl": 0.01, "learner/entropy": 0.5, "learner/sgd_steps": 4,
        "learner/skipped_updates": 0, "perf/env_steps_per_s": 1000.0, "perf/env_share": 0.25,
        "perf/learning_share": 0.75, **more,
    }  # fmt: skip


def make_run(folder: Path, iterations: int = 10, *, state: str = "finished", **config: Any) -> Path:
    """A run of so many iterations of 1,000 steps, whose returns rise from 0 by 1 each episode."""
    run = RunFolder(folder)
    settings = {"env": "CartPole-v1", "lr": 0.001, "gamma": 0.99, "seed": 0, "model": {"size": 64}}
    run.write_config({"algorithm": "PPO", "config": {**settings, **config},
                      "stop": {"timesteps_total": 20_000, "episode_reward_mean": 475}})  # fmt: skip
    results = [result(i, 1000 * i, 50.0 * i) for i in range(1, iterations + 1)]
    run.metrics_file.write_text("".join(map(json_line, results)))
    ended = [(20 * i, 0.02 * i, float(i), 20) for i in range(1, 50 * iterations + 1)]
    run.episodes_file.write_text(EPISODES_HEADER + episode_lines(ended))
    run.write_status(state, training_iteration=iterations)
    (folder / "log.txt").write_text("begun\nended\n")
    return folder


@contextmanager
def serving(root: Path, **about: Any) -> Iterator[str]:
    """The server of a folder, by its address with the token."""
    told, ready, servers = list[str](), threading.Event(), list[Any]()

    def begin(server: Any) -> None:
        servers.append(server)
        ready.set()

    about = {"port": 0, "token": TOKEN, "say": told.append, "ready": begin, **about}
    thread = threading.Thread(target=serve, args=(root,), kwargs=about)
    thread.start()
    assert ready.wait(30)
    try:
        yield told[0]
    finally:
        servers[0].should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def ask(url: str, path: str, *, method: str = "GET", **headers: str) -> tuple[int, str, Any]:
    """Status, body and headers of an answer; with the token's cookie unless `cookie` is given."""
    host = url.split("/")[2]
    connection = HTTPConnection(host, timeout=30)
    cookie = f"poise_watch_{host.rpartition(':')[2]}={TOKEN}"
    given = {"Cookie": cookie, **{key.replace("_", "-"): value for key, value in headers.items()}}
    connection.request(method, path, headers=given)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body, answer.headers


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    make_run(root / "cart" / "one", seed=0)
    make_run(root / "cart" / "two", 5, seed=1)
    make_run(root / "cart" / "three", lr=0.01)
    (root / "cart" / "one" / "videos").mkdir()
    (root / "cart" / "one" / "videos" / "before.mp4").write_bytes(b"0123456789")
    return root


@pytest.fixture(scope="module")
def url(runs: Path) -> Iterator[str]:
    with serving(runs) as address:
        yield address


def test_the_table_has_each_run_with_its_numbers_and_settings(url: str) -> None:
    about = json.loads(ask(url, "/api/runs")[1])
    found = {run["id"]: run for run in about["runs"]}
    assert [*found] == ["cart/one", "cart/three", "cart/two"]
    one, two = found["cart/one"], found["cart/two"]
    assert (one["return"], one["steps"], one["goal"], one["state"]) == (
        500,
        10_000,
        475,
        "finished",
    )
    assert one["curve"]["return"] == [50.0 * i for i in range(1, 11)]
    assert one["settings"]["model.size"] == 64
    assert one["group"] == two["group"] != found["cart/three"]["group"]  # the seed alone differs


def test_the_page_of_a_run_has_its_episodes_and_their_means(url: str) -> None:
    page = json.loads(ask(url, "/api/run?run=cart/one")[1])
    assert page["episodes"]["return"] == [float(i) for i in range(1, 501)]
    assert page["mean"]["return"][-1] == np.mean(range(401, 501))
    assert page["mean"]["steps"][-1] == 10_000
    assert page["log"] == ["begun", "ended"]
    kl = next(each for each in page["health"] if each["key"] == "learner/kl")
    assert (kl["now"], kl["state"], kl["band"]) == (0.01, "good", [0.0, 0.05])
    part = json.loads(ask(url, "/api/run?run=cart/one&x=steps&start=2000&end=2100")[1])
    assert part["episodes"]["return"] == [100, 101, 102, 103, 104, 105]


def test_a_film_is_sent_in_parts(url: str) -> None:
    status, body, headers = ask(url, "/api/film?run=cart/one&name=before.mp4", Range="bytes=2-4")
    assert (status, body, headers["content-type"]) == (206, "234", "video/mp4")


# Who is let in.


def test_the_token_becomes_a_cookie_and_leaves_the_address(url: str) -> None:
    status, _, headers = ask(url, f"/?token={TOKEN}", Cookie="")
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert ask(url, "/")[0] == 200


@pytest.mark.parametrize("path", ["/", "/api/runs", "/api/events", "/page/main.js", "/nothing"])
def test_nobody_is_let_in_without_the_token(url: str, path: str) -> None:
    for cookie in ("", "poise_watch=x", 'a="'):
        status, body, _ = ask(url, path, Cookie=cookie)
        assert status == 401
        assert "`poise watch` has printed" in body
    assert ask(url, f"{path}?token=wrong", Cookie="")[0] == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7380", "localhost.evil.example", ""]
)
def test_names_that_others_may_own_are_refused(url: str, host: str) -> None:
    assert ask(url, "/api/runs", Host=host)[0] in (400, 421)


def test_pages_of_others_are_refused(url: str) -> None:
    for origin in ("http://evil.example", "null", "https://127.0.0.1:1"):
        assert ask(url, "/api/runs", Origin=origin)[0] == 403
    assert ask(url, "/api/runs", Sec_Fetch_Site="cross-site")[0] == 403
    own = f"http://{url.split('/')[2]}"
    assert ask(url, "/api/runs", Origin=own, Sec_Fetch_Site="same-origin")[0] == 200


def test_every_answer_has_a_policy_that_runs_nothing_inline(url: str) -> None:
    for path, cookie in (("/", None), ("/nothing", None), ("/", "")):
        headers = ask(url, path, **({} if cookie is None else {"Cookie": cookie}))[2]
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
    page = ask(url, "/")[1]
    assert "<script>" not in page
    assert "http" not in page.replace("http-equiv", "")  # nothing is asked of anybody else


@pytest.mark.parametrize(
    "path",
    [
        "/page/../app.py", "/page/..%2fapp.py", "/page/%2e%2e/guard.py", "/page//etc/passwd",
        "/api/run?run=../one", "/api/run?run=cart/../cart/one", "/api/run?run=/etc", "/api/run",
        "/api/film?run=cart/one&name=../config.json", "/api/film?run=cart/one&name=%00.mp4",
        "/api/film?run=..&name=before.mp4", "/api/film?run=cart/one&name=../videos/before.mp4",
    ],
)  # fmt: skip
def test_paths_lead_nowhere_else(url: str, path: str) -> None:
    assert ask(url, path)[0] == 404


def test_nothing_can_be_changed_unless_it_was_allowed(runs: Path, tmp_path: Path, url: str) -> None:
    own = f"http://{url.split('/')[2]}"
    status, body, _ = ask(url, "/api/stop?run=cart/one", method="POST", Origin=own)
    assert status == 403
    assert "--stops" in body
    assert not (runs / "cart" / "one" / "stop").exists()
    make_run(tmp_path / "e" / "r")
    with serving(tmp_path, stops=True) as allowed:
        own = f"http://{allowed.split('/')[2]}"
        assert ask(allowed, "/api/stop?run=e/r", method="POST")[0] == 403  # no page of ours asks
        assert ask(allowed, "/api/stop?run=e/r")[0] == 405
        assert ask(allowed, "/api/stop?run=e/r", method="POST", Origin=own)[0] == 204
        assert (tmp_path / "e" / "r" / "stop").exists()
        assert ask(allowed, "/api/stop?run=../e", method="POST", Origin=own)[0] == 404


# Folders that may come from anybody.


def test_links_out_of_a_run_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret\n")
    root = tmp_path / "runs"
    for name in ("log.txt", "metrics.jsonl", "config.json"):
        folder = make_run(root / "e" / name.partition(".")[0])
        (folder / name).unlink()
        (folder / name).symlink_to(secret)
    films = make_run(root / "e" / "film") / "videos"
    films.mkdir()
    (films / "a.mp4").symlink_to(secret)
    pipe = make_run(root / "e" / "pipe")
    (pipe / "episodes.csv").unlink()
    os.mkfifo(pipe / "episodes.csv")  # reading it would wait for ever
    (root / "out").symlink_to(tmp_path)
    library = Library(root)
    rows = library.rows()
    states = {known: row["state"] for known, row in rows.items()}
    assert states.pop("e/film") == "finished"
    assert {*states.values()} == {"refused"}
    assert "leads out" in rows["e/log"]["note"]
    assert library.story("e/log") is None
    story = library.story("e/film")
    assert story is not None
    assert story.page()["films"] == []
    assert library.notes == ["1 folder was left out: links, which are not followed."]
    with serving(root) as address:
        assert ask(address, "/api/film?run=e/film&name=a.mp4")[0] == 404
        assert "the secret" not in ask(address, "/api/runs")[1]


def test_broken_files_are_shown_as_far_as_they_go(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "e" / "broken")
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"training_iteration": 11, "timesteps_total": "<b>", "learner/kl": "x"}\n')
        file.write(b"[" * 100_000 + b"\n" + b"\xff\x00\n" + b'{"training_iteration": 12,\n')
        file.write(b'{"training_iteration": 13, "timesteps_total": 1e999, "x": NaN}\n')
    (folder / "episodes.csv").open("a").write(
        "nan,1,2,3\n1,2,3\n12000,12,inf,20\n13000,13,7.0,20\n"
    )
    (folder / "status.json").write_text('{"state": ["<script>"]}')
    (folder / "about.json").write_text('{"sessions": [{"began": {"a": [1]}}, 3]}')
    (folder / "checkpoints" / "000001").mkdir(parents=True)
    huge = {"type": "Box", "shape": [10**6, 10**6], "low": 0, "high": 1, "dtype": "float32"}
    manifest = {"iteration": 1, "score": "x", "observation_space": huge, "action_space": huge}
    (folder / "checkpoints" / "000001" / "manifest.json").write_text(json.dumps(manifest))
    library = Library(tmp_path)
    assert library.rows()["e/broken"]["state"] == "damaged"
    story = library.story("e/broken")
    if story is not None:
        assert json.dumps(story.page(), allow_nan=False)


def test_names_are_text_and_their_addresses_plain(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>\u202e\x1b[31m"
    make_run(tmp_path / "e" / name)
    [(known, row)] = Library(tmp_path).rows().items()
    assert known == "e/%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E%E2%80%AE%1B%5B31m"
    assert row["name"] == "<img src=x onerror=alert(1)>\\u202e\\x1b[31m"
    with serving(tmp_path) as address:
        found = ask(address, f"/api/run?run={known.replace('%', '%25')}")
        assert json.loads(found[1])["log"] == ["begun", "ended"]


# Files that grow.


def test_results_are_thinned_but_evaluations_and_the_last_are_kept(tmp_path: Path) -> None:
    count = 4 * RESULTS + 3
    file = tmp_path / "metrics.jsonl"
    rows = [
        result(i, 10 * i, float(i), **({"evaluation/episode_reward_mean": 1.0} if i == 77 else {}))
        for i in range(1, count + 1)
    ]
    file.write_text("".join(map(json_line, rows)))
    results = Results(file)
    results.read()
    assert results.count == count
    assert RESULTS <= len(results.rows) <= 2 * RESULTS
    steps = np.diff([row["timesteps_total"] for row in results.rows])
    assert {*steps.tolist()} == {10 * results.stride}
    assert [row["training_iteration"] for row in results.evaluations] == [77]
    assert results.last["training_iteration"] == count
    some = [row["training_iteration"] for row in sampled(file, 10)]
    assert (some[0], some[-1]) == (1, count)
    assert 10 <= len(some) <= 11


def test_a_file_is_read_on_where_it_grew_and_anew_where_it_was_cut(tmp_path: Path) -> None:
    file = tmp_path / "episodes.csv"
    file.write_text(EPISODES_HEADER + "10,0.1,1.0,10\n20,0.2,2")
    episodes = Episodes(file)
    assert episodes.read().tolist() == [[10, 0.1, 1, 10]]  # half a line may still become another
    with file.open("a") as more:
        more.write("5.5,10\n30,0.3,nan,10\n")
    assert episodes.read()[:, 0].tolist() == [10, 20, 30]
    assert episodes.read()[1].tolist() == [20, 0.2, 25.5, 10]
    file.write_text(EPISODES_HEADER + "10,0.1,1.0,10\n")  # a resumed run has dropped the rest
    assert episodes.read().tolist() == [[10, 0.1, 1, 10]]


def test_a_line_without_an_end_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    line = json_line(result(1, 10, 1.0))
    file.write_bytes(b'{"x": "' + b"a" * (2 * BLOCK + 5) + b'"}\n' + line.encode())
    results = Results(file)
    results.read()
    assert [row["training_iteration"] for row in results.rows] == [1]
    with file.open("a") as more:
        more.write(json_line(result(2, 20, 1.0)))
    results.read()
    assert (results.count, results.last["training_iteration"]) == (2, 2)


def test_a_long_run_is_not_read_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred million steps, 30,000 results: hardly more lines are parsed than are kept."""
    folder = make_run(tmp_path / "e" / "long")
    lines = "".join(json_line(result(i, 3_000 * i, float(i))) for i in range(1, 30_001))
    (folder / "metrics.jsonl").write_text(lines)
    ended = episode_lines((100 * i, 0.01 * i, float(i % 1_000), 100) for i in range(1, 100_001))
    (folder / "episodes.csv").write_text(EPISODES_HEADER + ended)
    parsed = []

    def counted(line: bytes) -> Any:
        parsed.append(line)
        return result_of(line)

    monkeypatch.setattr("poise.watch.growing.result_of", counted)
    story = Library(tmp_path).story("e/long")
    assert story is not None
    page = story.page()
    assert len(parsed) < 2.5 * RESULTS
    assert page["notes"] == ["Of 30,000 results, one in 16 is drawn."]
    shown = page["episodes"]
    assert (shown["count"], shown["each"]) == (100_000, 50)
    # The lowest and the highest of every 50 are there.
    assert {*shown["return"]} >= {0.0, 999.0}
    assert len(json.dumps(page)) < 1_000_000
    close = story.page("steps", 5_000_000, 5_100_000)["episodes"]
    assert (close["count"], close["each"]) == (1_001, 1)
    before = len(parsed)
    story.page()
    assert len(parsed) == before  # what was read is not read again


# The command.


def test_the_command_says_what_it_needs(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["watch", str(tmp_path / "none")])
    assert done.exit_code == 2
    assert "There is no folder" in done.output
    with pytest.raises(RunError, match="There is no folder"):
        serve(tmp_path / "none")
    with serving(tmp_path) as url, pytest.raises(PoiseError, match=r"cannot listen .* --port"):
        serve(tmp_path, port=int(url.split(":")[2].split("/")[0]))


def test_a_run_itself_can_be_watched(tmp_path: Path) -> None:
    make_run(tmp_path / "e" / "r")
    assert [*look(tmp_path / "e" / "r").runs] == ["."]
    assert Library(tmp_path / "e" / "r").rows()["."]["return"] == 500


def test_a_file_asks_a_run_to_end(tmp_path: Path) -> None:
    class Asks(Callback):
        def on_iteration(self, trainer: Trainer, result: dict[str, Any]) -> None:
            if trainer.iteration == 3:
                (tmp_path / "PPO_CartPole-v1" / "r" / "stop").touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("poise.tracking.recorder.HEARTBEAT_S", 0.0)
        run = poise.run("PPO", "CartPole-v1", stop={"training_iteration": 50}, folder=tmp_path,
                        name="r", quiet=True, callbacks=[Asks()])  # fmt: skip
        assert run.result["stop_reason"] == "interrupted"
        assert run.result["training_iteration"] < 6
        assert RunFolder(run.path).status()["state"] == "stopped"
        assert "Asked to end by" in (run.path / "log.txt").read_text()
        run = poise.resume(run.path, stop={"training_iteration": 8}, quiet=True)
        assert run.result["training_iteration"] == 8  # the old file asks no more


def test_the_token_of_a_user_is_kept_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POISE_HOME", str(tmp_path / "home"))
    token = own_token()
    file = tmp_path / "home" / "watch.token"
    assert len(token) >= 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert own_token() == token
    file.chmod(0o644)  # somebody else may have read it
    assert own_token() != token
    file.chmod(0o600)
    file.write_text("short")
    assert len(own_token()) >= 32
    monkeypatch.setenv("POISE_HOME", "/proc/nowhere")
    assert len({own_token(), own_token()}) == 2


def test_the_page_needs_no_pytorch() -> None:
    """Nor the memory that it takes."""
    code = "import poise.watch.serve, poise.watch.app, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
