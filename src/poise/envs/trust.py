"""Whether a name that came in a file may be imported and called.

Such names, `module:Name`, stand in checkpoints, configurations of runs, and studies. Importing a
module and calling what it holds runs code with all of the user's rights. A name from the user's own
command or script is the user's. One from a file is `Foreign` and waits at the door (`admit`) until
it is harmless, known to this machine, or confirmed. See docs/security.md.
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
from poise.files import home

MOST = 1000
"""Names that are remembered; the oldest make room."""
METHODS = {
    "environment": ("reset", "step"),
    "wrapper": ("reset", "step"),
    "model": ("forward",),
    "preprocessor": ("transform",),
    "algorithm": ("iteration",),
}
"""Methods that a class of each kind must have before it is called."""
WRITING = ("RecordVideo",)
"""Classes that write files, and are therefore never harmless."""
_TELLING = re.compile(r"[/\\:~]|^\.")
"""What shows that a text may be a path or a module."""

ask: Callable[[str], bool] | None = None
"""Asks the user, where there is one to ask; the command sets it in a terminal."""
_granted: set[str] = set()
"""Names that this process has used."""
_warned: set[Path] = set()
"""Files of known names that could not be written, of which was warned once."""


class Foreign(str):
    """A name out of a file.

    Attributes:
        source: the file.
        own_config: whether its arguments are the user's own, although the name is not.
    """

    source: str
    own_config: bool

    def __new__(cls, name: str, source: object = "", *, own_config: bool = False) -> Foreign:
        made = super().__new__(cls, name)
        made.source, made.own_config = str(source), own_config
        return made


_GAME = re.compile(r"[A-Za-z_]\w*(\.\w+)+_v\d+")


def whole(name: str) -> str:
    """`package.game_v1:parallel_env` for a module of PettingZoo's, `package.game_v1`."""
    return f"{name}:parallel_env" if _GAME.fullmatch(name) else name


