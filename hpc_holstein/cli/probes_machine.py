"""A probe and what it finds, and those of the machine: ranks, threads, memory, devices and files."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import torch

from hpc_holstein.cli.session import Session
from hpc_holstein.config import Config
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import MPITransport, agreed
from hpc_holstein.errors import DataError
from hpc_holstein.interfaces import ForceResult, State
from hpc_holstein.lattice import square
from hpc_holstein.memory import host_bytes
from hpc_holstein.storage.trajectory import open_trajectory
from hpc_holstein.storage.writer import Storage, TrajectoryWriter

_VARIABLES = ("SLURM_JOB_ID", "SLURM_NNODES", "SLURM_NTASKS", "SLURM_GPUS_ON_NODE", "SLURM_MEM_PER_NODE", "SLURM_JOB_END_TIME")
_THREAD_LEVELS = ("single", "funneled", "serialized", "multiple")
_MPI_ALONE = "from mpi4py import MPI; print(MPI.Get_library_version().partition(chr(0))[0].splitlines()[0])"


@dataclass(frozen=True)
class Finding:
    """``told`` is what is there, ``remedy`` what to do where that can be better."""

    state: Literal["ok", "absent", "FAILED"]
    told: str
    remedy: str = ""


@dataclass(frozen=True)
class Place:
    """Place of the probes: the ranks, the device of this one, a folder (without a name if none could be made in ``asked``), and
    the configuration whose time step is meant.
    """

    session: Session
    device: str
    folder: Path
    asked: str
    config: Config


@dataclass(frozen=True)
class Probe:
    """A look at one thing, by all ranks together; what it raises is a failure, with ``remedy`` to say what to do then."""

    name: str
    look: Callable[[Place], Finding]
    remedy: str

    def run(self, place: Place) -> Finding:
        """The finding of this rank."""
        try:
            return self.look(place)
        except Exception as error:  # whatever it is, it is what the user wants to know
            return Finding("FAILED", f"{type(error).__name__}: {' '.join(str(error).split())}", self.remedy)


def require(right: bool, complaint: str) -> None:
    """Raise RuntimeError, a failure, where a result is not ``right``."""
    if not right:
        raise RuntimeError(complaint)


def _mpi(place: Place) -> Finding:
    """The library, and an exchange of halos whose answer is known."""
    transport = place.session.transport
    if not isinstance(transport, MPITransport):
        return _mpi_alone()
    from mpi4py import MPI  # is running already

    domain = CartesianDomain(square.build((3 * transport.size, 8)), transport, (transport.size, 1))
    ghosted = domain.pad(domain.global_cells().double()[..., None, None], 2)[..., 0, 0]
    rows = torch.arange(domain.owned[0][0] - 2, domain.owned[0][1] + 2) % (3 * transport.size)
    columns = torch.arange(-2, 10) % 8
    require(bool((ghosted == rows[:, None] * 8 + columns).all()), "ghost cells do not hold the values of their owners")
    total = transport.allsum(torch.tensor(float(transport.rank + 1), dtype=torch.float64))
    require(float(total) == transport.size * (transport.size + 1) / 2, "a sum over the ranks is wrong")
    facts, level = place.session.mpi_facts(), _THREAD_LEVELS[MPI.Query_thread()]
    told = f"{facts['mpi']}, {transport.size} ranks on {place.session.hosts} host(s), thread level {level}"
    return Finding("ok", f"{told}; halos and sums are right")


def _mpi_alone() -> Finding:
    """Without a launcher: whether the library starts in a process of its own."""
    done = subprocess.run([sys.executable, "-c", _MPI_ALONE], capture_output=True, text=True, timeout=60, check=False)
    require(done.returncode == 0, (done.stderr or f"exit code {done.returncode}").strip().splitlines()[-1])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    launcher = shutil.which("mpirun", path=path) or shutil.which("srun")
    remedy = f"{Path(launcher).name} -n 2 hpc-holstein doctor" if launcher else "put mpirun or srun on the PATH to use ranks"
    return Finding("absent", f"one rank, started without a launcher; {' '.join(done.stdout.split())} starts", remedy)


def _slurm(place: Place) -> Finding:
    """The allocation against what was started."""
    there = [f"{name.removeprefix('SLURM_').lower()} {os.environ[name]}" for name in _VARIABLES if name in os.environ]
    if not there:
        return Finding("absent", "not in a Slurm job")
    tasks, ranks = os.environ.get("SLURM_NTASKS", ""), place.session.transport.size
    if tasks.isdecimal() and int(tasks) != ranks:
        return Finding("ok", f"{', '.join(there)}; {ranks} rank(s) were started", f"srun or mpirun -n {tasks} uses all tasks")
    return Finding("ok", ", ".join(there))


def _threads(place: Place) -> Finding:
    """Cores, threads, and whether the ranks of this host have as many cores as they take."""
    session, threads = place.session, torch.get_num_threads()
    told = (
        f"{os.cpu_count()} cores, {len(os.sched_getaffinity(0))} for this rank, {threads} thread(s) a rank, "
        f"OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}"
    )
    fewer = f"{session.local_size} ranks share {session.cores} cores: start fewer, or give fewer threads"
    return Finding("ok", told, fewer if session.local_size * threads > session.cores else "")


def _memory(place: Place) -> Finding:
    share = host_bytes() / place.session.local_size
    return Finding("ok", f"{host_bytes() / 2**30:.3g} GiB on this host, {share / 2**30:.3g} GiB a rank")


def _devices(place: Place) -> Finding:
    """The GPUs, and a product on the one of this rank against the CPU."""
    count = torch.cuda.device_count()
    if not place.device.startswith("cuda"):
        built = "this torch has no CUDA" if torch.version.cuda is None else "no GPU is visible"
        remedy = "install a torch with CUDA to use it" if torch.version.cuda is None and shutil.which("nvidia-smi") else ""
        return Finding("absent", built if count == 0 else f"{count} GPU(s), not used", remedy)
    a = torch.randn(128, 128, dtype=torch.float64)
    error = float(((a.to(place.device) @ a.to(place.device)).cpu() - a @ a).abs().max())
    require(error < 1e-9, f"a product on {place.device} is off by {error:.1e}")
    free, whole = torch.cuda.mem_get_info(place.device)
    sharing = -(-place.session.local_size // count)
    ranks = f", {sharing} ranks share it" if sharing > 1 else ""
    name = torch.cuda.get_device_name(place.device)
    return Finding("ok", f"{count} GPU(s), {name}, {free / 2**30:.3g} of {whole / 2**30:.3g} GiB free{ranks}")


def _hdf5(place: Place) -> Finding:
    """A trajectory that one rank writes, and one that all do."""
    transport = place.session.transport
    with agreed(transport):
        _require_folder(place)
    domain = CartesianDomain(square.build((64 * transport.size, 256)), transport, (transport.size, 1))
    taken = [f"{count} {1e3 * _writing_seconds(count, domain, place):.3g} ms" for count in sorted({1, transport.size})]
    library = f"h5py {h5py.version.version}, HDF5 {h5py.version.hdf5_version}"
    return Finding("ok", f"{library}; {3 * 8 * domain.lattice.sites / 1e6:.2g} MB by writers {', '.join(taken)}")


def _writing_seconds(count: int, domain: CartesianDomain, place: Place) -> float:
    """Seconds that a snapshot takes so many ranks to write; RuntimeError if another one is read again."""
    transport, path = place.session.transport, place.folder / f"writers-{count}" / "trajectory.h5"
    q = domain.global_cells().double()[..., None, None]
    forces = ForceResult(q, q[..., 0], torch.tensor(0.5, dtype=torch.float64))
    start = time.perf_counter()
    with TrajectoryWriter(path, domain, transport, 1.0, torch.float64, {}, Storage(writers=count)) as writer:
        writer.write_snapshot(State(q, -q, 0, forces))
    seconds = time.perf_counter() - start
    if place.session.is_root:
        with open_trajectory(path) as trajectory:
            found = trajectory.snapshot(0)
        whole = np.arange(domain.lattice.sites).reshape(domain.lattice.extent)
        right = bool((found.q == whole).all() and (found.velocity == -whole).all())
        require(right, f"what {count} writers wrote is not what was read")
    return seconds


def _disk(place: Place) -> Finding:
    """Free space, and how fast the root brings 16 MB onto the disk."""
    told = ""
    with agreed(place.session.transport):
        _require_folder(place)
        if place.session.is_root:
            data, start = os.urandom(1 << 24), time.perf_counter()
            with (place.folder / "disk").open("wb") as file:
                file.write(data)
                os.fsync(file.fileno())
            rate = len(data) / (time.perf_counter() - start) / 1e6
            told = f"{shutil.disk_usage(place.folder).free / 2**30:.3g} GiB free in {place.asked}, {rate:.3g} MB/s"
    return Finding("ok", told)


def _require_folder(place: Place) -> None:
    if not place.folder.name:
        raise DataError(f"no folder can be made in {place.asked}")


def _locks(place: Place) -> Finding:
    """Rank 0 locks a file; no other rank and no second descriptor may have it then."""
    transport, path = place.session.transport, place.folder / "lock"
    with agreed(transport):
        _require_folder(place)
    held = os.open(path, os.O_CREAT | os.O_RDWR) if place.session.is_root else None
    works = transport.bcast(held is not None and _locked(held))
    twice = False
    if works:
        with suppress(FileNotFoundError):  # on a host that does not see the folder
            second = os.open(path, os.O_RDWR)
            twice = _locked(second)
            os.close(second)
    transport.barrier()
    if held is not None:
        os.close(held)
    if not works:
        return Finding("absent", "the file system has no locks: two runs in one folder would not notice each other")
    require(not twice, "a lock was given twice: two runs in one folder would not notice each other")
    return Finding("ok", f"a lock is refused to {'the other ranks' if transport.size > 1 else 'a second owner'}")


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


PROBES = (
    Probe("MPI", _mpi, "build mpi4py against the MPI library whose mpirun or srun starts the ranks"),
    Probe("Slurm", _slurm, ""),
    Probe("threads", _threads, "set OMP_NUM_THREADS to cores divided by ranks"),
    Probe("memory", _memory, ""),
    Probe("GPU", _devices, "check nvidia-smi and the CUDA version of torch, or give --device cpu"),
    Probe("disk", _disk, "choose a folder that can be written with --output"),
    Probe("HDF5", _hdf5, "reinstall h5py, or choose another folder with --output"),
    Probe("file locks", _locks, "start one run a folder, or choose a folder on another file system with --output"),
)
