"""Start of a command: the ranks, their threads and devices, and a voice that only rank 0 has."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Never, TypeVar

import torch
from tqdm import tqdm

from hpc_holstein.cli import launcher
from hpc_holstein.domain.transport import MPITransport, SerialTransport, Transport, agreed
from hpc_holstein.errors import ConfigError
from hpc_holstein.simulation import Deadline, StopSignals
from hpc_holstein.simulation.stopping import SeparateStop
from hpc_holstein.stop_signals import end_no_more

T = TypeVar("T")

_LISTED = 8  # ranks whose devices are listed one by one
_LOG_SECONDS = 20.0  # between two progress lines where there is no terminal


def start_transport() -> Transport:
    """MPI when a launcher started this process, else one rank without MPI."""
    if launcher.launched():
        return MPITransport()
    return SerialTransport()


def speaks(transport: Transport) -> bool:
    """True if this process is the one that talks to the user; of tasks that MPI does not join, one does too."""
    return transport.rank == 0 and (transport.size > 1 or launcher.first())


def require_one_job(transport: Transport) -> None:
    """Raise ConfigError where a launcher started tasks that MPI does not join: each would do all the work."""
    name, tasks = launcher.told_size()
    if transport.size == 1 and tasks > 1:
        starter = "Slurm" if name.startswith("SLURM") else "the launcher"
        raise ConfigError(
            f"{starter} started {tasks} tasks but MPI joins none of them: start with `srun --mpi=pmi2` or `srun --mpi=pmix`, "
            "as the MPI library of mpi4py wants it, or with the `mpirun` of that library"
        )


def require_launcher(transport: Transport) -> None:
    """Raise ConfigError in a batch job of several tasks where the command was started on the first one alone."""
    tasks = os.environ.get("SLURM_NTASKS", "1")
    batch = os.environ.get("ENVIRONMENT") == "BATCH" and "SLURM_STEP_ID" not in os.environ
    if batch and tasks != "1" and isinstance(transport, SerialTransport):
        raise ConfigError(
            f"this job has {tasks} tasks and one rank was started: put `srun --mpi=pmi2` or `mpirun -n {tasks}` before the "
            "command, or ask for one task"
        )


@dataclass(frozen=True)
class Session:
    """The ranks of one command; ``local_rank`` and ``local_size`` count those of this host, ``quiet``: says nothing."""

    transport: Transport
    local_rank: int
    local_size: int
    hosts: int
    cores: int
    quiet: bool = False

    @classmethod
    def of(cls, transport: Transport) -> Session:
        """Find out who shares this host and its cores; collective."""
        mine = (platform.node(), tuple(sorted(_usable_cores())))
        everyone = transport.allgather(mine)
        here = [rank for rank, (host, _) in enumerate(everyone) if host == mine[0]]
        cores = {core for rank in here for core in everyone[rank][1]}  # pinned ranks have different ones, free ranks the same
        return cls(transport, here.index(transport.rank), len(here), len({host for host, _ in everyone}), len(cores))

    @property
    def is_root(self) -> bool:
        """True if this is rank 0, the one that prints and writes."""
        return self.transport.rank == 0

    def say(self, text: str) -> None:
        """Print on rank 0; a reader that has left, such as ``head``, does not end the work."""
        if not self.is_root or self.quiet:
            return
        try:
            print(text, flush=True)
        except OSError:  # the reader has left, or the disk is full
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def say_all(self, sentences: Iterable[str]) -> None:
        """:meth:`say` one after the other."""
        for sentence in sentences:
            self.say(sentence)

    def on_root(self, work: Callable[[], T]) -> T:
        """Result of ``work`` on rank 0, on every rank, as its user error is. Collective."""
        found: list[T] = []
        with agreed(self.transport):
            if self.is_root:
                found.append(work())
        result: T = self.transport.bcast(found[0] if found else None)  # type: ignore[assignment]
        return result

    def write_results(self, work: Callable[[], T]) -> T:
        """:meth:`on_root` for the results of a command, of which no signal on any rank leaves out a part.  Collective."""
        end_no_more()
        self.transport.barrier()
        return self.on_root(work)

    def mpi_facts(self) -> dict[str, str | int]:
        """Number of ranks and, under MPI, its library, as attributes of files."""
        if not isinstance(self.transport, MPITransport):
            return {"ranks": 1}
        from mpi4py import MPI  # is running already

        library = MPI.Get_library_version().partition("\0")[0].splitlines()[0]
        return {"ranks": self.transport.size, "mpi": " ".join(library.split())}

    def use(self, threads: int | None, device: str, carried: Callable[[str], str] | None = None) -> str:
        """Set the threads of this rank, choose its device, and say in one line who took what; returns the device.

        ``carried(device)``: how halos travel, in words, for the same line; collective.
        """
        count = threads or _asked_threads() or max(1, self.cores // self.local_size)
        most = os.cpu_count() or 1
        if count > most:
            raise ConfigError(f"{count} threads a rank are more than the {most} cores of {platform.node()}: give --threads N")
        torch.set_num_threads(count)
        chosen = self.device(device)
        if chosen.startswith("cuda"):
            torch.cuda.set_device(chosen)  # before CUDA is touched, so that no rank opens a context on the GPU of another
        with agreed(self.transport):
            idle = self._require_gpus(device, chosen)
        taken = self.transport.allgather((chosen, _place_of(chosen)))
        ranks = f"{self.transport.size} rank{'s' if self.transport.size > 1 else ''}"
        hosts = f" on {self.hosts} hosts" if self.hosts > 1 else ""
        devices = _listed([name for name, _ in taken])
        shared = f"; {self.local_size} ranks share {self.cores} cores" if self.local_size * count > self.cores else ""
        most_on_one = max(Counter(place for _, place in taken if place).values(), default=1)
        shared += f"; {most_on_one} ranks share a GPU" if most_on_one > 1 else ""
        shared += f"; {idle} GPU(s) of {platform.node()} stay idle" if idle else ""
        halos = carried(chosen) if carried is not None else ""
        shared += f"; {halos}" if halos else ""
        self.say(f"{ranks}{hosts}, {count} thread{'s' if count > 1 else ''} each, device {devices}{shared}")
        return chosen

    def device(self, name: str) -> str:
        """``auto``: the GPU of this local rank where there is one; a GPU that is not there is a ConfigError."""
        count = torch.cuda.device_count()  # opens no context
        if name == "auto":
            return f"cuda:{self.local_rank % count}" if count else "cpu"
        if name == "cuda" and count:
            return f"cuda:{self.local_rank % count}"
        if name.startswith("cuda") and int(name.partition(":")[2] or 0) >= count:
            raise ConfigError(f"parallel.device = '{name}' is not there, {count} GPU(s) are visible: use auto or cpu")
        return name

    def _require_gpus(self, asked: str, chosen: str) -> int:
        """Number of GPUs of the job on this host that stay idle; ConfigError if torch sees none, or ranks share one."""
        there = os.environ.get("SLURM_GPUS_ON_NODE", "0")
        if asked not in ("auto", "cuda") or not there.isdecimal() or there == "0":
            return 0
        if not chosen.startswith("cuda"):
            raise ConfigError(
                f"the job has {there} GPU(s) on {platform.node()} and torch {torch.__version__} sees none: install one with "
                "CUDA, or give --device cpu"
            )
        if self.local_size > int(there):
            raise ConfigError(
                f"{self.local_size} ranks on {platform.node()} have {there} GPU(s): ask for as many ranks as GPUs, or give "
                "--device cuda:0 to share one"
            )
        return int(there) - self.local_size


@contextmanager
def stoppable(session: Session, walltime: float | None, output: Path) -> Iterator[SeparateStop]:
    """Reasons for the work in the block to end: SIGINT, SIGTERM and SIGUSR1 on any rank, ``walltime`` [s], the Slurm job.

    Ranks tell each other by a file beside ``output``.  Collective.
    """
    marker = output.parent / f".{output.name}.stop"

    def unmark() -> None:
        with suppress(OSError):
            marker.unlink()

    session.on_root(unmark)  # what a command that was killed has left
    with StopSignals() as signals:
        try:
            yield SeparateStop(signals, deadline(walltime), marker)
        finally:
            if session.is_root:
                unmark()


def deadline(walltime: float | None) -> Deadline | None:
    """The earlier one of ``walltime`` seconds after the start of this process and the end of the Slurm job."""
    return Deadline.earliest(walltime, _process_start(), os.environ)


def _process_start() -> float:
    """When this process started [s since the epoch]: imports may take longer than a minute on a busy file system."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


