"""The token of clusters: who may read it, who is asked for it, what is said where it is wrong."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from poise.cluster import local, token
from poise.cluster.connect import ray_of
from poise.errors import ClusterError, PoiseWarning

grpc = pytest.importorskip("grpc")


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home folder of the test's own; what is put into the environment is taken out again."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for name in (token.MODE, token.VALUE, token.FILE, token.LOOPBACK):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def head() -> Iterator[list[str | None]]:
    """What answers as a head does; its first item is the token that it asks for, and it appends
    those that it is shown, its address first."""
    asked: list[str | None] = [None]

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        shown = dict(context.invocation_metadata()).get("authorization")
        asked.append(shown)
        if asked[0] is not None and shown != f"Bearer {asked[0]}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return b""

    method, make = grpc.unary_unary_rpc_method_handler(answer), grpc.method_handlers_generic_handler
    services = (
        make("ray.rpc.NodeInfoGcsService", {"CheckAlive": method}),
        make("ray.rpc.RayletDriver", {"KVExists": method}),  # for those who come by ray://
    )
    server = grpc.server(ThreadPoolExecutor(2), handlers=services)
    asked.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    server.start()
    yield asked
    server.stop(None)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_token_is_its_owners_alone(home: Path) -> None:
    before = os.umask(0)  # whatever the process gives away, the token it does not
    try:
        text = token.read_token()
    finally:
        os.umask(before)
    file = home / ".ray" / "auth_token"
    assert file.read_text() == text
    assert len(text) == 64
    assert (mode(file), mode(file.parent)) == (0o600, 0o700)
    assert {each.name for each in file.parent.iterdir()} <= {"auth_token", "auth_token.lock"}
    assert token.read_token() == text


def test_many_who_make_it_at_once_have_one(home: Path) -> None:
    children = []
    for _ in range(6):
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, token.read_token().encode())
            os._exit(0)
        os.close(write)
        children.append(read)
    texts = {os.read(read, 100).decode() for read in children}
    assert texts == {(home / ".ray" / "auth_token").read_text()}


def test_a_token_that_others_may_read_is_closed(home: Path) -> None:
    (home / ".ray").mkdir()
    file = home / ".ray" / "auth_token"
    file.write_text("secret" * 10)  # as Ray writes it
    file.chmod(0o644)
    with pytest.warns(PoiseWarning, match="could be read by others") as said:
        token.read_token()
    assert mode(file) == 0o600
    assert "secretsecret" not in str(said[0].message)


def test_rays_own_variables_say_where_it_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(token.FILE, str(home / "elsewhere" / "token"))
    text = token.read_token()
    assert (home / "elsewhere" / "token").read_text() == text
    monkeypatch.setenv(token.VALUE, "from the environment")
    assert token.read_token() == "from the environment"
    (home / "elsewhere" / "token").write_text("\n")
    monkeypatch.delenv(token.VALUE)
    with pytest.raises(ClusterError, match="is empty"):
        token.read_token()


def test_children_are_told_to_use_it() -> None:
    assert token.authenticate() == {"RAY_AUTH_MODE": "token"}
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert token.authenticate(token=False)["RAY_AUTH_MODE"] == "disabled"


SCHEMES = pytest.mark.parametrize("scheme", ["", "ray://"])


@SCHEMES
def test_a_head_that_knows_the_token_is_used(scheme: str, head: list[str | None]) -> None:
    head[0] = token.read_token()
    found = token.check_ray(f"{scheme}{head[1]}")
    assert found == {"RAY_AUTH_MODE": "token", token.LOOPBACK: "0"}


@SCHEMES
def test_another_token_is_refused_at_once(scheme: str, head: list[str | None], home: Path) -> None:
    head[0] = "of another cluster"
    with pytest.raises(ClusterError, match=r"does not know the token in .*auth_token") as refused:
        ray_of(f"{scheme}{head[1]}")
    assert token.read_token() not in str(refused.value)


def test_an_unguarded_head_is_refused_and_shown_no_token(head: list[str | None]) -> None:
    with pytest.raises(
        ClusterError, match=r"runs without token authentication.*RAY_AUTH_MODE=disabled"
    ):
        token.check_ray(str(head[1]))
    assert token.check_ray(str(head[1]), allow_no_token=True)["RAY_AUTH_MODE"] == "disabled"
    assert head[2:] == [None, None]


def test_nobody_there_is_said(head: list[str | None]) -> None:
    with pytest.raises(ClusterError, match=r"Nothing answers at 127.0.0.1:1 \(unavailable\)"):
        token.check_ray("127.0.0.1:1")
    with pytest.raises(ClusterError, match=r"Nothing answers at ray://127.0.0.1:1 \(unavailable"):
        token.check_ray("ray://127.0.0.1:1")


def test_without_ray_it_is_said_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for start in (lambda: token.check_ray("127.0.0.1:1"), local.start):
        with pytest.raises(ClusterError, match=r"A cluster needs Ray: .*pip install .*\[ray\]"):
            start()
