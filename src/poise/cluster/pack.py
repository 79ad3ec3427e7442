"""What a job takes along: the working folder as one file, the same for the same content.

Secrets, version control, virtual environments, caches and run folders stay here; so does what git
ignores, and what `.poiseignore` names (a pattern a line; `!pattern` sends what else would stay).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from poise.cluster.job import ARRIVING
from poise.errors import ClusterError
from poise.tracking.find import STUDIES

SHOWN = 12
"""Files that are listed before they are sent; of more, the largest."""
SENT = "sent"
LARGEST = 100 * 2**20
"""Bytes that Ray's dashboard takes in one upload."""
LARGEST_RAW = 2**30
"""Bytes before compression, beyond which no time is spent on trying."""
SECRETS = (
    *(
        ".env",
        ".env.*",
        "*.pem",
        "*.key",
        "*.p12",
        "*.pfx",
        "*.kdbx",
        "*.jks",
        "id_rsa*",
        "id_dsa*",
    ),
    *("id_ecdsa*", "id_ed25519*", ".netrc", "_netrc", ".pypirc", ".npmrc", ".pgpass", ".htpasswd"),
    *(".git-credentials", ".aws", ".azure", ".ssh", ".kube", ".gnupg", ".docker", ".dockercfg"),
    *(".ray", ".kaggle", ".huggingface", "service-account*.json", "kubeconfig*"),
)
_SECRET_WORD = re.compile(r"(?<![a-z])(token|secret|credential|passw(or)?d|api[-_]?key)s?(?![a-z])")
_SOURCE = (".py", ".pyi", ".pyx", ".c", ".cc", ".cpp", ".h", ".rs", ".go", ".md", ".rst")
"""Of these, a name such as `token.py` is no secret."""
UNNEEDED = {
    "version control": (".git", ".hg", ".svn"),
    "virtual environments": (".venv", "venv", "node_modules", ".tox", ".nox", ".conda"),
    "caches": ("__pycache__", ".*_cache", ".ipynb_checkpoints", "*.egg-info", ".DS_Store"),
}
_GIT = ("git", "-c", "core.fsmonitor=false", "ls-files", "-coz", "--exclude-standard")


