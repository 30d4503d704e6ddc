"""Sites per second of every force provider on one core, measured in one process, so that the ratios mean something.

    python benchmarks/force_rate.py force_rate.json

Every file of ``forces/`` is measured; ``neural`` once for each file of ``network/models/`` with its default options and
untrained weights, which cost what trained ones do. States are the hot start of the preset, canonical at half filling; as in
a run, each call starts from the chemical potential of the one before. A size whose call would take more than ``--limit``
seconds, judged from the size before, is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from hpc_holstein.bench import record
from hpc_holstein.config import kinds
from hpc_holstein.config.presets import preset
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.noise import NoiseField, Stream
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Domain, Ensemble, ForceProvider, Hamiltonian, State
from hpc_holstein.lattice import square

SETTING = preset("paper-2601.04104")
ENSEMBLE = Ensemble("canonical", kT=SETTING["ensemble"]["kT"])
REFERENCE = "neural:enn"
Build = Callable[[Hamiltonian, Domain], ForceProvider]


def providers() -> Iterator[tuple[str, Build]]:
    """Name and constructor of every provider, and of every network architecture."""
    for kind in kinds.available("force"):
        module = kinds.resolve("force", kind)
        if kind != "neural":
            yield kind, lambda h, d, m=module: m.build(m.Options(), h, d, ENSEMBLE)
            continue
        for name in kinds.available("model"):
            model = kinds.resolve("model", name)
            yield (
                f"neural:{name}",
                lambda h, d, m=model: NeuralForces(m.build(m.Options(), d.lattice), h, d, ENSEMBLE),
            )


def measure(build: Build, length: int, dtype: torch.dtype, seconds: float) -> dict[str, float]:
    """Mean time of one force call on a ``length x length`` lattice, over at least two calls and ``seconds``."""
    torch.manual_seed(0)
    lattice = square.build((length, length))
    domain = CartesianDomain(lattice, SerialTransport())
    forces = build(holstein.build(holstein.Options(**hamiltonian_options()), lattice), domain)
    state = State.at_rest(SETTING["initial"]["q_std"] * NoiseField(0, Stream.INITIAL_Q, domain, dtype=dtype)(0))
    result = forces(state)
    calls, start = 0, time.perf_counter()
    while calls < 2 or time.perf_counter() - start < seconds:
        result = forces(state.moved(forces=result))
        calls += 1
    elapsed = (time.perf_counter() - start) / calls
    return {
        "length": length,
        "calls": calls,
        "seconds": elapsed,
        "sites_per_s": length**2 / elapsed,
        "evaluations": result.info.get("evaluations", 1.0),
    }


def hamiltonian_options() -> dict[str, float]:
    return {key: value for key, value in SETTING["hamiltonian"].items() if key != "kind"}


def sweep(name: str, build: Build, arguments: argparse.Namespace) -> list[dict[str, float]]:
    """All sizes of one provider whose call is expected to stay below the limit."""
    rows: list[dict[str, float]] = []
    for length in sorted(arguments.sizes):
        if rows:
            power = 6 if name == "exact" else 2
            if rows[-1]["seconds"] * (length / rows[-1]["length"]) ** power > arguments.limit:
                break
        rows.append(measure(build, length, getattr(torch, arguments.dtype), arguments.seconds))
        row = rows[-1]
        print(f"{name:14s} {length:5d}^2  {row['seconds']:10.3e} s  {row['sites_per_s']:10.3e} sites/s", flush=True)
    return rows


def machine() -> dict[str, Any]:
    """What the numbers belong to."""
    return record.machine("cpu", 1, os.cpu_count() or 1, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON record to write")
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 24, 32, 64, 128, 256], help="lattice lengths")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="of q; exact computes in float64")
    parser.add_argument("--seconds", type=float, default=1.0, help="measure each case at least this long")
    parser.add_argument("--limit", type=float, default=5.0, help="longest single call")
    arguments = parser.parse_args()
    if arguments.output.exists():
        parser.error(f"{arguments.output} exists: remove it or choose another file")
    torch.set_num_threads(1)
    setting = {"dtype": arguments.dtype, "threads": 1, "ranks": 1, "state": "hot start", "ensemble": "canonical, half filling"}
    record = {"benchmark": "force_rate", "machine": machine(), "setting": setting}
    record["providers"] = {name: sweep(name, build, arguments) for name, build in providers()}
    best = {name: max(row["sites_per_s"] for row in rows) for name, rows in record["providers"].items()}
    record["best_sites_per_s"] = best
    record["relative_to"] = {REFERENCE: {name: rate / best[REFERENCE] for name, rate in best.items()}}
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
