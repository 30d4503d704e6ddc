"""Which records may stand on one line: those of one machine, one code, one physics and one lattice (or tile)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from hpc_holstein.bench.record import Record
from hpc_holstein.domain.partition import shown
from hpc_holstein.errors import DataError

_ALIKE = ("of", "force", "force_options", "model", "network", "network_options", "dtype", "threads", "scheme")
_WORDS = {
    "of": "work",
    "force_options": "options of the force",
    "network_options": "options of the network",
    "dtype": "precision",
}


@dataclass(frozen=True)
class Group:
    """Records in the order of their ranks that differ in nothing else."""

    benchmark: str
    key: tuple[tuple[str, str], ...]
    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        """The one of the fewest ranks, which the others are compared with."""
        return self.records[0]

    @property
    def ranks(self) -> list[int]:
        """Of all records."""
        return [record.ranks for record in self.records]

    @property
    def efficiency(self) -> list[float]:
        """Against the fewest ranks: strong ``R0 t0 / (R t)``, weak the rate of a rank against that of a rank there."""
        rates = [record.setting["sites"] / record.seconds / record.ranks for record in self.records]
        return [rate / rates[0] for rate in rates]

    @property
    def name(self) -> str:
        """What was measured, in a few words."""
        setting = self.first.setting
        cells = shown(setting["lattice"] if self.benchmark == "strong" else setting["lattice_per_rank"])
        what = setting.get("force") or f"training of {setting.get('network')}"
        per_rank = "" if self.benchmark == "strong" else " a rank"
        if setting["of"] == "training":
            per_rank, what = "", f"{what}, snapshots of"
        return f"{what} {cells}{per_rank}, {setting.get('dtype', '')}, {setting['threads']} thread(s) a rank"


def machine_key(record: Record) -> tuple[tuple[str, str], ...]:
    """Host (without the number of a node), processor, cores, device and commit."""
    machine = record.machine
    return (
        ("host", re.sub(r"\d+$", "", str(machine["host"]).partition(".")[0])),
        ("processor", str(machine["cpu"])),
        ("cores", str(machine["cores"])),
        ("device", str(machine["device"])),
        ("commit", f"{machine.get('git')}{'+' if machine.get('dirty') else ''}"),
    )


def work_key(record: Record) -> tuple[tuple[str, str], ...]:
    """What a step is, whatever the lattice: records with the same one obey one model."""
    setting = record.setting
    return (*machine_key(record), *((_WORDS.get(name, name), str(setting.get(name))) for name in _ALIKE))


def grouped(records: Iterable[Record]) -> list[Group]:
    """Strong and weak points by line; DataError where a point is there twice."""
    lines: dict[tuple[str, tuple[tuple[str, str], ...]], list[Record]] = {}
    for record in records:
        if record.benchmark in ("strong", "weak"):
            cells = record.setting["lattice" if record.benchmark == "strong" else "lattice_per_rank"]
            key = (*work_key(record), ("lattice", shown(cells)))
            lines.setdefault((record.benchmark, key), []).append(record)
    groups = []
    for (benchmark, key), members in lines.items():
        members = sorted(members, key=lambda record: record.ranks)
        for one, other in pairwise(members):
            if one.ranks == other.ranks:
                raise DataError(f"{one.source} and {other.source} are the same point: keep one of them in the folder")
        groups.append(Group(benchmark, key, tuple(members)))
    return groups


def differences(groups: Sequence[Group]) -> list[str]:
    """In what the lines differ, by which none is compared with another."""
    keys = [{"sweep": group.benchmark, **dict(group.key)} for group in groups]
    return [name for name in keys[0] if len({key[name] for key in keys}) > 1]
