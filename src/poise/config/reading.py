"""Reading JSON and YAML that others wrote: plain values of a bounded size, or one sentence.

Both formats can ask for more than they hold: YAML's references multiply (a billion values in ten
lines), brackets nest deeper than the parser's stack, numbers have more digits than any machine
reads. All of it ends in a `ConfigError`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from poise.errors import ConfigError

LARGEST_FILE = 2**20
"""Bytes of a configuration file; a long one has a few thousand."""
MOST_VALUES = 100_000
"""Values of a file once its references are followed."""


def read_file(path: str | Path) -> Any:
    """The values in a `.json`, `.toml`, `.yaml` or `.yml` file.

    Raises:
        ConfigError: there is none, it is too large, is not text, or cannot be parsed.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise ConfigError(f"There is no file {path}.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"Poise cannot read {path}: {reason}.") from None
    if len(data) > LARGEST_FILE:
        raise ConfigError(
            f"{path} is larger than {LARGEST_FILE // 2**20} MiB: that is no file of settings."
        )
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a text file.") from None
    parse = {".json": parse_json, ".toml": parse_toml}.get(Path(path).suffix, parse_yaml)
    return parse(text, str(path))


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The values in a TOML text; `where` is what the sentence calls it.

    Raises:
        ConfigError: it is not valid TOML, or is nested too deep.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not valid TOML: {error}.") from None
    except RecursionError:
        raise ConfigError(f"{where} is nested too deep to be read.") from None


def parse_json(text: str, where: str) -> Any:
    """The values in a JSON text; `where` is what errors call it.

    Raises:
        ConfigError: it is not valid JSON, names a key twice, or is nested too deep.
    """
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, where))
    except json.JSONDecodeError as error:
        place = f"({error.msg} at character {error.pos + 1}): {_around(text, error.pos)}"
        raise ConfigError(f"{where} is not valid JSON {place}") from None
    except RecursionError:
        raise ConfigError(f"{where} is nested too deep to be read.") from None
    except ConfigError:
        raise
    except ValueError as error:  # a number of thousands of digits
        raise ConfigError(f"{where} cannot be read: {str(error).partition(';')[0]}.") from None


def parse_yaml(text: str, where: str) -> Any:
    """The values in a YAML text, none of whose tags are run.

    Raises:
        ConfigError: it is not valid YAML, names a key twice, is nested too deep, or holds more than
            `MOST_VALUES` values once its references are followed.
    """
    import yaml

    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, where, {})
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}.") from None
    except RecursionError:
        raise ConfigError(f"{where} is nested too deep to be read.") from None
    except ConfigError:
        raise
    except (ValueError, TypeError, AttributeError) as error:
        # Such as the 99th of May, or a number of thousands of digits.
        raise ConfigError(f"{where} cannot be read: {' '.join(str(error).split())}.") from None
    finally:
        loader.dispose()


def _count(node: Any, where: str, known: dict[int, int]) -> int:
    """Counts the values in a node once references are followed, though it looks at each node once.

    Args:
        node: of PyYAML's tree.
        where: what errors call the text.
        known: counts of nodes by id; -1 while one is being counted, so that a circle shows.
    """
    if id(node) in known:
        if known[id(node)] < 0:
            raise ConfigError(f"{where} has a value that contains itself.")
        return known[id(node)]
    known[id(node)] = -1
    parts = node.value if isinstance(node.value, list) else []
    if parts and isinstance(parts[0], tuple):
        names = [key.value for key, _ in parts if isinstance(key.value, str) and key.value != "<<"]
        _once([(name, None) for name in names], where)
        parts = [each for pair in parts for each in pair]
    known[id(node)] = 1 + sum(_count(part, where, known) for part in parts)
    if known[id(node)] > MOST_VALUES:
        raise ConfigError(
            f"{where} holds more than {MOST_VALUES:,} values once its references are followed."
        )
    return known[id(node)]


def _once(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    """The pairs as a dict, which alone would silently keep only the last of a name given twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"{where} names {twice!r} twice in one place: give it once.")
    return found


def _around(text: str, position: int) -> str:
    """The part of a text in which an error was found."""
    return text if len(text) <= 60 else f"...{text[max(0, position - 25) : position + 25]}..."
