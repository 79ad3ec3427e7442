"""`pretty_print`."""

from __future__ import annotations

from typing import Any

import yaml

from poise.tracking.folder import plain


def pretty_print(result: dict[str, Any]) -> str:
    """A result as a text, without the configuration and the episodes one by one."""
    shown = {key: value for key, value in result.items() if key not in ("config", "hist_stats")}
    text: str = yaml.safe_dump(plain(shown), default_flow_style=False)
    return text
