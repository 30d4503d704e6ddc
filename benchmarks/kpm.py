"""Speed of the KPM recurrence on one core and on several ranks, beside SciPy and beside what the machine can do.

    python benchmarks/kpm.py kpm.json                      # one core
    mpirun -n 2 python -m mpi4py benchmarks/kpm.py kpm.json   # and the efficiency of the ranks

The unit is a site-vector-moment: one site of one vector advanced by one order. A sweep is what a warm KPM force does at a
fixed number of vectors and orders: recurrence, readings, Fermi function at several chemical potentials, error estimate.
SciPy does the recurrence alone (CSR matrix times the same block of vectors, times two, minus the order before). Two
ceilings are measured in the same process: copy bandwidth over three words per site-vector-moment, which is what a
recurrence that goes through memory once per order can reach, and the compiled kernel on vectors that stay in the cache.
Best of several repeats each: of processor time on one core, of elapsed time where ranks are compared.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from force_rate import machine  # beside this file

from hpc_holstein.compiled.chebyshev import advance
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.noise import NoiseField, Stream
from hpc_holstein.domain.transport import MPITransport, SerialTransport, Transport
from hpc_holstein.forces import _probing, kpm
from hpc_holstein.forces._probing import Colouring
from hpc_holstein.forces._sweep import sweep
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble
from hpc_holstein.lattice import square

COLOURS = (8, 4)  # spacing: 32 vectors
ORDERS = 512
ENSEMBLE = Ensemble("canonical", 0.1)
DTYPES = {"float64": torch.float64, "float32": torch.float32}


def best_of(repeats: int, work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of the fastest of several calls, after one to warm up; of one thread by default, so that others count less."""
    seconds = []
    for _ in range(repeats + 1):
        start = clock()
        work()
        seconds.append(clock() - start)
    return min(seconds[1:])


