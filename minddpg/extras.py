"""Optional packages: imported late, and where one is missing, one line that names the extra."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class ExtraError(ValueError):
    """A package of an extra that is not installed; the message is one line."""


def need(module: str, extra: str, what: str) -> Any:
    """The module, imported. what: what needs it, at the start of the line. Raises ExtraError."""
    try:
        return import_module(module)
    except ImportError:
        raise ExtraError(f"{what} needs the extra {extra}; from a checkout: pip install '.[{extra}]'") from None