def admit(
    name: str,
    kind: str = "environment",
    offers: Callable[[types.ModuleType], bool] | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Lets a name pass, or raises. Nothing is imported; a name of the user's own always passes.

    Args:
        name: the name of what shall be made.
        kind: what it shall be, a key of `METHODS`.
        offers: tells whether a module that is loaded already has something harmless of this name;
            by default, a class of this kind is harmless.
        config: the arguments that it shall be made with.

    Raises:
        TrustError: it came in a file, and nobody knows or confirms it.
    """
    if not isinstance(name, Foreign):
        return
    module, colon, inside = whole(name).partition(":")
    if colon and _is_there(module) and not _is_harmless(module, inside, kind, offers):
        what, why = f"the {kind} {str(name)!r}", f"making it runs code of the module {module!r}"
        _pass(whole(name), kind, what, why, name)
    if config and not name.own_config and _telling(config):
        given = json.dumps(config, default=str)[:200]
        what = f"settings of the {kind} {str(name)!r} that may lead to files or modules, {given}"
        _pass(_label(name, config), kind, what, f"{str(name)!r} does with them what it likes", name)


def admit_address(address: str) -> None:
    """Lets the address of a cluster pass, or raises, as `admit` does.

    Whoever answers there is shown the token, and sends back objects that Ray unpickles.
    """
    if isinstance(address, Foreign):
        why = "whoever answers there gets your token, and may run code on this machine"
        _pass(address_label(address), "cluster", f"the cluster {str(address)!r}", why, address)


def address_label(address: str) -> str:
    """How the address of a cluster is written down."""
    return f"ray_address {address}"


def is_elsewhere(address: object) -> bool:
    """Whether a `ray_address` leads to somebody else's machine."""
    return isinstance(address, str) and address not in ("local", "auto")


def _is_harmless(
    module: str, inside: str, kind: str, offers: Callable[[types.ModuleType], bool] | None
) -> bool:
    """Whether a module is loaded, so that its code ran already, and has a class of this kind."""
    loaded = sys.modules.get(module)
    if loaded is None:
        return False
    if offers is not None:
        return offers(loaded)
    return inside not in WRITING and _is_class(attribute(loaded, inside), kind)


def _pass(label: str, kind: str, what: str, why: str, name: Foreign) -> None:
    """Lets pass what this machine knows or the user confirms, and raises `TrustError` else."""
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
    own = f"or register {'an' if kind == 'algorithm' else 'a'} {kind} under this name"
    own = "or give your own (env=...)" if kind == "environment" else own
    own = "or give your own (ray_address=...)" if kind == "cluster" else own
    raise TrustError(f"{said} If you trust it, add --trust (in Python, trust=True), {own}.")


def known(label: str) -> bool:
    """Whether this process or machine has used a name before, with its module in the same file."""
    if label not in _granted and _read().get(label) == _origin(label):
        _granted.add(label)
    return label in _granted


def remember(*labels: str) -> None:
    """Writes names down as known to this machine, in a file that only the user can read."""
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
        descriptor, temporary = tempfile.mkstemp(dir=file.parent)  # which only its owner can read
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
            said = f"{file} cannot be written ({error.strerror}): known names are asked for again."
            warnings.warn(said, PoiseWarning, stacklevel=3)


def labels(name: object, config: Mapping[str, Any] | None = None) -> Iterator[str]:
    """What `remember` writes down of a name that the user gave; nothing of one out of a file."""
    if isinstance(name, str) and name and not isinstance(name, Foreign):
        name = whole(name)
        if ":" in name:
            yield name
        if config and _telling(config):
            yield _label(name, config)


def _label(name: str, config: Mapping[str, Any]) -> str:
    """How a name with its arguments is written down."""
    return f"{name} {json.dumps(config, sort_keys=True, default=str)}"


def _telling(value: Any) -> bool:
    """Whether a value holds a text that could be a path or a module."""
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
    """Where this machine's known names are written down."""
    return home() / "known.json"


def _read() -> dict[str, str]:
    """The names that this machine knows, each with the file of its module."""
    try:
        names = json.loads(_file().read_text())
        return {str(name): str(origin) for name, origin in names.items()}
    except (OSError, ValueError, AttributeError, RuntimeError):
        return {}


def _origin(label: str) -> str:
    """The file that the module of a name comes from, found without running any of it.

    Another module of the same name is not taken for it. Installed ones count as one place, so that
    an update is no change.
    """
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
    path = path if path in ("built-in", "frozen") else os.path.realpath(path)
    folders = [os.path.realpath(sysconfig.get_path(k)) for k in ("purelib", "platlib", "stdlib")]
    return "installed" if any(path.startswith(folder + os.sep) for folder in folders) else path


# --- looking up -----------------------------------------------------------------------------------


def load_module(name: str, kind: str, error: type[PoiseError], hint: str = "") -> types.ModuleType:
    """The module of `module:Name`, imported.

    Raises:
        PoiseError: of the type `error`: there is none, or the name cannot be one's. The sentence
            says where it was looked for.
    """
    module = name.partition(":")[0]
    if not all(part.isidentifier() for part in module.split(".")):
        raise error(
            f"{kind}={str(name)!r} is not allowed: write module:Name, for example envs:Maze."
        )
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        # Another module may be missing inside it, which is not the name's fault.
        if missing.name is None or not f"{module}.".startswith(f"{missing.name}."):
            raise
        raise error(
            f"{kind}={str(name)!r}: there is no module {missing.name!r} to import."
            f"{hint}{_looked(name)}"
        ) from None


def _looked(name: str) -> str:
    """Where a module was looked for, and where it was the last time."""
    here, python = os.getcwd(), sysconfig.get_path("stdlib")
    folders = dict.fromkeys(os.path.abspath(p) for p in sys.path if os.path.isdir(p or here))
    own = [p for p in folders if "site-packages" not in p and not p.startswith(python)]
    said = ""
    if own:
        said = f" It was looked for in {', '.join(own[:3])} and among the installed packages."
    before = _read().get(str(name), "")
    if os.path.isabs(before):
        folder = os.path.dirname(before)
        folder = os.path.dirname(folder) if os.path.basename(before) == "__init__.py" else folder
        said += f" It was in {before} before: go to {folder}, or set PYTHONPATH={folder}."
    return said


def attribute(module: types.ModuleType, name: str) -> Any:
    """What a module has under a name, which may be dotted; None if it has nothing."""
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def check_callable(found: Any, name: str, kind: str) -> None:
    """Refuses to call what is not of its kind, whether the name is trusted or not.

    A class must have the methods of its kind. A function must be written in the package that its
    name says, and not in Python itself: `os:system` is none.

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
    bound = (types.BuiltinFunctionType, types.MethodType, types.MethodWrapperType)
    # PettingZoo makes the functions of others' games, too.
    elsewhere = not wrapped and home not in (module.partition(".")[0], "pettingzoo")
    if isinstance(found, bound) or _standard(home) or elsewhere:
        raise TrustError(
            f"{name!r} is no {kind}: it is of {home!r}. A function must be written in the package "
            "that its name says, and be no part of Python itself. It was not called."
        )


def _is_class(found: Any, kind: str) -> bool:
    """Whether something is a class with the methods of a kind."""
    methods = [getattr(found, method, None) for method in METHODS[kind]]
    return isinstance(found, type) and all(map(callable, methods))


def _standard(module: str) -> bool:
    """Whether a module is a part of Python."""
    if module not in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    folder = os.path.realpath(sysconfig.get_path("stdlib"))
    return file is None or os.path.realpath(file).startswith(folder + os.sep)


def find(
    name: str, kind: str, error: type[PoiseError], config: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """What `module:Name` stands for: a model, a preprocessor or a wrapper.

    Raises:
        TrustError: it came in a file, and nobody knows or confirms it; or it is of another kind.
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
            f"{kind}={str(name)!r}: {module.__name__!r} has no {wanted!r}."
            f"{nearest(wanted, options)}"
        )
    check_callable(found, str(name), kind)
    return found  # type: ignore[no-any-return]
