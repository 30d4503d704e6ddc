"""Compiled code for CPUs: made when first called (seconds), and kept on disk where there is a place for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Any:
    """Machine code of ``function`` that runs without the interpreter lock."""
    try:
        return njit(nogil=True, error_model="numpy", cache=True)(function)
    except (RuntimeError, OSError):  # neither __pycache__ nor the cache folder of the user can be written
        return njit(nogil=True, error_model="numpy")(function)
