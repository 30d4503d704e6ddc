"""A real Slurm on one machine: two nodes that exist by name only, no munge, no systemd; for tests, and needs root.

The daemons are children of this process and end with it, however it ends.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch")
INSTALL = "apt-get install -y --no-install-recommends slurmctld slurmd slurm-client"
NODES, CPUS = 2, 4
_DEVICES = ("/dev/null", "/dev/zero")  # stand for the GPUs of a node: Slurm counts them and hands them out
LIMIT = 90.0  # seconds that a test waits for a job
_PR_SET_PDEATHSIG = 1

_SETTINGS = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
# A requeued job waits until the credentials of its last session are forgotten.
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=1,sched_interval=1,bf_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=pmi2
GresTypes=gpu
ReturnToService=2
KillWait=5
MailProg=/bin/true
PropagateResourceLimits=NONE
"""


@dataclass(frozen=True)
class Job:
    """What Slurm says of a job: its state, its exit code, how often it was requeued."""

    state: str
    code: int
    restarts: int


class Cluster:
    """Starts jobs on the nodes ``n1`` and ``n2`` and waits for what becomes of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = folder / "slurm.conf"
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Write the settings, start the daemons, and wait for the nodes."""
        ports = _free_ports(NODES + 1)
        (self.folder / "state").mkdir(parents=True)
        host = socket.gethostname().partition(".")[0]
        lines = [_SETTINGS.format(host=host, port=ports[0], folder=self.folder)]
        for number, port in enumerate(ports[1:], 1):
            (self.folder / f"spool-n{number}").mkdir()
            lines.append(
                f"NodeName=n{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} RealMemory=4000 "
                f"Gres=gpu:{len(_DEVICES)} State=UNKNOWN\n"
            )
        lines.append(f"PartitionName=test Nodes=n[1-{NODES}] Default=YES DefaultTime=10 State=UP\n")
        self.settings.write_text("".join(lines))
        (self.folder / "gres.conf").write_text("".join(f"Name=gpu File={device}\n" for device in _DEVICES))
        os.environ["SLURM_CONF"] = str(self.settings)
        self.start_daemon("slurmctld", "slurmctld", "-D")
        for number in range(1, NODES + 1):
            self.start_daemon(f"n{number}", "slurmd", "-D", "-N", f"n{number}")
        wait_for(lambda: ask("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * NODES, "the nodes", 30)

    def start_daemon(self, name: str, *command: str) -> None:
        """One daemon, in the foreground."""
        with (self.folder / f"{name}.out").open("wb") as out:
            self.daemons[name] = subprocess.Popen(command, stdout=out, stderr=out, preexec_fn=_end_with_parent)

    def stop(self) -> None:
        """Cancel what runs, end the daemons."""
        with suppress(subprocess.SubprocessError, TimeoutError):
            ask("scancel", "--user=root")
            wait_for(lambda: not ask("squeue", "-h"), "the queue to empty", 20)
        for daemon in self.daemons.values():
            daemon.terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
        os.environ.pop("SLURM_CONF", None)

    def sbatch(self, *arguments: object) -> int:
        """Submit; the id of the job."""
        return int(ask("sbatch", "--parsable", *map(str, arguments)))

    def job(self, job: int | str) -> Job:
        """A job as the controller remembers it, for some minutes after its end."""
        words = dict(word.partition("=")[::2] for word in ask("scontrol", "show", "job", "-o", str(job)).split())
        code, number = words["ExitCode"].split(":")
        return Job(words["JobState"], int(code) or -int(number), int(words["Restarts"]))

    def ended(self, job: int | str, limit: float = LIMIT) -> Job:
        """Wait for its end."""
        going = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED")
        wait_for(lambda: self.job(job).state not in going, f"the end of job {job}", limit)
        return self.job(job)

    def signal(self, job: int | str, name: str = "USR1") -> None:
        """Send the script of a job the signal that Slurm sends before the time limit."""
        ask("scancel", "--batch", f"--signal={name}", str(job))

    def lose_node(self, node: str, job: int) -> None:
        """The node is gone, with all that runs there."""
        daemon = self.daemons.pop(node)
        daemon.kill()
        daemon.wait()
        for process in _processes(job, node, self.settings):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")

    def find_node(self, node: str) -> None:
        """The node is there again."""
        self.start_daemon(node, "slurmd", "-D", "-N", node)
        ask("scontrol", "update", f"NodeName={node}", "State=RESUME")


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A cluster that is there in a ``with`` block."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing or os.geteuid() != 0:
        raise RuntimeError(f"the tests of Slurm need root and {', '.join(PROGRAMS)}: {INSTALL}")
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def wait_for(condition: Callable[[], object], what: str, limit: float = LIMIT) -> None:
    """Look until ``condition`` holds; TimeoutError after ``limit`` seconds."""
    end = time.monotonic() + limit
    while True:
        with suppress(subprocess.CalledProcessError):
            if condition():
                return
        if time.monotonic() > end:
            raise TimeoutError(f"waited {limit:g} s for {what}:\n{ask('squeue')}")
        time.sleep(0.2)


def ask(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


def _processes(job: int, node: str, settings: Path) -> list[int]:
    """Processes of a job of this cluster on one of its nodes, their keepers included."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            words = dict(word.partition("=")[::2] for word in (entry / "environ").read_text().split("\0"))
            mine = words.get("SLURM_CONF") == str(settings)
            if mine and words.get("SLURM_JOB_ID") == str(job) and words.get("SLURMD_NODENAME") == node:
                found.append(int(entry.name))
    return found


def _free_ports(count: int) -> list[int]:
    with_ports = [socket.socket() for _ in range(count)]
    for one in with_ports:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in with_ports]
    for one in with_ports:
        one.close()
    return ports


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
