"""Every check and every benchmark of a GPU in one command, which needs no network: Python, torch and this checkout.

    PYTHONPATH=. python benchmarks/gpu.py gpu.json                     # CUDA device 0
    PYTHONPATH=. python benchmarks/gpu.py gpu.json --device cpu --quick   # the same code where there is no GPU

Checks compare the device with the CPU in float64, or with exact diagonalization.  Rates stand beside the ceilings of the same
device, measured in the same process: copy bandwidth, matrix products, one large convolution.  A part whose library is absent is
recorded as absent, a check that fails makes the exit code 1, and the record is written in any case.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from hpc_holstein import dynamics
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.noise import NoiseField, Stream
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.forces import neural
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, ForceProvider, ForceResult, State
from hpc_holstein.lattice import square

KT, MASS, GAMMA, DT, Q_STD = 0.1, 5.0, 0.2, 0.05, 5.27  # of the preset paper-2601.04104
CANONICAL = Ensemble("canonical", KT)
PRECISIONS = ("float32", "tf32", "bfloat16")
_ANCHORS = {"SNAP, V100 [atom-steps/s]": 1.0e6, "MACE-large, H100 [atom-steps/s]": 3.3e5}


class Record:
    """What was found, and whether every check held."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.failed = device, 0
        self.content: dict[str, Any] = {"benchmark": "gpu", "machine": machine(device), "checks": {}, "rates": {}}

    def check(self, name: str, value: Callable[[], float], limit: float) -> None:
        """``value() <= limit``, or the reason why there is no value."""
        found = self._tried(name, value)
        held = isinstance(found, float) and found <= limit
        absent = isinstance(found, str) and found.startswith("absent")
        self.failed += not (held or absent)
        self.content["checks"][name] = {"value": found, "limit": limit, "holds": held or (None if absent else False)}
        print(f"{'ok    ' if held else 'absent' if absent else 'FAILED'}  {name}: {found} (limit {limit:g})", flush=True)

    def rate(self, name: str, value: Callable[[], Any]) -> Any:
        """Store ``value()``."""
        found = self._tried(name, value)
        self.content["rates"][name] = found
        print(f"        {name}: {json.dumps(found)}", flush=True)
        return found

    def _tried(self, name: str, value: Callable[[], Any]) -> Any:
        try:
            return value()
        except ImportError as error:
            return f"absent: {error}"
        except (RuntimeError, ValueError) as error:  # torch.OutOfMemoryError is a RuntimeError
            return f"{type(error).__name__}: {str(error).splitlines()[0]}"
        finally:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers belong to."""
    root = Path(__file__).parents[1]
    git = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=root, capture_output=True, text=True)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    versions = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    for package in ("numpy", "numba", "hpc_holstein"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "device": name,
        "memory_bytes": torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None,
        "git": git.stdout.strip() or None,
        "load": os.getloadavg()[0],
        "versions": versions,
        "date": time.strftime("%Y-%m-%d"),
    }


def seconds_of(work: Callable[[], object], device: torch.device, least: float) -> float:
    """Mean time of ``work``, which has run twice before."""

    def settled() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    work(), work()
    calls, start = 0, settled()
    while True:
        work()
        calls += 1
        if calls % 4 == 0 or device.type == "cpu":
            elapsed = settled() - start
            if elapsed > least:
                return elapsed / calls


class Quench:
    """A hot start of the preset on a ``length x length`` lattice, forces by the packaged network or another provider."""

    def __init__(self, length: int, device: torch.device | str, dtype: torch.dtype = torch.float32) -> None:
        self.lattice = square.build((length, length))
        self.domain = CartesianDomain(self.lattice, SerialTransport(), device=str(device))
        self.hamiltonian = holstein.build(holstein.Options(), self.lattice)
        self.dtype = dtype

    def network(self, **options: Any) -> ForceProvider:
        return neural.build(neural.Options(**options), self.hamiltonian, self.domain, CANONICAL)

    def provider(self, module: Any, **options: Any) -> ForceProvider:
        found: ForceProvider = module.build(module.Options(**options), self.hamiltonian, self.domain, CANONICAL)
        return found

    def state(self) -> State:
        q, v = (NoiseField(0, s, self.domain, dtype=torch.float64)(0) for s in (Stream.INITIAL_Q, Stream.INITIAL_VELOCITY))
        return State((Q_STD * q).to(self.dtype), v.to(self.dtype))

    def noise(self) -> NoiseField:
        return NoiseField(0, Stream.DYNAMICS, self.domain, dtype=self.dtype)

    def after(self, steps: int, forces: ForceProvider) -> State:
        integrator = dynamics.build("verlet-ou", mass=MASS, gamma=GAMMA, dt=DT, kT=KT)
        state = integrator.init(self.state(), forces)
        for _ in range(steps):
            state = integrator.step(state, forces, self.noise())
        return state


def largest(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double().cpu() - other.double().cpu()).abs().max())


def rms(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double().cpu() - other.double().cpu()).square().mean().sqrt())


def checks(record: Record, quick: bool) -> None:
    """Device against CPU and exact diagonalization."""
    device, length = record.device, 32 if quick else 64
    here, there = Quench(length, "cpu", torch.float64), Quench(length, device, torch.float64)
    single = Quench(length, device)
    wanted: list[ForceResult] = []

    def reference() -> ForceResult:
        if not wanted:
            wanted.append(here.network()(here.state()))
        return wanted[0]

    record.check("noise, float64", lambda: largest(here.noise()(7), there.noise()(7)), 1e-13)
    record.check("network force, float64", lambda: largest(there.network()(there.state()).force, reference().force), 1e-9)
    record.check("network force, float32", lambda: largest(single.network()(single.state()).force, reference().force), 2e-3)
    network = there.network()
    record.check("same bits twice", lambda: largest(network(there.state()).force, network(there.state()).force), 0.0)
    if device.type == "cuda":
        graphs = single.network(cuda_graphs=True)
        record.check(
            "CUDA graphs, network force, float32",
            lambda: largest(graphs(single.state()).force, single.network()(single.state()).force),
            1e-6,
        )
    steps = 20
    record.check(
        f"q after {steps} steps, float64",
        lambda: largest(there.after(steps, there.network()).q, here.after(steps, here.network()).q),
        1e-9,
    )
    record.check("electron number, float64", lambda: abs(float(there.network()(there.state()).density.mean()) - 0.5), 1e-10)
    solvers(record, 16 if quick else 32)


def solvers(record: Record, length: int) -> None:
    """The linear-scaling solvers on the device against diagonalization."""

    def deviation(kind: str, dtype: torch.dtype, **options: Any) -> float:
        from hpc_holstein.forces import exact, kpm, local

        here, there = Quench(length, "cpu", torch.float64), Quench(length, record.device, dtype)
        reference = here.provider(exact) if kind == "kpm" else here.provider(local, **options)
        return largest(
            there.provider({"kpm": kpm, "local": local}[kind], **options)(there.state()).force, reference(here.state()).force
        )

    record.check("kpm against exact, tolerance 1e-6, float64", lambda: deviation("kpm", torch.float64, tolerance=1e-6), 1e-6)
    record.check("kpm against exact, float32", lambda: deviation("kpm", torch.float32, tolerance=1e-4), 2e-4)
    record.check("local against the CPU, R = 2, float64", lambda: deviation("local", torch.float64, reach=2), 1e-9)


def ceilings(record: Record, quick: bool) -> None:
    """Copy bandwidth [bytes/s], matrix products and a convolution [flop/s]."""
    device, least = record.device, 0.1 if quick else 0.5
    numbers, n, side = (1 << 22, 512, 64) if quick else (1 << 28, 8192, 1024)

    def bandwidth() -> float:
        source = torch.ones(numbers, device=device)
        target = torch.empty_like(source)
        return 8 * numbers / seconds_of(lambda: target.copy_(source), device, least)

    def product(dtype: torch.dtype, tf32: bool) -> float:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a = torch.ones(n, n, device=device, dtype=dtype)
        found = 2 * n**3 / seconds_of(lambda: a @ a, device, least)
        torch.backends.cuda.matmul.allow_tf32 = False
        return found

    def convolution() -> float:
        x = torch.ones(1, 64, side, side, device=device).contiguous(memory_format=torch.channels_last)
        w = torch.ones(64, 64, 3, 3, device=device).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return 2 * 9 * 64 * 64 * (side - 2) ** 2 / seconds_of(lambda: F.conv2d(x, w), device, least)

    record.rate("copy bandwidth [bytes/s]", bandwidth)
    record.rate("matrix product, float32 [flop/s]", lambda: product(torch.float32, False))
    record.rate("matrix product, tf32 [flop/s]", lambda: product(torch.float32, True))
    record.rate("matrix product, bfloat16 [flop/s]", lambda: product(torch.bfloat16, False))
    record.rate("convolution 64 -> 64, 3x3, float32 [flop/s]", convolution)


def network_rates(record: Record, quick: bool) -> None:
    """Forces by the packaged network, and the whole step, at several sizes and precisions; errors against float64."""
    device, least = record.device, 0.2 if quick else 2.0
    sizes = (64,) if quick else (256, 1024, 4096, 8192)
    accuracy = Quench(32 if quick else 256, device, torch.float64)
    start = accuracy.after(5 if quick else 200, accuracy.network())
    reference = accuracy.network()(State.at_rest(start.q)).force
    for precision in PRECISIONS:
        forces = accuracy.network(precision=precision)
        error = rms(forces(State.at_rest(start.q)).force, reference)
        record.rate(f"{precision}: rms force error against float64 [t_nn/a]", lambda error=error: error)
        for length in sizes:
            record.rate(
                f"{precision} {length}x{length}", lambda p=precision, n=length: step_rates(n, device, least, precision=p)
            )
            if device.type == "cuda":
                record.rate(
                    f"{precision} {length}x{length}, CUDA graphs",
                    lambda p=precision, n=length: step_rates(n, device, least, precision=p, cuda_graphs=True),
                )


def step_rates(length: int, device: torch.device, least: float, **options: Any) -> dict[str, float]:
    """Sites/s of a force from the forces before, site-steps/s of the whole step, and the memory it took."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    quench = Quench(length, device)
    forces = quench.network(**options)
    integrator = dynamics.build("verlet-ou", mass=MASS, gamma=GAMMA, dt=DT, kT=KT)
    noise, box = quench.noise(), [integrator.init(quench.state(), forces)]

    def step() -> None:
        box[0] = integrator.step(box[0], forces, noise)

    whole = seconds_of(step, device, least)
    force = seconds_of(lambda: forces(box[0]), device, least)
    found = {"site_steps_per_s": length**2 / whole, "force_sites_per_s": length**2 / force, "seconds_per_step": whole}
    if device.type == "cuda":
        found["bytes_per_site"] = torch.cuda.max_memory_allocated(device) / length**2
    return found


