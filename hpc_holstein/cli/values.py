"""Values on the command line, of text: each raises ArgumentTypeError, which says what is valid."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from hpc_holstein.files import usable_path

N = TypeVar("N", int, float)

_NO_REGIMES = ("all", "random", "force", "reference", "units", "sites", "budget", "ranks", "mpi", "git", "host", "date")
"""Names in the records of a comparison that are none of a regime."""


def path(text: str) -> Path:
    """The name of a file or folder that there can be."""
    try:
        return Path(usable_path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def name_or_path(text: str) -> str:
    """A name, or that of a file or folder that there can be."""
    return str(path(text))


def cells(text: str) -> list[int]:
    """``200x100`` -> ``[200, 100]``; as many numbers as the lattice has axes."""
    try:
        numbers = [int(part) for part in text.lower().split("x")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not one positive number for each axis, such as 64, 200x200 or 8x8x8")
    return numbers


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _number(text, int, lambda number: number >= 1, "a whole number of at least 1")


def positive_number(text: str) -> float:
    """A finite number above 0."""
    return _number(text, float, lambda number: 0 < number < math.inf, "a number above 0")


def whole(text: str) -> int:
    """A whole number of at least 0."""
    return _number(text, int, lambda number: number >= 0, "a whole number of at least 0")


def _number(text: str, kind: Callable[[str], N], valid: Callable[[N], bool], told: str) -> N:
    with suppress(ValueError):
        number = kind(text)
        if valid(number):
            return number
    raise argparse.ArgumentTypeError(f"'{text}' is not {told}")


def value(text: str) -> Any:
    """A value as TOML, or a bare word as a string."""
    from hpc_holstein.config.loading import parse_value

    return parse_value(text)


def duration(text: str) -> float:
    """``HH:MM:SS`` in seconds."""
    found = re.fullmatch(r"(\d{1,7}):([0-5]\d):([0-5]\d)", text, re.ASCII)
    if found is None:
        raise argparse.ArgumentTypeError(f"'{text}' is not a time HH:MM:SS, such as 01:30:00")
    hours, minutes, seconds = map(int, found.groups())
    return 3600.0 * hours + 60 * minutes + seconds


def site(text: str) -> tuple[int, ...]:
    """``10,12`` -> ``(10, 12)``."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a site: give its row and column, such as 10,12") from None


def regime_steps(text: str) -> dict[str, tuple[int, int | None]]:
    """``hot=0:200,late=800:`` -> first step of each regime, and the one after its last."""
    found: dict[str, tuple[int, int | None]] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([A-Za-z_]\w*)=(\d{1,18}):(\d{1,18})?\s*", part, re.ASCII)
        name, first, end = match.groups() if match else ("", "0", "0")
        if not match or name in found or name in _NO_REGIMES or (end and int(first) >= int(end)):
            raise argparse.ArgumentTypeError(
                f"'{text}' is not understood at '{part}': give NAME=FIRST:END of each regime, from its first step to the one "
                f"after its last, under different names other than {', '.join(_NO_REGIMES)}, such as "
                "hot=0:200,coarsening=200:800,late=800:"
            )
        found[name] = (int(first), int(end) if end else None)
    return found
