"""Who may ask the server: a page of this very address, with the token. All others are refused.

A server on loopback can be reached by every web page that its user's browser opens (by forged
requests, and by names that are made to lead to 127.0.0.1), and by every user of the machine.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""What the page may load and run: only what this server sends, and nothing that stands inline."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
HOW = "Open the address that `poise watch` has printed: it holds the token."


class Guard:
    """Lets in who comes from here and has the token, and gives every answer its headers.

    Args:
        app: what is guarded.
        token: the secret in the address that the command prints; the first visit turns it into a
            cookie, so that it stands in no later address.
        cookie: the name of that cookie, of one's own for each server of a machine.
    """

    def __init__(self, app: ASGIApp, token: str, cookie: str = "poise_watch") -> None:
        self.app, self.token, self.cookie = app, token, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer = self._answer(scope) or self.app
        await answer(scope, receive, send_with_headers)

    def _answer(self, scope: Scope) -> Response | None:
        """What is answered in the app's place; None lets the request through."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not is_local_name(host):
            return refused(f"The name {host[:100]!r} is not one of this server's.", 421)
        if origin is not None and origin != f"http://{host}":
            return refused(f"Pages of {origin[:100]} may not ask this server.")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return refused("Pages of other addresses may not ask this server.")
        if scope["method"] not in ("GET", "HEAD") and origin is None:
            return refused("A change must be asked for by the page itself.")
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if given := query.get("token"):
            if not self._is_token(given[0]):
                return refused(f"The token is wrong. {HOW}")
            inside = RedirectResponse(scope["path"], 303)
            inside.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
            return inside
        if not self._is_token(_cookie(headers.get("cookie", ""), self.cookie)):
            return refused(f"There is no token. {HOW}", 401)
        return None

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())


def refused(why: str, status: int = 403) -> Response:
    """An answer of one sentence."""
    return PlainTextResponse(f"{why}\n", status)


def is_local_name(host: str) -> bool:
    """Whether a request's `Host` is a name that nobody else can make lead here: localhost, this
    machine's own name, or an address in numbers."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        return name in ("localhost", socket.gethostname().lower())


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found else ""
