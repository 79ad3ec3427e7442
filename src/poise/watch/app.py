"""The server of the live page: what may be asked for, and events that say what has changed."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from poise.errors import RunError
from poise.install import version_of_poise
from poise.tracking.folder import RunFolder
from poise.watch.guard import Guard, refused
from poise.watch.inside import regular
from poise.watch.library import EVERY_S, Library
from poise.watch.search import study

PAGE = Path(__file__).parent / "page"
KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
PING = 15
"""Looks without a change after which a line is sent all the same: it finds out who has left."""


def make_app(root: Path, token: str, *, stops: bool = False, cookie: str = "poise_watch") -> Any:
    """The server.

    Args:
        root: the folder of all runs.
        token: see `Guard`.
        stops: whether the page may ask runs to end.
        cookie: see `Guard`.
    """
    site = Site(Library(root), stops)
    routes = [
        Route("/", site.index),
        Route("/page/{name}", site.page),
        Route("/api/runs", site.runs),
        Route("/api/run", site.run),
        Route("/api/study", site.study),
        Route("/api/film", site.film),
        Route("/api/events", site.events),
        Route("/api/stop", site.stop, methods=["POST"]),
    ]
    guarded = [Middleware(Guard, token=token, cookie=cookie)]
    app = Starlette(routes=routes, middleware=guarded)
    app.state.closing = site.closing
    return app


class Site:
    """Answers requests from a library of runs."""

    def __init__(self, library: Library, stops: bool) -> None:
        self.library, self.stops = library, stops
        self.files = {path.name: path for path in PAGE.iterdir() if path.suffix in KINDS}
        self.closing = threading.Event()

    async def index(self, request: Request) -> Response:
        return self._file("index.html")

    async def page(self, request: Request) -> Response:
        return self._file(request.path_params["name"])

    def _file(self, name: str) -> Response:
        """A file of the page: only those that were there at the start, by their names."""
        if name not in self.files:
            return refused(f"There is no {name[:100]}.", 404)
        return Response(self.files[name].read_bytes(), media_type=KINDS[self.files[name].suffix])

    async def runs(self, request: Request) -> Response:
        return await _json(self._runs)

    def _runs(self) -> dict[str, Any]:
        rows = self.library.rows()
        return {
            "root": str(self.library.root),
            "version": version_of_poise(),
            "stops": self.stops,
            "runs": list(rows.values()),
            **self._about(),
        }

    def _about(self) -> dict[str, Any]:
        return {"notes": self.library.notes, "studies": list(self.library.studies)}

    async def run(self, request: Request) -> Response:
        """One run: `?run=ID`, with `x`, `start` and `end` for a part of it."""
        asked = request.query_params
        story = await run_in_threadpool(self.library.story, asked.get("run", ""))
        if story is None:
            return refused("There is no such run.", 404)
        ends = {name: _number(asked.get(name)) for name in ("start", "end")}
        return await _json(partial(story.page, asked.get("x", "steps"), **ends))

    async def study(self, request: Request) -> Response:
        """One search: `?study=ID`."""
        known = request.query_params.get("study", "")
        rows = await run_in_threadpool(self.library.rows)
        folder = self.library.studies.get(known)
        if folder is None:
            return refused("There is no such search.", 404)
        try:
            return await _json(partial(study, folder, known, rows))
        except RunError as error:
            return refused(str(error), 409)

    async def film(self, request: Request) -> Response:
        """A film of a run, or a part of it, as players ask for it."""
        asked = request.query_params
        folder = await run_in_threadpool(self.library.folder, asked.get("run", ""))
        name = asked.get("name", "")
        film = None if folder is None or Path(name).name != name else folder / "videos" / name
        if folder is None or film is None or film.suffix != ".mp4" or not regular(film, folder):
            return refused("There is no such film.", 404)
        return FileResponse(film, media_type="video/mp4")

    async def events(self, request: Request) -> Response:
        return StreamingResponse(self._events(request), media_type="text/event-stream")

    async def _events(self, request: Request) -> AsyncIterator[str]:
        """The rows of the runs that have changed, as they change; at first, all."""
        sent: dict[str, int] = {}
        quiet = 0
        while not self.closing.is_set() and not await request.is_disconnected():
            rows = await run_in_threadpool(self.library.rows)
            changed = [row for known, row in rows.items() if sent.get(known) != row["version"]]
            gone = [known for known in sent if known not in rows]
            sent = {known: row["version"] for known, row in rows.items()}
            quiet += 1
            if changed or gone or not quiet % PING:
                quiet = 0
                told = {"runs": changed, "gone": gone, **self._about()}
                yield f"data: {_dump(told)}\n\n"
            await asyncio.sleep(EVERY_S)

    async def stop(self, request: Request) -> Response:
        """Asks a run to end with a checkpoint."""
        if not self.stops:
            return refused("Runs may be ended from here only after `poise watch --stops`.")
        folder = await run_in_threadpool(self.library.folder, request.query_params.get("run", ""))
        if folder is None:
            return refused("There is no such run.", 404)
        try:
            with suppress(FileExistsError):  # it was asked already
                os.close(
                    os.open(
                        RunFolder(folder).stop_file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600
                    )
                )
        except OSError as error:
            return refused(f"The run cannot be asked to end: {error.strerror}.", 409)
        return Response(status_code=204)


async def _json(make: Callable[[], Any]) -> Response:
    return Response(await run_in_threadpool(lambda: _dump(make())), media_type="application/json")


def _dump(value: Any) -> str:
    """JSON without NaN, which browsers do not read."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _number(given: str | None) -> float | None:
    try:
        return None if given is None else float(given)
    except ValueError:
        return None
