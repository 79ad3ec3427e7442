"""Serves the live page, or a policy, until Ctrl-C."""

from __future__ import annotations

import os
import re
import secrets
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poise.errors import PoiseError, RunError
from poise.files import home
from poise.install import install

if TYPE_CHECKING:
    from poise.training.trainer import Trainer  # which loads PyTorch

PORT = 7380
"""The first port that is tried."""
POLICY_PORT = 7480
"""The same, of a policy that answers."""
TRIED = 20
"""Ports that are tried, one after the other, where none was asked for."""


def serve(
    root: Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    stops: bool = False,
    token: str | None = None,
    say: Callable[[str], object] = print,
    ready: Callable[[Any], object] = lambda server: None,
) -> None:
    """Serves the page of all runs below a folder; ends with Ctrl-C.

    Args:
        root: the folder, which may still be empty.
        host: the address to listen at.
        port: to listen at; None takes the first free one from `PORT` on.
        stops: whether the page may ask runs to end.
        token: the secret; None takes the one of this user, see `own_token`.
        say: is told the address.
        ready: is given the server before it runs.

    Raises:
        RunError: there is no such folder.
        PoiseError: the extra is not installed, or the port is taken.
    """
    if not root.is_dir():
        raise RunError(f"There is no folder {root}: `poise watch` shows the runs below a folder.")
    try:
        import uvicorn

        from poise.watch.app import make_app
    except ImportError:
        raise PoiseError(f"`poise watch` needs Starlette and uvicorn: {install('watch')}") from None
    token = token or own_token()
    listening = listen(host, port)
    bound = listening.getsockname()[1]
    app = make_app(root.absolute(), token, stops=stops, cookie=f"poise_watch_{bound}")
    name = f"[{host}]" if ":" in host else host
    say(f"http://{name}:{bound}/?token={token}")

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: Any = None) -> None:
            app.state.closing.set()  # streams of events end, which would hold the server
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, lifespan="off",
        timeout_graceful_shutdown=2,
    )  # fmt: skip
    server = Server(config)
    ready(server)
    with listening, suppress(KeyboardInterrupt):
        server.run(sockets=[listening])


def serve_policy(
    trainer: Trainer,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    window_s: float = 0.001,
    token: str | None = None,
    say: Callable[[str, str], object] = print,
    ready: Callable[[Any], object] = lambda server: None,
) -> None:
    """Serves a policy; ends with Ctrl-C.

    Args:
        trainer: whose policy acts.
        host: the address to listen at.
        port: to listen at; None takes the first free one from `POLICY_PORT` on.
        window_s: how long a question waits for others, to be computed with them.
        token: the secret; None makes one.
        say: is told the address and the token.
        ready: is given the server before it runs.

    Raises:
        PoiseError: the extra is not installed, or the port is taken.
    """
    try:
        import uvicorn

        from poise.watch.policy import PolicyServer
    except ImportError:
        raise PoiseError(f"`poise serve` needs Starlette and uvicorn: {install('serve')}") from None
    token = token or secrets.token_urlsafe(24)
    listening = listen(host, port, POLICY_PORT)
    name = f"[{host}]" if ":" in host else host
    say(f"http://{name}:{listening.getsockname()[1]}", token)
    app = PolicyServer(trainer, token, window_s).app
    about: dict[str, Any] = {"log_level": "warning", "access_log": False, "lifespan": "off"}
    server = uvicorn.Server(uvicorn.Config(app, server_header=False, **about))
    ready(server)
    with listening, suppress(KeyboardInterrupt):
        server.run(sockets=[listening])


def own_token() -> str:
    """The secret of this user, kept where nobody else may read it: a page that is open goes on when
    its server is started again. Where it cannot be kept, a new one."""
    file, new = home() / "watch.token", secrets.token_urlsafe(24)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            made = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with open(made, "w") as opened:
                opened.write(new)
        about, kept = file.lstat(), file.read_text().strip()
        private = stat.S_ISREG(about.st_mode) and not about.st_mode & 0o077
        if private and re.fullmatch(r"[\w-]{32,64}", kept):
            return kept
    return new


def listen(host: str, port: int | None, first: int = PORT) -> socket.socket:
    """A socket that listens; where no port is asked for, at a free one from `first` on.

    Raises:
        PoiseError: it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for tried in range(first, first + TRIED) if port is None else [port]:
        # With the protocol by name, asyncio sends small answers at once: else each waits for 40 ms.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, tried))
            listening.listen(128)  # whoever opens the address at once waits a moment
            return listening
        except OSError as error:
            listening.close()
            why = error.strerror or error
    at = f"port {port}" if port is not None else f"ports {first} to {first + TRIED - 1}"
    raise PoiseError(f"The server cannot listen at {host}, {at}: {why}. Try another --port.")
