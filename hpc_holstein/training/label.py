"""Label snapshots with the forces of any provider, over ranks and across interruptions.

Snapshot ``i`` belongs to rank ``i % size``, on a domain that holds the whole lattice, so that labels do not depend on
the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, Transport, agreed
from hpc_holstein.errors import ConfigError, DataError
from hpc_holstein.files import refuse_existing
from hpc_holstein.interfaces import Lattice, State
from hpc_holstein.training import dataset
from hpc_holstein.training._parts import Parts
from hpc_holstein.training.dataset import LABELS, Snapshots
from hpc_holstein.training.paths import (
    MakeForces,
    Progress,
    QuenchPlan,
    RandomPlan,
    joined,
    quench_snapshots,
    random_snapshots,
)

_SAVE_EVERY = 20  # snapshots between two writes of the finished ones


def label(
    snapshots: Snapshots,
    lattice: Lattice,
    transport: Transport,
    make_forces: MakeForces,
    label_attributes: Mapping[str, Any],
    parts: Parts | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Snapshots:
    """The snapshots with force, density and chemical potential of the provider, complete on every rank, float64.

    ``parts`` keeps finished snapshots; those found there are not computed again.
    Errors: :class:`DataError` where the lattice of the snapshots is not ``lattice``.
    """
    if snapshots.extent != tuple(lattice.extent):
        given, wanted = "x".join(map(str, snapshots.extent)), "x".join(map(str, lattice.extent))
        raise DataError(f"snapshots of {given} cells do not fit the lattice {wanted}: set the lattice extent to {given}")
    finished = _restored(parts)
    transport.barrier()  # no rank writes parts before all have read them
    forces = make_forces(CartesianDomain(lattice, SerialTransport(), device=device))
    fields = snapshots.fields()
    mine = [i for i in range(transport.rank, len(snapshots), transport.size) if i not in finished]
    new: dict[int, dict[str, NDArray[np.float64]]] = {}
    for count, i in enumerate(mine, 1):
        result = forces(State.at_rest(fields[i].to(device)))
        new[i] = {name: getattr(result, name).double().cpu().numpy() for name in LABELS}
        if parts is not None and (count % _SAVE_EVERY == 0 or count == len(mine)):
            parts.save(f"labels-{transport.rank}-{mine[0]}", _stacked(new))
        if progress is not None:
            progress("label", count, len(mine))
    for share in transport.allgather(new):
        finished.update(share)
    stacked = _stacked(finished)
    shapes = {"force": snapshots.q.shape, "density": snapshots.q.shape[:3], "chemical_potential": (len(snapshots),)}
    arrays: dict[str, Any] = {name: stacked[name].reshape(shape) for name, shape in shapes.items()}
    return replace(snapshots, label_attributes=dict(label_attributes), **arrays)


def label_file(
    source: Path,
    target: Path,
    lattice: Lattice,
    transport: Transport,
    make_forces: MakeForces,
    label_attributes: Mapping[str, Any],
    device: str = "cpu",
    progress: Progress | None = None,
) -> Snapshots:
    """Copy ``source`` to ``target`` with labels added and nothing else changed; an interrupted job continues.

    Errors: :class:`DataError` (before any work, on all ranks) where ``source`` cannot be used or ``target`` exists.
    """
    with agreed(transport):
        snapshots = dataset.read(source)
        dataset.refuse_labelled(source)
        refuse_existing(target)
        parts = Parts(target, {"states": snapshots.data_hash, "labels": dict(label_attributes)})
        parts.check()
    labelled = label(snapshots, lattice, transport, make_forces, label_attributes, parts, device, progress)
    _finish(transport, parts, lambda: dataset.write_labelled(source, target, labelled))
    return labelled


def make_file(
    target: Path,
    lattice: Lattice,
    transport: Transport,
    make_forces: MakeForces,
    attributes: Mapping[str, Any],
    label_attributes: Mapping[str, Any],
    random: RandomPlan | None = None,
    quenches: QuenchPlan | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Snapshots:
    """Make random snapshots and snapshots along quenches, label them, and write the file; an interrupted job continues.

    ``attributes`` (see :func:`dataset.physics_attributes`) and the plans become attributes of the file.
    Errors: :class:`DataError` where ``target`` exists; :class:`ConfigError` where nothing is asked for.
    """
    if random is None and quenches is None:
        raise ConfigError("neither random snapshots nor quenches are asked for: give a number of at least one of them")
    plans = {**(random.attributes if random else {}), **(quenches.attributes if quenches else {})}
    steps = quenches.steps if quenches else ()
    parts = Parts(target, {"states": {**attributes, **plans}, "steps": steps, "labels": dict(label_attributes)})
    with agreed(transport):
        refuse_existing(target)
        parts.check()
    made = [random_snapshots(random, lattice)] if random else []
    if quenches:
        made.append(quench_snapshots(quenches, lattice, transport, parts, device, progress))
    states = replace(joined(made), attributes={**attributes, **plans})
    labelled = label(states, lattice, transport, make_forces, label_attributes, parts, device, progress)
    _finish(transport, parts, lambda: dataset.write(target, labelled))
    return labelled


def _restored(parts: Parts | None) -> dict[int, dict[str, NDArray[np.float64]]]:
    """Labels that an earlier run of the same job finished, by snapshot."""
    found = {}
    for part in parts.load("labels-*") if parts is not None else []:
        for row, i in enumerate(part["index"]):
            found[int(i)] = {name: part[name][row] for name in LABELS}
    return found


def _stacked(labels: Mapping[int, Mapping[str, NDArray[np.float64]]]) -> dict[str, NDArray[Any]]:
    """Labels in the order of the snapshots, and the ``index`` of those."""
    order = sorted(labels)
    stacked: dict[str, NDArray[Any]] = {name: np.stack([labels[i][name] for i in order]) for name in LABELS}
    return {"index": np.array(order), **stacked}


def _finish(transport: Transport, parts: Parts, write: Callable[[], None]) -> None:
    """The root writes the output and removes the parts; nobody returns before."""
    with agreed(transport):
        if transport.rank == 0:
            write()
            parts.clear()
