"""Keeps a run on the disk: a checkpoint at its cadence, when the clock asks for one, at a stop and at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpc_holstein.domain.transport import Transport, agreed
from hpc_holstein.interfaces import Domain, State
from hpc_holstein.output import checkpoint
from hpc_holstein.output.tiles import saved_state
from hpc_holstein.simulation.ledger import Ledger
from hpc_holstein.simulation.observers import Recorder
from hpc_holstein.storage.writer import TrajectoryWriter


class CheckpointKeeper:
    """An observer that saves the state every ``every`` steps (0: not by steps) and at the last one; collective.

    The trajectory goes to the disk first, so it never ends before the checkpoint.  A state that is not healthy is not saved.
    ``step``: the one that is saved already, where the run starts; then that of the last checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        kept: int,
        domain: Domain,
        transport: Transport,
        ledger: Ledger,
        record: Recorder,
        writer: TrajectoryWriter,
        attributes: Mapping[str, Any],
        step: int = 0,
    ) -> None:
        self.folder, self.every, self.step = folder, every or sys.maxsize, step
        self._kept, self._domain, self._transport = kept, domain, transport
        self._ledger, self._record, self._writer, self._attributes = ledger, record, writer, attributes

    def __call__(self, state: State) -> None:
        """Save ``state``, unless it is saved; DataError, on all ranks, where it cannot be written."""
        if state.step == self.step:
            return
        start = time.perf_counter()
        self._record.require_healthy(state)
        self._writer.flush()
        stored = saved_state(self.folder, state, self._domain, self._transport, self._writer.gathers)
        with agreed(self._transport):
            if stored is not None:
                account = {**asdict(self._ledger.totals()), **self._record.health.start}
                account |= self._record.trust.carried(state.step) if self._record.trust else {}
                account |= dict(zip(("snapshots", "rows"), self._writer.rows(state.step), strict=True))
                checkpoint.write(self.folder, checkpoint.with_facts(stored, account, self._attributes), self._kept)
        self.step = state.step
        self._ledger.checkpoint_seconds += time.perf_counter() - start
