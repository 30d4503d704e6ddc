"""A guard against regressions that a noisy machine does not set off: it compares ratios, never seconds.

Each ratio is the time of one of our kernels over that of a yardstick that was measured in turn with it, in one process.
"""

from __future__ import annotations

from typing import Any

from hpc_holstein.bench.record import Record
from hpc_holstein.errors import ConfigError


def compare(now: Record, then: Record, factor: float) -> list[str]:
    """A sentence for each ratio that is worse than ``factor`` times that of ``then``; empty where all is well.

    Raises ConfigError where the two have nothing in common.
    """
    if now.benchmark != then.benchmark or now.ranks != then.ranks:
        raise ConfigError(
            f"{then.source} is a record of bench {then.benchmark} on {then.ranks} rank(s) and this is bench {now.benchmark} on "
            f"{now.ranks}: give a record of the same"
        )
    pairs = [(row, old) for row in now.result["rows"] for old in then.result["rows"] if _key(row) == _key(old)]
    if not pairs:
        raise ConfigError(f"{then.source} has no ratio that was measured now: give a record of this version")
    return [
        f"{row['name']} takes {row['times']:.2f} x the time of {row['yardstick']}, more than {factor:g} times the "
        f"{old['times']:.2f} of {then.source}"
        for row, old in pairs
        if not row["times"] <= factor * old["times"]
    ]


def _key(row: dict[str, Any]) -> tuple[str, str]:
    return row["name"], row["yardstick"]
