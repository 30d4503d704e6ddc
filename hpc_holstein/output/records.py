"""What every writer of trajectories stores of a state, and what they share."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hpc_holstein.errors import DataError
from hpc_holstein.interfaces import Domain, State
from hpc_holstein.output.complaints import cannot_write
from hpc_holstein.output.layout import DEVIATION, SCHEMA, Sites, timing

COMMIT_SECONDS = 2.0
"""Between two commits, at least."""


@dataclass(frozen=True)
class Storage:
    """How a trajectory is stored: ``compression`` 0 (none) to 9; ``guarded``: heed the locks of other readers and be heeded.

    ``components``: numbers of a coordinate.
    """

    compression: int = 0
    guarded: bool = True
    components: int = 1

    def sites(self, domain: Domain) -> Sites:
        """What the fields are on."""
        lattice = domain.lattice
        square = len(lattice.basis) == 1 and bool(np.array_equal(np.array(lattice.vectors)[::-1], np.eye(len(lattice.extent))))
        return Sites(tuple(lattice.extent), len(lattice.basis), self.components, square)


def require_written(path: Path, failure: OSError | None, domain: Domain) -> None:
    """Collective: raise DataError on all ranks, in the same words, where a disk failed on some of them."""
    code = 0 if failure is None else failure.errno or errno.EIO
    told, ranks = domain.allsum(torch.tensor([code, code > 0], dtype=torch.float64)).tolist()
    if ranks:
        raise DataError(cannot_write(path, os.strerror(int(told / ranks) if told % ranks == 0 else errno.EIO)))


def facts_of(domain: Domain, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of the file of a run on ``domain``."""
    return {"schema": SCHEMA, "extent": list(domain.lattice.extent), "lattice": domain.lattice.name, **attributes}


def number_of(dtype: torch.dtype) -> np.dtype[Any]:
    """In which the fields of a run are stored."""
    return np.dtype(np.float64 if dtype == torch.float64 else np.float32)


def stored_fields(state: State, deviation: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """What a snapshot holds of every site, ``[*cells, basis, components]``."""
    assert state.forces is not None
    fields = {"q": state.q, "velocity": state.velocity, "density": state.forces.density.unsqueeze(-1)}
    return fields if deviation is None else {**fields, DEVIATION: deviation.unsqueeze(-1)}


def stored_numbers(state: State, dt: float) -> dict[str, float]:
    """What a snapshot holds besides; ``step`` comes last, since a reader counts snapshots by it."""
    assert state.forces is not None
    return {"time": state.step * dt, "chemical_potential": float(state.forces.chemical_potential), "step": state.step}


def stored_row(time: float, values: Mapping[str, float], seconds: Mapping[str, float] | None) -> dict[str, float]:
    """A row of observables."""
    return {"observables_time": time, **values, **{timing(name): value for name, value in (seconds or {}).items()}}


def earlier(steps: NDArray[Any], observed: NDArray[Any], before: int) -> tuple[int, int]:
    """How many snapshots and rows are of earlier steps than ``before``."""
    return int(np.searchsorted(steps, before)), int(np.searchsorted(np.rint(observed), before))
