"""Tables of a folder of records, as Markdown.

Only points of one machine, one code, one physics and one lattice (or tile) stand on one line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hpc_holstein.bench.record import Record
from hpc_holstein.domain.partition import shown
from hpc_holstein.errors import DataError

_ALIKE = {
    "force": "force",
    "force_options": "options of the force",
    "model": "model",
    "dtype": "precision",
    "threads": "threads",
    "scheme": "scheme",
}


@dataclass(frozen=True)
class Line:
    """Records in the order of their ranks that differ in nothing else."""

    key: dict[str, str]
    records: tuple[Record, ...]

    @property
    def efficiency(self) -> list[float]:
        """Rate of a rank against that of a rank of the first point: strong and weak alike."""
        return [record.rate / record.ranks / (self.records[0].rate / self.records[0].ranks) for record in self.records]

    @property
    def name(self) -> str:
        """The measurement in a few words."""
        setting = self.records[0].setting
        a_rank = "" if self.key["sweep"] == "strong" else " a rank"
        precision = setting.get("dtype", "")
        return f"{setting.get('force')} {self.key['lattice']}{a_rank}, {precision}, {setting['threads']} thread(s) a rank"


def lines_of(records: Sequence[Record]) -> list[Line]:
    """The records by line; DataError where a point is there twice."""
    found: dict[tuple[str, ...], Line] = {}
    for record in sorted(records, key=lambda record: record.ranks):
        key = _key(record)
        before = found.get(tuple(key.values()), Line(key, ()))
        found[tuple(key.values())] = Line(key, (*before.records, record))
    for line in found.values():
        for one, other in pairwise(line.records):
            if one.ranks == other.ranks:
                raise DataError(f"{one.source} and {other.source} are the same point: keep one of them in the folder")
    return sorted(found.values(), key=lambda line: line.key["sweep"])


def _key(record: Record) -> dict[str, str]:
    machine, setting = record.machine, record.setting
    return {
        "sweep": record.benchmark,
        "host": re.sub(r"\d+$", "", str(machine["host"]).partition(".")[0]),  # without the number of a node
        "processor": str(machine["cpu"]),
        "cores": str(machine["cores"]),
        "device": str(machine["device"]),
        "commit": f"{machine.get('git')}{'+' if machine.get('dirty') else ''}",
        **{word: str(setting.get(name)) for name, word in _ALIKE.items()},
        "lattice": shown(setting["lattice" if record.benchmark == "strong" else "lattice_per_rank"]),
    }


def markdown(lines: Sequence[Line]) -> str:
    """A table for each line."""
    parts = ["# Scaling report"]
    if len(lines) > 1:
        names = ", ".join(name for name in lines[0].key if len({line.key[name] for line in lines}) > 1)
        parts.append(f"The records make {len(lines)} lines, which differ in {names}: none is compared with another.")
    for line in lines:
        parts += _line(line)
    return "\n\n".join(parts) + "\n"


def _line(line: Line) -> list[str]:
    """Rates, efficiency and parts of a step."""
    first = line.records[0]
    names = list(first.result["parts"])
    head = ["ranks", "grid", "step [ms]", "min to max [ms]", "site-steps/s", "speed-up", "efficiency"]
    rows = []
    for record, efficiency in zip(line.records, line.efficiency, strict=True):
        seconds = record.result["seconds"]
        spread = f"{_ms(seconds['min'])} to {_ms(seconds['max'])}"
        cells = [record.ranks, shown(record.setting["grid"]), _ms(record.seconds), spread, f"{record.rate:.3g}"]
        shares = [f"{record.shares[name]:.1f} %" for name in names]
        rows.append([*cells, f"{efficiency * record.ranks / first.ranks:.2f}", f"{100 * efficiency:.0f} %", *shares])
    parts = [
        f"## {first.benchmark.capitalize()} scaling: {line.name}",
        _machine(first),
        _table([*head, *names], rows),
    ]
    if len(line.records) == 1:
        parts.append(
            f"One number of ranks ({first.ranks}) tells no speed-up: measure another one into the same folder, on the "
            "same machine and commit."
        )
    return parts


def _machine(record: Record) -> str:
    machine = record.machine
    return (
        f"{machine['cpu']}, {machine['cores']} cores, device {machine['device']}, host {machine['host']}, "
        f"{machine.get('mpi') or 'no MPI'}, torch {machine['versions'].get('torch')}, commit {str(machine.get('git'))[:12]}"
        f"{' with changes' if machine.get('dirty') else ''}, load before {machine.get('load', float('nan')):.2f}, "
        f"{machine.get('date', '')[:10]}."
    )


def _table(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    table = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in table)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.4g}"