@dataclass
class Package:
    """A working folder, ready to be sent.

    Attributes:
        data: a zip file.
        files: what is in it, with sizes in bytes, the largest first.
        left: what stays, by the reason.
    """

    data: bytes
    files: list[tuple[str, int]]
    left: dict[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        """What is sent, and what is not."""
        total = _size(sum(size for _, size in self.files))
        lines = [f"Sent: {len(self.files)} files, {total} ({_size(len(self.data))} packed)"]
        lines += [f"  {_size(size):>9}  {name}" for name, size in self.files[:SHOWN]]
        lines += [f"  and {len(self.files) - SHOWN} smaller ones"] * (len(self.files) > SHOWN)
        for why, names in self.left.items():
            more = f" and {len(names) - 5} more" if names[5:] else ""
            lines.append(f"Not sent ({why}): {', '.join(names[:5])}{more}")
        return "\n".join(lines)

    @property
    def name(self) -> str:
        """What Ray calls it: the same content has the same name, and is sent once."""
        return f"_ray_pkg_{hashlib.sha256(self.data).hexdigest()[:32]}.zip"


def pack(folder: str | Path, run: Path | None = None) -> Package:
    """Packs a working folder.

    Args:
        folder: all that lies below it is looked at.
        run: the folder of a run that is to go on, which goes along as `.poise/EXPERIMENT/NAME`.

    Raises:
        ClusterError: it is too large, or no working folder; the sentence names the largest files.
    """
    root = Path(folder).resolve()
    if root in (Path.home().resolve(), Path(root.anchor)):
        raise ClusterError(
            f"{root} would be sent as a whole: go into the folder of your project, or name it with"
            " --working-dir."
        )
    rules, of_folder = _rules(root), cache(_of_folder)
    chosen, left = dict[str, Path](), dict[str, list[str]]()
    for name in sorted(_inside(root)):
        path = PurePosixPath(name)
        why = _named(path, rules) or _placed(root, path)
        why = why or _first(of_folder, [root / each for each in path.parents if each.name])
        if why in (None, SENT):
            chosen[name] = root / name
        else:
            left.setdefault(str(why), []).append(name)
    for file in sorted(run.rglob("*")) if run is not None else ():
        if run is not None and file.is_file() and not file.name.startswith("."):
            chosen[
                f"{ARRIVING}/{run.parent.name}/{run.name}/{file.relative_to(run).as_posix()}"
            ] = file
    sizes = {name: file.stat().st_size for name, file in chosen.items()}
    files = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    data = b"" if sum(sizes.values()) > LARGEST_RAW else _zip(chosen)
    if not data or len(data) > LARGEST:
        shown = ", ".join(f"{name} ({_size(size)})" for name, size in files[:5])
        raise ClusterError(
            f"{root} has {_size(len(data) or sum(sizes.values()))} to be sent, and a cluster takes"
            f" {_size(LARGEST)} at most. The largest are {shown}: name what the job does not need in .poiseignore."
        )
    return Package(data, files, left)


def _inside(root: Path) -> Iterator[str]:
    """The files below a folder, by their paths from there: those of git where git has it."""
    try:
        done = subprocess.run(_GIT, cwd=root, capture_output=True, stdin=subprocess.DEVNULL)
        names = set(os.fsdecode(done.stdout).split("\0")) if done.returncode == 0 else None
    except OSError:
        names = None
    if names is not None:
        yield from (name for name in names if name and (root / name).is_file())
        return
    for at, folders, files in os.walk(root):
        here = Path(at).relative_to(root)
        yield from ((here / name).as_posix() for name in files)
        stays = [name for name in folders if _unneeded(name) or (Path(at) / name).is_symlink()]
        yield from ((here / name).as_posix() for name in stays)
        folders[:] = [name for name in folders if name not in stays]


def _unneeded(name: str) -> str | None:
    return next((why for why, names in UNNEEDED.items() if _fits(name, names)), None)


def _first(ask: Callable[[Any], str | None], about: Iterable[Any]) -> str | None:
    return next(filter(None, map(ask, about)), None)


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _named(path: PurePosixPath, rules: list[tuple[bool, str]]) -> str | None:
    """Why a file of this name stays; `SENT` where `.poiseignore` says that it does not."""
    for sent, pattern in reversed(rules):
        if any(
            _fits(name, [pattern])
            for each in [path, *path.parents]
            for name in (str(each), each.name)
        ):
            return SENT if sent else ".poiseignore"
    return "secrets" if any(map(_secret, path.parts)) else _first(_unneeded, path.parts)


def _placed(root: Path, path: PurePosixPath) -> str | None:
    file = root / path
    inside = file.is_file() and file.resolve().is_relative_to(root)
    return None if inside else "links that lead elsewhere, and what is no file"


def _secret(name: str) -> bool:
    low = name.lower()
    named = _SECRET_WORD.search(low) and not low.endswith(_SOURCE)
    return bool(named) or any(fnmatch(low, pattern) for pattern in SECRETS)


def _of_folder(folder: Path) -> str | None:
    """Why what lies in a folder stays."""
    if (folder / "pyvenv.cfg").is_file():
        return "virtual environments"
    run = (folder / "config.json").is_file() and (folder / "metrics.jsonl").is_file()
    return "run folders" if run or any((folder / name).is_file() for name in STUDIES) else None


def _rules(root: Path) -> list[tuple[bool, str]]:
    """The patterns of `.poiseignore`, and whether each says that something is sent."""
    file = root / ".poiseignore"
    lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
    texts = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return [(text[0] == "!", text.lstrip("!").strip("/")) for text in texts]


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def _zip(files: dict[str, Path]) -> bytes:
    """The files in a zip, in which no time and no owner is kept."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in files.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (0o755 if os.access(file, os.X_OK) else 0o644) << 16
            archive.writestr(info, file.read_bytes())
    return out.getvalue()
