"""Seconds of actions that all ranks do together, measured in turn so that ratios of one run mean something."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from hpc_holstein.domain.transport import Transport

Action = Callable[[], object]
Say = Callable[[str], None]

ROUND_SECONDS = 2e-3
"""How long an action is repeated within a round, at least once: short, so that some rounds have the machine to themselves."""

BUDGET_SECONDS, MOST_ROUNDS = 2.0, 100
"""Rounds of fast actions are added while they take no longer than this, all together."""


def spread(values: Sequence[float]) -> dict[str, float]:
    """``median``, ``min`` and ``max`` of the repeats."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def settle() -> None:
    """Wait for what a GPU still computes, so that a clock shows it."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def call_seconds(action: Action, calls: int, transport: Transport) -> float:
    """Mean time of a call on the slowest rank, all of which start together; collective."""
    settle()
    transport.barrier()
    start = time.perf_counter()
    for _ in range(calls):
        action()
    settle()
    return max(transport.allgather((time.perf_counter() - start) / calls))


def in_turn(actions: Mapping[str, Action], transport: Transport, rounds: int) -> dict[str, dict[str, float]]:
    """:func:`spread` of the time of one call of each action over ``rounds`` or more, each of which does all of them.

    A first call of each warms up; a second one, timed, says how many make up a round of :data:`ROUND_SECONDS`.
    """
    for action in actions.values():
        call_seconds(action, 1, transport)
    single = {name: call_seconds(action, 1, transport) for name, action in actions.items()}
    calls = {name: max(1, int(ROUND_SECONDS / seconds)) for name, seconds in single.items()}
    whole = sum(calls[name] * seconds for name, seconds in single.items())
    found: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(max(rounds, min(MOST_ROUNDS, int(BUDGET_SECONDS / whole)))):
        for name, action in actions.items():
            found[name].append(call_seconds(action, calls[name], transport))
    return {name: spread(values) for name, values in found.items()}
