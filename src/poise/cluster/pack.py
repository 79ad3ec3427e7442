"""What a job takes along: the working folder as one file, the same for the same content.

Secrets, version control, virtual environments, caches and run folders stay here; so does what
`.gitignore` and `.poiseignore` name (a pattern a line; `!pattern` sends what else would stay).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from poise.cluster.job import ARRIVING
from poise.errors import ClusterError
from poise.tracking.find import STUDIES

LARGEST, LARGEST_RAW = 100 * 2**20, 2**30
"""Bytes that Ray's dashboard takes in one upload; and before compression, beyond which no time is
spent on trying."""
SHOWN = 12
"""Files that are listed before they are sent; of more, the largest."""
STAYING = {
    "secrets": (
        *(".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "*.kdbx", "*.jks", "id_rsa*"),
        *("id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", "_netrc", ".pypirc", ".npmrc"),
        *(".pgpass", ".htpasswd", ".git-credentials", ".aws", ".azure", ".ssh", ".kube", ".gnupg"),
        *(".docker", ".dockercfg", ".ray", ".kaggle", ".huggingface", "kubeconfig*"),
        "service-account*.json",
    ),
    "version control": (".git", ".hg", ".svn"),
    "virtual environments": (".venv", "venv", "node_modules", ".tox", ".nox", ".conda"),
    "caches": ("__pycache__", ".*_cache", ".ipynb_checkpoints", "*.egg-info", ".ds_store"),
}
"""Names, in small letters, of what is never sent unless `.poiseignore` says so."""
_SECRET = re.compile(r"(?<![a-z])(token|secret|credential|passw(or)?d|api[-_]?key)s?(?![a-z])")
_SOURCE = (".py", ".pyi", ".pyx", ".c", ".cc", ".cpp", ".h", ".rs", ".go", ".md", ".rst")
"""Of these, a name such as `token.py` is no secret."""


@dataclass
class Package:
    """A working folder, ready to be sent.

    Attributes:
        data: a zip file.
        files: what is in it, with sizes in bytes, the largest first.
        left: what stays, by the reason; a folder ends with a slash.
    """

    data: bytes
    files: list[tuple[str, int]]
    left: dict[str, list[str]]

    def __str__(self) -> str:
        """What is sent, and what is not."""
        total, count = _size(sum(size for _, size in self.files)), len(self.files)
        packed = f"{total} ({_size(len(self.data))} packed)"
        lines = [f"Sending {count} file{'s' * (count != 1)}, {packed}:"]
        lines += [f"  {_size(size):>9}  {name}" for name, size in self.files[:SHOWN]]
        lines += [f"  and {count - SHOWN} smaller ones"] * (count > SHOWN)
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
        run: the folder of a run that is to go on, which goes along, too.

    Raises:
        ClusterError: it is too large, or no working folder; the sentence names the largest files.
    """
    root = Path(folder).resolve()
    if root in (Path.home().resolve(), Path(root.anchor)):
        raise ClusterError(
            f"{root} would be sent as a whole: go into the folder of your project, or name it with"
            " --working-dir."
        )
    chosen, left = _choose(root)
    if run is not None:
        arriving = f"{ARRIVING}/{run.parent.name}/{run.name}"
        files = [each for each in run.rglob("[!.]*") if each.is_file()]
        chosen |= {f"{arriving}/{each.relative_to(run).as_posix()}": each for each in files}
    sizes = {name: file.stat().st_size for name, file in chosen.items()}
    largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    data = b"" if (total := sum(sizes.values())) > LARGEST_RAW else _zip(chosen)
    if not data or len(data) > LARGEST:
        shown = ", ".join(f"{name} ({_size(size)})" for name, size in largest[:5])
        raise ClusterError(
            f"{root} has {_size(len(data) or total)} to be sent, and a cluster takes"
            f" {_size(LARGEST)} at most. The largest are {shown}: name what the job does not need"
            " in .poiseignore."
        )
    return Package(data, largest, left)


def _choose(root: Path) -> tuple[dict[str, Path], dict[str, list[str]]]:
    """The files below a folder that are sent, and the names of what stays, by the reason."""
    rules = [rule for name in (".gitignore", ".poiseignore") for rule in _rules(root / name)]
    chosen, left = dict[str, Path](), dict[str, list[str]]()
    for at, folders, files in os.walk(root):
        for name in sorted((*folders, *files)):
            file = Path(at, name)
            path = file.relative_to(root).as_posix() + "/" * file.is_dir()
            if why := _reason(root, PurePosixPath(path), rules):
                left.setdefault(why, []).append(path)
                folders[:] = [each for each in folders if each != name]
            elif name in files:
                chosen[path] = file
    return dict(sorted(chosen.items())), left


def _reason(root: Path, path: PurePosixPath, rules: list[tuple[str, str]]) -> str | None:
    """Why a file or a folder stays; None where it is sent."""
    file, name = root / path, path.name.lower()
    for said, pattern in reversed(rules):
        if fnmatch(path.name, pattern) or fnmatch(str(path), pattern):
            return said or None
    if _SECRET.search(name) and not name.endswith(_SOURCE) and file.is_file():
        return "secrets"
    for why, patterns in STAYING.items():
        if any(fnmatch(name, pattern) for pattern in patterns):
            return why
    if not file.resolve().is_relative_to(root) or file.is_dir() == file.is_file():
        return "links that lead elsewhere, and what is no file"
    if (file / "pyvenv.cfg").is_file():
        return "virtual environments"
    run = (file / "config.json").is_file() and (file / "metrics.jsonl").is_file()
    return "run folders" if run or any((file / study).is_file() for study in STUDIES) else None


def _rules(file: Path) -> list[tuple[str, str]]:
    """The patterns of a file, each with its name as the reason; with none where it is sent."""
    lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
    texts = [line.strip() for line in lines if line.strip() and line[0] != "#"]
    return [("" if text[0] == "!" else file.name, text.strip("!/")) for text in texts]


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
