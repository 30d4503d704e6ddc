"""States of a run that a network should learn: a snapshot file that ``hpc-holstein label --input`` takes as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hpc_holstein.domain.transport import Transport, agreed
from hpc_holstein.interfaces import Domain, State
from hpc_holstein.training import dataset
from hpc_holstein.training.dataset import Snapshots


class Collected:
    """Whole states with their steps, at most ``most`` of them and ``distance`` steps apart; every method is collective.

    The root writes the file anew for each state and brings it onto the disk, so that it never ends before a checkpoint.
    All have one number ``quench``, 0; ``attributes`` are those of the file.
    """

    def __init__(
        self,
        path: Path,
        domain: Domain,
        transport: Transport,
        attributes: Mapping[str, Any],
        most: int,
        distance: int,
    ) -> None:
        self.path, self._domain, self._transport = path, domain, transport
        self._attributes, self._most, self._distance = dict(attributes), most, distance
        self._steps: list[int] = []

    @property
    def count(self) -> int:
        """States in the file."""
        return len(self._steps)

    def resume(self, step: int) -> None:
        """Go on with the file of a run that continues from ``step``: states of that step and later ones are removed.

        Raises :class:`DataError`, on all ranks, for a file that is damaged.
        """
        steps: list[int] = []
        with agreed(self._transport):
            if self._domain.rank == 0 and self.path.exists():
                steps = self._cut(step)
        self._steps = self._transport.bcast(steps)

    def add(self, state: State) -> None:
        """Keep ``state``, unless there are enough or the last one is near.  Raises DataError where it cannot be written."""
        if self.count >= self._most or (self._steps and state.step - self._steps[-1] < self._distance):
            return
        whole = self._domain.gather(state.q)
        with agreed(self._transport):
            if whole is not None:
                lattice = self._domain.lattice
                new = Snapshots.on(lattice, whole.cpu().numpy()[None], 0, state.step, attributes=self._attributes)
                if self._steps:
                    old = dataset.read(self.path)
                    q, quench, step = (
                        np.concatenate([getattr(s, name) for s in (old, new)]) for name in ("q", "quench", "step")
                    )
                    new = Snapshots.on(lattice, q, quench, step, attributes=old.attributes)
                dataset.write(self.path, new, overwrite=True)
        self._steps.append(state.step)

    def _cut(self, step: int) -> list[int]:
        """The steps that stay, on the root."""
        found = dataset.read(self.path)
        kept = found.step < step
        if not kept.any():
            self.path.unlink()
        elif not kept.all():
            dataset.write(self.path, replace(found.select(kept), attributes=found.attributes), overwrite=True)
        return [int(one) for one in found.step[kept]]
