"""Seconds of actions that all ranks do together, measured in turn so that ratios of one run mean something; their records."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hpc_holstein.bench.record import SCHEMA, machine
from hpc_holstein.domain.transport import MPITransport, Transport

Action = Callable[[], object]

ROUND_SECONDS = 2e-3
"""Seconds of one round, in which an action runs at least once: short, so that some rounds have the machine to themselves."""

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


def row(name: str, yardstick: str, seconds: dict[str, float], against: float, rate: float, unit: str) -> dict[str, Any]:
    """One line of a record: ``times`` is the time of ours in units of that of the yardstick, each at its best."""
    times = seconds["min"] / against
    found = {"name": name, "yardstick": yardstick, "seconds": seconds, "yardstick_seconds": against}
    return {**found, "rate": rate, "unit": unit, "times": times}


def options(text: str | None) -> argparse.ArgumentParser:
    """Options that the scripts of this folder have in common."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON record to write")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each time, at least")
    parser.add_argument("--guard", type=Path, metavar="RECORD", help="exit code 1 where a ratio is worse than there")
    parser.add_argument("--factor", type=float, default=1.5, help="by which a ratio may be worse")
    return parser


def finish(
    benchmark: str, arguments: argparse.Namespace, transport: Transport, setting: dict[str, Any], result: dict[str, Any]
) -> int:
    """Write the record and show its rows; 1 where a ratio is worse than in the record to compare with."""
    if transport.rank:
        return 0
    device = "cuda" if torch.cuda.is_initialized() else "cpu"
    mpi = None
    if isinstance(transport, MPITransport):
        from mpi4py import MPI

        mpi = MPI.Get_library_version().splitlines()[0]
    setting = {"ranks": transport.size, "threads": torch.get_num_threads(), **setting}
    content = {"schema": SCHEMA, "benchmark": benchmark, "machine": machine(device, 1, os.cpu_count() or 1, mpi)}
    with arguments.output.open("x", encoding="utf-8") as file:
        file.write(json.dumps({**content, "setting": setting, "result": result}, indent=2) + "\n")
    for one in result["rows"]:
        print(f"{one['name']}: {one['rate']:.3g} {one['unit']}, {one['times']:.2f} x the time of {one['yardstick']}")
    worse: list[str] = []
    if arguments.guard:
        worse = worse_than(result["rows"], json.loads(arguments.guard.read_text()), transport.size, arguments.factor)
    print(*worse, sep="\n", end="\n" * bool(worse))
    return bool(worse)


def worse_than(rows: list[dict[str, Any]], then: dict[str, Any], ranks: int, factor: float) -> list[str]:
    """A sentence for each ratio that is worse than ``factor`` times that of the record ``then``: ratios, never seconds."""
    if then["setting"]["ranks"] != ranks:
        raise SystemExit(f"the record to compare with is one of {then['setting']['ranks']} rank(s): start as many")
    before = {(one["name"], one["yardstick"]): one["times"] for one in then["result"]["rows"]}
    pairs = [(one, before[one["name"], one["yardstick"]]) for one in rows if (one["name"], one["yardstick"]) in before]
    if not pairs:
        raise SystemExit("the record to compare with has no ratio that was measured now")
    return [
        f"worse: {one['name']} takes {one['times']:.2f} x the time of {one['yardstick']}, it was {old:.2f}"
        for one, old in pairs
        if not one["times"] <= factor * old
    ]