def sweep_rate(
    length: int,
    dtype: torch.dtype,
    transport: Transport,
    clock: Callable[[], float] = time.process_time,
    orders: int = ORDERS,
    repeats: int = 3,
) -> dict[str, float]:
    """Site-vector-moments per second of a sweep on a ``length x length`` lattice; the ranks start together."""
    lattice = square.build((length, length))
    domain = CartesianDomain(lattice, transport)
    provider = kpm.build(kpm.Options(), holstein.build(holstein.Options(), lattice), domain, ENSEMBLE)
    problem = provider._problem(5.27 * NoiseField(0, Stream.INITIAL_Q, domain, dtype=dtype)(0))
    colouring = Colouring((length, length), tuple(length // spacing for spacing in COLOURS))
    readings = provider._readings(problem, colouring)
    checks = _probing.between(provider._colours(colouring, opposite=True), colouring.colours, problem.sites)
    functions = np.random.default_rng(0).standard_normal((13, problem.terms))[:, :orders]
    object.__setattr__(problem, "terms", orders)

    def work() -> None:
        transport.barrier()
        sweep(problem, [(readings, functions), (checks, functions[::4])])
        transport.barrier()

    seconds = best_of(repeats, work, clock)
    moments = length**2 * readings.vectors * orders
    return {"seconds": seconds, "rate": moments / seconds, "window": problem.layout.window, "vectors": readings.vectors}


def scipy_rate(length: int, dtype: torch.dtype, vectors: int, repeats: int = 2) -> float:
    """The same for a CSR matrix of SciPy, the recurrence alone."""
    site = np.arange(length * length).reshape(length, length)
    source, target = np.tile(site.ravel(), 4), np.concatenate([np.roll(site, s, a).ravel() for a in (0, 1) for s in (1, -1)])
    number = {torch.float64: np.float64, torch.float32: np.float32}[dtype]
    hopping = scipy.sparse.coo_array((np.full(source.size, -0.02, number), (source, target)), shape=(site.size,) * 2)
    matrix = (hopping + scipy.sparse.diags_array(np.full(site.size, 0.1, number))).tocsr().astype(number)
    vector, before = (np.full((site.size, vectors), 1e-3, number) for _ in range(2))

    def work() -> None:
        after = matrix @ vector
        after *= 2
        after -= before

    return site.size * vectors / best_of(repeats, work)


def cached_rate(dtype: torch.dtype, length: int = 64, orders: int = 256, repeats: int = 8) -> float:
    """The same for the compiled kernel alone, on one block of vectors that stays in the cache of the core."""
    lanes, row, rows = 64 // dtype.itemsize, length + 2, length + 2
    even, odd = (torch.full((rows * row * lanes,), value, dtype=dtype).numpy() for value in (1e-3, 0.0))
    on_site = torch.full((rows * row,), 0.1, dtype=dtype).numpy()
    value, none = on_site.dtype.type(-0.02), np.empty(0, np.uint32)
    tile = (rows, row, 1, 1, 1 + length, 0, 0, rows, 1)
    shifts, values = ((lanes, -lanes, row * lanes, -row * lanes),), ((value,) * 4,)
    ghosts, readings = (
        np.array([[0, length], [length + 1, 1]]),
        (np.zeros((1, rows + 1), np.int64), none, np.zeros(1, np.int64)),
    )
    kept, columns, weights = np.empty(0, on_site.dtype), np.empty(0, on_site.dtype), np.empty(0)
    matrix = (on_site, shifts, values, None)
    zeros = (0,) * lanes

    def work() -> None:
        advance(even, odd, 0, orders, 1, tile, True, zeros, matrix, ghosts, readings, kept, 0, columns, weights)

    return length**2 * lanes * orders / best_of(repeats, work)


def copy_bandwidth(numbers: int = 1 << 24, repeats: int = 8) -> float:
    """Bytes per second read and written by a copy."""
    source, dest = np.ones(numbers), np.zeros(numbers)
    return 16 * numbers / best_of(repeats, lambda: np.copyto(dest, source))


def one_core(lengths: list[int], transport: Transport) -> dict[str, Any]:
    """All sizes and precisions, and the exponent of the cost against the sites."""
    table: dict[str, Any] = {}
    for name, dtype in DTYPES.items():
        bandwidth, cached = copy_bandwidth(), cached_rate(dtype)
        memory = bandwidth / (3 * dtype.itemsize)
        rows = []
        for length in lengths:
            row: dict[str, float] = {"length": length, **sweep_rate(length, dtype, transport)}
            row["scipy_rate"] = scipy_rate(length, dtype, int(row["vectors"]))
            row["times_scipy"] = row["rate"] / row["scipy_rate"]
            row["of_memory"], row["of_cached"] = row["rate"] / memory, row["rate"] / cached
            rows.append(row)
            print(
                f"{name} {length:5d}^2 {row['rate']:9.2e} /s, SciPy x {row['times_scipy']:4.1f}, three words per moment x "
                f"{row['of_memory']:4.2f}, in cache x {row['of_cached']:4.2f}, window {row['window']}",
                flush=True,
            )
        first, last = rows[0], rows[-1]
        exponent = math.log(last["seconds"] / first["seconds"]) / math.log((last["length"] / first["length"]) ** 2)
        print(f"{name} exponent {exponent:.3f}, copy {bandwidth / 1e9:.1f} GB/s, in cache {cached:.2e} /s", flush=True)
        table[name] = {"sizes": rows, "exponent": exponent, "copy_bytes_per_s": bandwidth, "cached_rate": cached}
    return table


def ranks_against_one(lengths: list[int], transport: Transport) -> list[dict[str, float]]:
    """Efficiency ``t_1 / (size t_size)``; while one rank works alone the others wait."""
    rows = []
    for length in lengths:
        for name, dtype in DTYPES.items():
            together = sweep_rate(length, dtype, transport, time.perf_counter)
            alone = sweep_rate(length, dtype, SerialTransport(), time.perf_counter) if transport.rank == 0 else None
            alone = transport.bcast(alone)
            assert alone is not None
            efficiency = alone["seconds"] / (transport.size * together["seconds"])
            rows.append({"length": length, "dtype": name, "efficiency": efficiency, **together})  # type: ignore[dict-item]
            if transport.rank == 0:
                window = together["window"]
                print(f"{name} {length:5d}^2 on {transport.size} ranks: {efficiency:.3f}, window {window}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON record to write")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256, 1024], help="lattice lengths, multiples of 8")
    arguments = parser.parse_args()
    if arguments.output.exists():
        parser.error(f"{arguments.output} exists: remove it or choose another file")
    torch.set_num_threads(1)
    transport: Transport = MPITransport()
    setting = {"threads": 1, "ranks": transport.size, "vectors": math.prod(COLOURS), "orders": ORDERS, "state": "hot start"}
    record: dict[str, Any] = {"benchmark": "kpm", "machine": machine(), "setting": setting}
    if transport.size == 1:
        record["one_core"] = one_core(arguments.sizes, transport)
    else:
        record["ranks"] = ranks_against_one([n for n in arguments.sizes if n >= 256], transport)
    if transport.rank == 0:
        arguments.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