class Bar:
    """Progress on rank 0: a bar a stage on a terminal, else a line now and then; ``unit``: of what the pieces are."""

    def __init__(self, session: Session, unit: str = "state") -> None:
        self._session, self._unit = session, unit
        self._bar: tqdm[Never] | None = None
        self._stage, self._spoken = "", 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """``done`` of ``total`` pieces of ``stage`` are ready."""
        if not self._session.is_root:
            return
        if stage != self._stage:
            self.close()
            self._stage, self._spoken = stage, time.monotonic()
            self._bar = tqdm(total=total, desc=stage, unit=self._unit) if sys.stderr.isatty() else None
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif done == total or time.monotonic() - self._spoken > _LOG_SECONDS:
            self._spoken = time.monotonic()
            whose = " of rank 0" if self._session.transport.size > 1 else ""
            self._session.say(f"{stage}: {done}/{total} {self._unit}s{whose}")

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def _place_of(device: str) -> str:
    """Identity of the GPU of a device among all hosts, since each rank may see another one as its first; empty for a CPU."""
    if not device.startswith("cuda"):
        return ""
    return f"{platform.node()} {torch.cuda.get_device_properties(device).uuid}"


def _listed(devices: Sequence[str]) -> str:
    """The device of each rank, in a few words."""
    if len(set(devices)) == 1:
        return devices[0]
    if len(devices) > _LISTED:
        return f"{', '.join(sorted(set(devices)))} in turn"
    return ", ".join(f"rank {rank}: {name}" for rank, name in enumerate(devices))


def _asked_threads() -> int:
    """Threads that the environment asks for, 0 for none; OpenMP takes a list, one number for each level of nesting."""
    text = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if text and not (text.isdecimal() and int(text)):
        raise ConfigError(f"OMP_NUM_THREADS = '{text}' is not a number of threads: set it to 1 or more, or give --threads N")
    return int(text or 0)


def _usable_cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
