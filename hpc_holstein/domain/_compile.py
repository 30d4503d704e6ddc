"""How functions of this folder are compiled: when first called, and kept on disk where there is a place for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Machine code of ``function``, made at its first call (a second)."""
    try:
        return njit(cache=True)(function)
    except (RuntimeError, OSError):  # neither __pycache__ nor the cache folder of the user can be written
        return njit()(function)