def kpm_rate(length: int, record: Record, tolerance: float) -> dict[str, float]:
    """One warm KPM force in float32, and its part of the bandwidth bound: a recurrence reads two vectors and writes one."""
    from hpc_holstein.forces import kpm

    quench = Quench(length, record.device)
    forces = quench.provider(kpm, tolerance=tolerance)
    state = quench.state()
    result = forces(state)
    start = time.perf_counter()
    result = forces(state.moved(forces=result))
    float(result.force.sum())
    elapsed = time.perf_counter() - start
    moments = length**2 * result.info["vector_moments"] / elapsed
    bandwidth = record.content["rates"]["copy bandwidth [bytes/s]"]
    return {"seconds": elapsed, "site_vector_moments_per_s": moments, "part_of_bandwidth": 12 * moments / bandwidth}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON record to write")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether everything works, not how fast")
    arguments = parser.parse_args()
    if arguments.output.exists():
        parser.error(f"{arguments.output} exists: remove it or choose another file")
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"torch sees no GPU for --device {arguments.device}: give --device cpu")
    record = Record(torch.device(arguments.device))
    checks(record, arguments.quick)
    ceilings(record, arguments.quick)
    network_rates(record, arguments.quick)
    record.rate("kpm, tolerance 1e-4, float32", lambda: kpm_rate(64 if arguments.quick else 1024, record, 1e-4))
    record.content["published_anchors"] = _ANCHORS
    arguments.output.write_text(json.dumps(record.content, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if record.failed else 0)


if __name__ == "__main__":
    main()
