"""Which Poise this is and how it was installed, so that messages name the command that helps."""

from __future__ import annotations

import json
import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname


def install(extra: str) -> str:
    """The command that installs an extra from where this Poise came from.

    That is its checkout, its wheel, its repository, or the index.
    """
    return f"{_pip()} install {_what(extra)}"


def version_of_poise() -> str:
    """The version that is installed, which `poise.__version__` says; `unknown` without one."""
    try:
        return version("poise")
    except PackageNotFoundError:
        return "unknown"


def _what(extra: str) -> str:
    """What `pip install` gets: this Poise, by its origin as pip wrote it down, with the extra."""
    try:
        about = json.loads(distribution("poise").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        about = {}
        # It may run from its sources, without being installed.
        checkout = Path(__file__).parents[2]
        if (checkout / "pyproject.toml").is_file():
            about = {"url": checkout.as_uri(), "dir_info": {"editable": True}}
    url = str(about.get("url", ""))
    if "dir_info" in about:
        folder = url2pathname(unquote(urlsplit(url).path))
        editable = "-e " if about["dir_info"].get("editable") else ""
        return f'{editable}"{folder}[{extra}]"'
    if "vcs_info" in about:
        vcs = about["vcs_info"]
        return f'"poise[{extra}] @ {vcs.get("vcs", "git")}+{url}@{vcs.get("commit_id", "HEAD")}"'
    return f'"poise[{extra}] @ {url}"' if url else f'"poise[{extra}]"'


def _pip() -> str:
    """`pip` if that is the one of this Python, else the long form that surely is."""
    found = shutil.which("pip")
    same = found is not None and os.path.dirname(found) == os.path.dirname(sys.executable)
    return "pip" if same else f"{sys.executable} -m pip"
