"""One JSON record a measured point: where, in which setting, what came out.

=============  =====================================================================================================
``schema``     :data:`SCHEMA`
``benchmark``  ``strong`` or ``weak``
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
SWEEPS = ("strong", "weak")
_NEEDED = {
    "machine": ("host", "cpu", "cores", "device", "versions"),
    "setting": ("ranks", "grid", "threads", "lattice", "sites", "repeats"),
    "result": ("seconds", "parts"),
}


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
    def seconds(self) -> float:
        """Median time of a step."""
        return float(self.result["seconds"]["median"])

    @property
    def rate(self) -> float:
        """Site-steps a second."""
        return float(self.setting["sites"]) / self.seconds

    @property
    def shares(self) -> dict[str, float]:
        """The parts of a step in percent of their sum."""
        parts = {name: float(value["median"]) for name, value in self.result["parts"].items()}
        return {name: 100 * seconds / sum(parts.values()) for name, seconds in parts.items()}

    def write(self, path: Path) -> None:
        """A new file, whole or not there."""
        content = {"schema": SCHEMA, "benchmark": self.benchmark, "machine": self.machine}
        write_json(path, {**content, "setting": self.setting, "result": self.result})


def read(path: Path) -> Record | None:
    """The point in a file, None if it is another benchmark's; DataError, in one sentence, for what is no record."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"the record {path} cannot be read ({error.strerror}): give a file that `bench` wrote") from None
    except ValueError:
        raise DataError(f"the record {path} is broken (not JSON): remove it and measure this point again") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DataError(f"{path} is no benchmark record of this version ({SCHEMA}): remove it, or give another folder")
    if content.get("benchmark") not in SWEEPS or content.get("setting", {}).get("of", "step") != "step":
        return None
    for section, names in _NEEDED.items():
        missing = [name for name in names if name not in (content.get(section) or {})]
        if missing:
            raise DataError(f"the record {path} is broken ({section}.{missing[0]} is missing): measure this point again")
    return Record(content["benchmark"], content["machine"], content["setting"], content["result"], path)


def read_folder(folder: Path) -> list[Record]:
    """All points in a folder, those of fewer ranks first; DataError if there is none, or a broken one."""
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    records = [record for path in paths if (record := read(path)) is not None]
    if not records:
        raise DataError(f"{folder} holds no record of a step: make some with `hpc-holstein bench strong --output {folder}`")
    return sorted(records, key=lambda record: (record.benchmark, record.ranks, str(record.source)))


def machine(device: str, hosts: int, cores: int, mpi: str | None) -> dict[str, Any]:
    """Facts of the machine that numbers belong to, as seen by the root; ``cores``: those that the ranks of its host may use."""
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
