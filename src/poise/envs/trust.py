"""What a name that came in a file may do: `module:Name` in a checkpoint, a run's configuration, a
study.

Importing a module and calling what it holds runs code with all of the user's rights. A name that
the user's own command or script gives is the user's; one from a file is `Foreign` and waits at the
door (`admit`) until it is known to be harmless, known to this machine, or confirmed. See
docs/security.md.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import json
import os
import re
import sys
import sysconfig
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from poise.errors import PoiseError, PoiseWarning, TrustError, nearest

MOST = 1000
"""Names that are remembered; the oldest make room."""
METHODS = {
    "environment": ("reset", "step"),
    "wrapper": ("reset", "step"),
    "model": ("forward",),
    "preprocessor": ("transform",),
    "algorithm": ("iteration",),
}
"""What a class must have to be called at all, by what it is to be."""
WRITING = ("RecordVideo",)
"""Classes that write files, and are therefore never harmless."""
_TELLING = re.compile(r"[/\\:~]|^\.")
"""In a text: it may be a path or a module."""

ask: Callable[[str], bool] | None = None
"""Asks the user, where there is one to ask; the command sets it in a terminal."""
_granted: set[str] = set()
_warned: set[Path] = set()


class Foreign(str):
    """A name out of a file.

    Attributes:
        source: the file.
        own_config: whether what it is to be made with is the user's, nevertheless.
    """

    source: str
    own_config: bool

    def __new__(cls, name: str, source: object = "", *, own_config: bool = False) -> Foreign:
        made = super().__new__(cls, name)
        made.source, made.own_config = str(source), own_config
        return made


def admit(
    name: str,
    kind: str = "environment",
    offers: Callable[[types.ModuleType], bool] | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Lets a name pass, or raises. Nothing is imported; a name of the user's own always passes.

    Args:
        name: what is to be made.
        kind: what it is to be, for the sentence.
        offers: whether a module that is loaded already has something harmless of this name; a class
            of its kind is.
        config: what it is to be made with.

    Raises:
        TrustError: it came in a file, and nobody knows or confirms it.
    """
    if not isinstance(name, Foreign):
        return
    module, _, there = name.partition(":")
    offers = offers or (
        lambda loaded: there not in WRITING and _is_class(attribute(loaded, there), kind)
    )
    if (
        ":" in name
        and _is_there(module)
        and not (module in sys.modules and offers(sys.modules[module]))
    ):
        _pass(
            str(name),
            kind,
            f"the {kind} {str(name)!r}",
            f"making it runs code of the module {module!r}",
            name,
        )
    if config and not name.own_config and _telling(config):
        given = json.dumps(config, default=str)[:200]
        what = f"settings of the {kind} {str(name)!r} that may lead to files or modules, {given}"
        _pass(_label(name, config), kind, what, f"{str(name)!r} does with them what it likes", name)


def _pass(label: str, kind: str, what: str, why: str, name: Foreign) -> None:
    if known(label):
        return
    said = f"{name.source} names {what}, which this machine has not used before: {why}."
    before = _read().get(label)
    if before:
        said += (
            f" (The one that it has used is in {before}; "
            f"this one is in {_origin(label) or 'none of the folders'}.)"
        )
    if ask is not None and ask(said):
        remember(label)
        return
    own = (
        "or give your own (env=...)"
        if kind == "environment"
        else f"or register a {kind} under this name".replace("a a", "an a")
    )
    raise TrustError(f"{said} If you trust it, add --trust (in Python, trust=True), {own}.")


def known(label: str) -> bool:
    """Whether this process or this machine has used a name before, out of the same file."""
    if label not in _granted and _read().get(label) == _origin(label):
        _granted.add(label)
    return label in _granted


def remember(*labels: str) -> None:
    """Writes names down as known to this machine, in a file that only the user reads; once for each
    process."""
    fresh = [label for label in labels if label not in _granted]
    if not fresh:
        return
    _granted.update(fresh)
    file, before = _file(), _read()
    names = {**before, **{label: _origin(label) for label in fresh}}
    if names == before:
        return
    text = json.dumps(dict(list(names.items())[-MOST:]), indent=1)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent)  # readable by its owner only
        try:
            with os.fdopen(descriptor, "w") as out:
                out.write(text)
            os.replace(temporary, file)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        if file not in _warned:
            _warned.add(file)
            warnings.warn(
                f"{file} cannot be written ({error.strerror}): known names are asked for again.",
                PoiseWarning,
                stacklevel=3,
            )


def labels(name: object, config: Mapping[str, Any] | None = None) -> Iterator[str]:
    """What `remember` is to know of a name that the user gave; nothing of one that came in a file."""
    if isinstance(name, str) and name and not isinstance(name, Foreign):
        if ":" in name:
            yield name
        if config and _telling(config):
            yield _label(name, config)


def _label(name: str, config: Mapping[str, Any]) -> str:
    return f"{name} {json.dumps(config, sort_keys=True, default=str)}"


def _telling(value: Any) -> bool:
    """Whether there is a text in it that could be a path or a module."""
    if isinstance(value, Mapping):
        return any(map(_telling, value.values())) or any(map(_telling, value))
    if isinstance(value, (list, tuple)):
        return any(map(_telling, value))
    if hasattr(value, "options"):  # a search among several
        return _telling(value.options)
    return isinstance(value, str) and bool(_TELLING.search(value))


def _is_there(module: str) -> bool:
    """Whether there is anything of this name that an import would run."""
    top = module.partition(".")[0]
    return top in sys.modules or bool(_origin(f"{top}:"))


