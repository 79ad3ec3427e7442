"""Reads the docstrings under the fields of configurations.

One text serves as help, as documentation and as comment. Python does not keep a docstring that
stands under a field, so it is read from the source.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import sys
import typing


def field_docs(config_class: type) -> dict[str, str]:
    """What each field of a config dataclass means, by its name.

    Nested fields are dotted (`model.fcnet_hiddens`). A field that a subclass redefines without a
    docstring keeps the one that it inherits.
    """
    own: dict[str, str] = {}
    for base in reversed(config_class.__mro__):
        if dataclasses.is_dataclass(base):
            own.update(_docs_in_source(base))
    hints = typing.get_type_hints(config_class)
    docs: dict[str, str] = {}
    for field in dataclasses.fields(config_class):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            inner = field_docs(typing.cast(type, hint))
            docs.update({f"{field.name}.{key}": text for key, text in inner.items()})
        elif field.name in own:
            docs[field.name] = own[field.name]
    return docs


def _docs_in_source(config_class: type) -> dict[str, str]:
    for definition in _classes(config_class.__module__):
        if definition.name == config_class.__name__:
            return _docs(definition)
    return {}


@functools.cache
def _classes(module: str) -> list[ast.ClassDef]:
    """The classes in a module's source; none without sources, where there is no help, either."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, KeyError, TypeError):
        return []
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def _docs(definition: ast.ClassDef) -> dict[str, str]:
    """The texts that stand right below the annotated fields of a class, each in one line."""
    docs: dict[str, str] = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        text = below.value if isinstance(below, ast.Expr) else None
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            docs[field.target.id] = " ".join(text.value.split())
    return docs
