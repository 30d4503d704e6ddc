"""The run loop, what watches it, and how it ends."""

from hpc_holstein.simulation.health import LARGEST, RUNAWAY, Health
from hpc_holstein.simulation.ledger import Ledger, MeteredTransport, Totals
from hpc_holstein.simulation.lockstep import Lockstep
from hpc_holstein.simulation.loop import Simulation, Summary
from hpc_holstein.simulation.memory import most_together, require_memory
from hpc_holstein.simulation.observers import BatchHealth, CheckpointKeeper, Progress, Recorder, SnapshotWriter, clock
from hpc_holstein.simulation.stopping import Deadline, StopSignals, Watch
from hpc_holstein.simulation.trust import Limits, Trust

__all__ = [
    "LARGEST",
    "RUNAWAY",
    "BatchHealth",
    "CheckpointKeeper",
    "Deadline",
    "Health",
    "Ledger",
    "Limits",
    "Lockstep",
    "MeteredTransport",
    "Progress",
    "Recorder",
    "Simulation",
    "SnapshotWriter",
    "StopSignals",
    "Summary",
    "Totals",
    "Trust",
    "Watch",
    "clock",
    "most_together",
    "require_memory",
]