def _file() -> Path:
    home = os.environ.get("POISE_HOME")
    if home:
        return Path(home) / "known.json"
    return (
        Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "poise" / "known.json"
    )


def _read() -> dict[str, str]:
    """The names that this machine knows, each with the file of its module."""
    try:
        names = json.loads(_file().read_text())
        return {str(name): str(origin) for name, origin in names.items()}
    except (OSError, ValueError, AttributeError, RuntimeError):
        return {}


def _origin(label: str) -> str:
    """Where the module of a name comes from, so that another one of its name is not taken for it;
    found without running any of it."""
    module, colon, _ = label.partition(" ")[0].partition(":")
    if not colon:
        return ""
    top = module.partition(".")[0]
    if top == "__main__":
        return os.path.abspath(getattr(sys.modules[top], "__file__", None) or "")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        spec = None
    if spec is None:
        return ""
    path = spec.origin or next(iter(spec.submodule_search_locations or ()), "")
    path = os.path.realpath(path) if path not in ("built-in", "frozen") else path
    installed = {
        os.path.realpath(sysconfig.get_path(kind)) for kind in ("purelib", "platlib", "stdlib")
    }
    return "installed" if any(path.startswith(folder + os.sep) for folder in installed) else path


# --- looking up
# -----------------------------------------------------------------------------------------------------


def load_module(name: str, kind: str, error: type[PoiseError], hint: str = "") -> types.ModuleType:
    """The module of `module:Name`, imported.

    Raises:
        PoiseError: of the type `error`: there is none, or it is no name of one; the sentence says where it was looked
            for.
    """
    module = name.partition(":")[0]
    if not all(part.isidentifier() for part in module.split(".")):
        raise error(
            f"{kind}={str(name)!r} is not allowed: write module:Name, for example envs:Maze."
        )
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name is None or not (
            module == missing.name or module.startswith(missing.name + ".")
        ):
            raise
        raise error(
            f"{kind}={str(name)!r}: there is no module {missing.name!r} to "
            f"import.{hint}{_looked(name)}"
        ) from None


def _looked(name: str) -> str:
    """Where a module was looked for, and where it was the last time."""
    here = os.getcwd()
    beside = [os.path.abspath(path) for path in sys.path if os.path.isdir(path or here)]
    python = sysconfig.get_path("stdlib")
    own = [
        path
        for path in dict.fromkeys(beside)
        if "site-packages" not in path and not path.startswith(python)
    ]
    said = (
        f" It was looked for in {', '.join(own[:3])} and among the installed packages."
        if own
        else ""
    )
    before = _read().get(str(name), "")
    if os.path.isabs(before):
        folder = os.path.dirname(before)
        folder = os.path.dirname(folder) if os.path.basename(before) == "__init__.py" else folder
        said += f" It was in {before} before: go to {folder}, or set PYTHONPATH={folder}."
    return said


def attribute(module: types.ModuleType, name: str) -> Any:
    """What a module has of a dotted name; None without it."""
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def check_callable(found: Any, name: str, kind: str) -> None:
    """Refuses to call what a name stands for where it is none of what it is to be, trusted or not: a class must have
    the methods of its kind, and a function must be of the package that the name says, and not of Python itself.

    Raises:
        TrustError: it is something else, such as `os:system`.
    """
    module = name.partition(":")[0]
    if _is_class(found, kind):
        return
    if isinstance(found, type):
        needed = " and ".join(METHODS[kind])
        raise TrustError(f"{name!r} is no {kind}: such a class has {needed}. It was not called.")
    wrapped = isinstance(found, functools.partial) or not isinstance(found, types.FunctionType)
    while isinstance(found, functools.partial):
        found = found.func
    home = str(getattr(found, "__module__", None) or type(found).__module__).partition(".")[0]
    native = isinstance(
        found, (types.BuiltinFunctionType, types.MethodType, types.MethodWrapperType)
    )
    if native or _standard(home) or not (wrapped or home == module.partition(".")[0]):
        raise TrustError(
            f"{name!r} is no {kind}: it is of {home!r}. "
            "A function must be written in the package that its name says, "
            "and be no part of Python itself. It was not called."
        )


def _is_class(found: Any, kind: str) -> bool:
    """Whether it is a class with the methods of a kind."""
    return isinstance(found, type) and all(
        callable(getattr(found, method, None)) for method in METHODS[kind]
    )


def _standard(module: str) -> bool:
    """Whether a module is a part of Python."""
    if module not in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or os.path.realpath(file).startswith(
        os.path.realpath(sysconfig.get_path("stdlib")) + os.sep
    )


def find(
    name: str, kind: str, error: type[PoiseError], config: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """What `module:Name` stands for: a model, a preprocessor or a wrapper.

    Raises:
        TrustError: it came in a file, and nobody knows or confirms it; or it is something else.
        PoiseError: of the type `error`: there is none.
    """
    admit(name, kind, config=config)
    module, wanted = load_module(name, kind, error), name.partition(":")[2]
    found = attribute(module, wanted)
    if not callable(found):
        if module.__name__ == "__main__":
            raise error(
                f"{kind}={str(name)!r} is defined in the script that trained with it: "
                "move it into a module."
            )
        options = [each for each, value in vars(module).items() if callable(value)]
        raise error(
            f"{kind}={str(name)!r}: {module.__name__!r} has no "
            f"{wanted!r}.{nearest(wanted, options)}"
        )
    check_callable(found, str(name), kind)
    return found  # type: ignore[no-any-return]
