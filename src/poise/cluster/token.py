"""The token that a cluster asks everybody for: whoever reaches a Ray without one may run any
program there.

    environment = authenticate()              # for this process, and for children
    check_ray("10.0.0.4:6379")                # before `ray.init`, which would wait 20 s and mislead
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import filelock

from poise.errors import ClusterError, PoiseWarning, writing
from poise.install import install

MODE, VALUE, FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
"""Ray's own variables: whether there is a token, the token itself, and the file that it is in."""
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Where this is "0", Ray keeps `127.0.0.1`, which else becomes an address that others reach."""
ANSWER_S = 5.0
"""Seconds in which a cluster answers, or is said not to."""
UNPROTECTED = (
    "The cluster at {address} runs without token authentication: whoever reaches it may run any"
    " program there. Start it with RAY_AUTH_MODE=token, or say that you mean it: {how}."
)
REFUSED = (
    "The cluster at {address} does not know the token in {where}: copy the file ~/.ray/auth_token"
    " of its head there (mode 0600), or name another with RAY_AUTH_TOKEN_PATH."
)
SILENT = (
    "Nothing answers at {address} ({reason}): is the cluster up, and the tunnel to it?"
    " `poise cluster status` shows the one of this machine."
)


def need_ray() -> None:
    """Says what to install, if Ray is not.

    Raises:
        ClusterError: it is not.
    """
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("grpc") is None:
        raise ClusterError(f"A cluster needs Ray: {install('ray')}")


def token_file() -> Path:
    """Where the token lies: `RAY_AUTH_TOKEN_PATH`, or Ray's own place in the home folder."""
    return Path(os.environ.get(FILE) or Path.home() / ".ray" / "auth_token")


def where_token() -> str:
    """The token's place in a sentence; never the token."""
    return f"${VALUE}" if os.environ.get(VALUE) else str(token_file())


def read_token() -> str:
    """The token, made where there is none: readable by nobody else, in a folder of the same kind.

    Raises:
        ClusterError: the file is empty or cannot be read.
        RunError: it cannot be written.
    """
    if text := os.environ.get(VALUE):
        return text
    file = token_file()
    if not file.exists():
        _make(file)
    try:
        if os.name != "nt" and (mode := file.stat().st_mode) & 0o077:
            with suppress(OSError):  # another's, as where Kubernetes puts it
                file.chmod(mode & 0o700)  # Ray writes it for all to read
                said = f"The token in {file} could be read by others; from now on it cannot."
                warnings.warn(said, PoiseWarning, stacklevel=3)
        token = file.read_text().strip()
    except OSError as error:
        raise ClusterError(f"The token in {file} cannot be read: {error.strerror}.") from None
    if not token:
        raise ClusterError(f"The token in {file} is empty: remove the file, and a new one is made.")
    return token


def _make(file: Path) -> None:
    """A new token; where two processes make one at the same time, there is one."""
    with writing(file):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with filelock.FileLock(f"{file}.lock"):
            if not file.exists():
                part = file.with_suffix(f".{os.getpid()}")
                with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
                    out.write(secrets.token_hex(32))
                part.replace(file)


def authenticate(*, token: bool = True, loopback: bool = False) -> dict[str, str]:
    """Switches token authentication on, here and in the children that get the result.

    Args:
        token: False for a cluster without one, to which the token is not shown either.
        loopback: whether the cluster lies on 127.0.0.1, to which Ray is held then.

    Returns:
        Variables for children, beside `os.environ`, which has them, too.
    """
    if token:
        read_token()
    variables = {MODE: "token" if token else "disabled"} | ({LOOPBACK: "0"} if loopback else {})
    os.environ.update(variables)
    if ray := sys.modules.get("ray._raylet"):  # it was imported before, and remembers
        ray.Config.initialize("")
        ray.AuthenticationTokenLoader.instance().reset_cache()
        if loopback:
            sys.modules["ray._private.ray_constants"].__dict__["ENABLE_RAY_CLUSTER"] = False
    return variables


def check_ray(address: str, *, allow_no_token: bool = False) -> dict[str, str]:
    """Asks a cluster's head (its GCS, `HOST:PORT`, or `ray://HOST:PORT`) whether it is there,
    guarded, and knows our token.

    Returns:
        The variables that `authenticate` has set for it.

    Raises:
        ClusterError: nothing answers, it has another token, or it has none and `allow_no_token`
            does not say that this is meant.
    """
    need_ray()
    import grpc

    def refused(*credentials: tuple[str, str]) -> bool:
        """Whether a question with these credentials, which is an empty message, is turned away."""
        try:
            ask(b"", metadata=(("client_id", "poise"), *credentials), timeout=ANSWER_S)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                return True
            reason = error.code().name.lower().replace("_", " ")
            raise ClusterError(SILENT.format(address=address, reason=reason)) from None
        return False

    _, client, host = address.rpartition("ray://")
    service = "RayletDriver/KVExists" if client else "NodeInfoGcsService/CheckAlive"
    with grpc.insecure_channel(host) as channel:
        ask = channel.unary_unary(f"/ray.rpc.{service}")
        guarded = refused()
        if not guarded and not allow_no_token:
            raise ClusterError(UNPROTECTED.format(address=address, how=f"{MODE}=disabled"))
        if guarded and refused(("authorization", f"Bearer {read_token()}")):
            raise ClusterError(REFUSED.format(address=address, where=where_token()))
    near = host.rpartition(":")[0] in ("127.0.0.1", "localhost", "[::1]")
    return authenticate(token=guarded, loopback=near)
