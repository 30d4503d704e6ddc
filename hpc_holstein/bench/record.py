"""One JSON record a measured point: where, in which setting, what came out.

=============  =====================================================================================================
``schema``     :data:`SCHEMA`
``benchmark``  ``strong``, ``weak``, ``kernels`` or ``io``
``machine``    host, hosts, cpu, cores, device, load (mean number of running processes before), mpi, versions, git, dirty
``setting``    what was asked for: ranks, grid, threads, lattice, force, model, repeats, ...
``result``     what was measured: seconds as ``{"median", "min", "max"}`` over the repeats
=============  =====================================================================================================
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hpc_holstein.errors import DataError
from hpc_holstein.output.provenance import provenance, write_json

SCHEMA = "hpc_holstein bench 1"
KINDS = ("strong", "weak", "kernels", "io")
_MACHINE = ("host", "cpu", "cores", "device", "versions")
_SETTING = {
    "strong": ("ranks", "grid", "threads", "lattice", "sites", "of", "repeats"),
    "weak": ("ranks", "grid", "threads", "lattice", "sites", "of", "repeats"),
    "kernels": ("ranks", "threads"),
    "io": ("ranks", "lattice"),
}
_RESULT = {"strong": ("seconds", "parts"), "weak": ("seconds", "parts"), "kernels": ("ceilings", "rows"), "io": ("rows",)}


@dataclass(frozen=True)
class Record:
    """A measured point; ``source`` is its file."""

    benchmark: str
    machine: Mapping[str, Any]
    setting: Mapping[str, Any]
    result: Mapping[str, Any]
    source: Path | None = None

    @property
    def ranks(self) -> int:
        """Ranks that worked."""
        return int(self.setting["ranks"])

    @property
    def sites_per_rank(self) -> float:
        """Mean over the ranks."""
        return float(self.setting["sites"]) / self.ranks

    @property
    def seconds(self) -> float:
        """Median of a step (or an epoch)."""
        return float(self.result["seconds"]["median"])

    def part(self, name: str) -> float:
        """Median seconds of a part of a step, 0 for one that was not measured."""
        return float(self.result["parts"].get(name, {"median": 0.0})["median"])

    @property
    def shares(self) -> dict[str, float]:
        """The parts of a step in percent of their sum."""
        whole = sum(self.part(name) for name in self.result["parts"])
        return {name: 100 * self.part(name) / whole for name in self.result["parts"]}

    def write(self, path: Path) -> None:
        """A new file, whole or not there."""
        content = {"schema": SCHEMA, "benchmark": self.benchmark, "machine": self.machine}
        write_json(path, {**content, "setting": self.setting, "result": self.result})


def read(path: Path) -> Record:
    """The record in a file; DataError, in one sentence, for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"the record {path} cannot be read ({error.strerror}): give a file that `bench` wrote") from None
    except ValueError:
        raise DataError(f"the record {path} is broken (not JSON): remove it and measure this point again") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or content.get("benchmark") not in KINDS:
        raise DataError(f"{path} is no benchmark record of this version ({SCHEMA}): remove it, or give another folder")
    kind = content["benchmark"]
    for section, names in (("machine", _MACHINE), ("setting", _SETTING[kind]), ("result", _RESULT[kind])):
        missing = [name for name in names if name not in (content.get(section) or {})]
        if missing:
            raise DataError(f"the record {path} is broken ({section}.{missing[0]} is missing): measure this point again")
    return Record(kind, content["machine"], content["setting"], content["result"], path)


def read_folder(folder: Path) -> list[Record]:
    """All records in a folder, those of fewer ranks first; DataError where there is none, or a broken one."""
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not paths:
        raise DataError(f"{folder} holds no benchmark record: make some with `hpc-holstein bench strong --output {folder}`")
    return sorted(map(read, paths), key=lambda record: (record.benchmark, record.ranks, str(record.source)))


def machine(device: str, hosts: int, cores: int, mpi: str | None) -> dict[str, Any]:
    """What the numbers belong to, as seen by the root; ``cores``: those that the ranks of its host may use."""
    facts = provenance()
    git = facts.get("git")
    return {
        "host": platform.node(),
        "hosts": hosts,
        "cpu": _processor(),
        "cores": cores,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "load": os.getloadavg()[0],
        "mpi": mpi,
        "versions": {key.removeprefix("version."): value for key, value in facts.items() if key.startswith("version.")},
        "git": git and git.rstrip("+"),
        "dirty": bool(git and git.endswith("+")),
        "date": facts["date"],
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
