"""Label snapshots with the forces of any provider, over ranks and across interruptions.

Snapshot ``i`` belongs to rank ``i % size``, on a domain that holds the whole lattice, so that labels do not depend on
the number of ranks.  Where there are fewer snapshots than ranks, all ranks share each of them instead, on a decomposed
domain, and labels agree with those of another number of ranks to round-off.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, Transport, agreed
from hpc_holstein.errors import ConfigError, DataError, DomainError
from hpc_holstein.fields import SiteAxes
from hpc_holstein.files import refuse_existing
from hpc_holstein.interfaces import ForceProvider, ForceResult, Lattice, State
from hpc_holstein.training import dataset
from hpc_holstein.training._parts import Parts
from hpc_holstein.training.dataset import LABELS, MORE, Snapshots
from hpc_holstein.training.paths import (
    MakeForces,
    Progress,
    QuenchPlan,
    RandomPlan,
    Stop,
    joined,
    quench_snapshots,
    random_snapshots,
    require_going,
)

_NUMBERS = 9  # a site of a snapshot, in float64, where states are joined and labels stacked
_FURTHER_NUMBERS = 4  # and for each further potential
_SAVE_EVERY = 20  # snapshots between two writes of the finished ones


@dataclass(frozen=True)
class Evaluation:
    """Snapshots with the labels of one provider (NaN where it computes none), complete on every rank, and what they cost.

    seconds     ``[snapshot]``, wall time of each; NaN for those that an earlier run finished
    info        ``[snapshot]`` of every key that the provider tells with its forces, NaN where it does not
    tolerance   max |dF| that the provider promises, ``t_nn / a``, or None
    reach       of the provider, cells; None: the whole lattice
    """

    snapshots: Snapshots
    seconds: NDArray[np.float64]
    info: dict[str, NDArray[np.float64]]
    tolerance: float | None
    reach: int | None


@dataclass(frozen=True)
class _Labels:
    """Arrays of one snapshot of the whole lattice, float64, by their names in the schema, and what they cost."""

    arrays: dict[str, NDArray[np.float64]]
    seconds: float = math.nan
    info: Mapping[str, float] | None = None


@dataclass(frozen=True)
class FurtherPotentials:
    """The density at ``number`` chemical potentials besides that of the forces, each drawn evenly up to ``width`` from it.

    The density at a site is a function of ``Q + mu/g`` around it, so they are as much to learn from, and they tell how the
    density answers to ``mu``.  With exact forces one diagonalization serves them all.  ``width`` in ``t_nn``; snapshot ``i``
    has those of ``(seed, i)``.
    """

    number: int
    width: float
    seed: int

    def offsets(self, snapshot: int) -> list[float]:
        """``[number]``, ``t_nn``."""
        drawn = np.random.default_rng((self.seed, snapshot)).uniform(-self.width, self.width, self.number)
        return [float(offset) for offset in drawn]


def memory_bytes(sites: int, further: int = 0) -> float:
    """Bytes that making and labelling takes for each snapshot of ``sites``, with ``further`` potentials; measured."""
    return (_NUMBERS + _FURTHER_NUMBERS * further) * 8.0 * sites


@dataclass(frozen=True)
class LabelWork:
    """A provider, and how snapshots are shared out: dealt to ranks that work alone, or each decomposed over all ranks."""

    transport: Transport
    domain: CartesianDomain
    forces: ForceProvider

    @classmethod
    def of(
        cls, snapshots: Snapshots, lattice: Lattice, transport: Transport, make_forces: MakeForces, device: str = "cpu"
    ) -> LabelWork:
        """Decomposed where there are fewer snapshots than ranks and the tiles are thick enough for the provider; collective.

        Errors: :class:`DataError` where the lattice of the snapshots is not ``lattice``, and those of the provider.
        """
        if (snapshots.extent, snapshots.axes) != (tuple(lattice.extent), SiteAxes.of(lattice)):
            given, wanted = "x".join(map(str, snapshots.extent)), "x".join(map(str, lattice.extent))
            raise DataError(f"snapshots of {given} cells do not fit the lattice {wanted}: set the lattice extent to {given}")
        if len(snapshots) < transport.size:
            try:
                domain = CartesianDomain(lattice, transport, device=device)
                return cls(transport, domain, make_forces(domain))
            except DomainError:  # of all ranks alike: it follows from the extent and the ranks
                pass
        domain = CartesianDomain(lattice, SerialTransport(), device=device)
        return cls(transport, domain, make_forces(domain))

    @property
    def keeps(self) -> bool:
        """True if this rank is the one that hands on the labels that it has."""
        return self.domain.size == 1 or self.domain.rank == 0

    def mine(self, snapshots: int) -> Iterable[int]:
        """The snapshots that this rank takes part in."""
        return range(self.transport.rank, snapshots, self.transport.size) if self.domain.size == 1 else range(snapshots)

    def is_told(self, stop: Stop | None) -> bool:
        """If this rank is to end its work, where ranks share a snapshot together with all others; collective there."""
        told = stop is not None and stop() is not None
        return told if self.domain.size == 1 or stop is None else any(self.transport.allgather(told))

    def labels(self, q: Tensor, chemical_potential: float | None, offsets: Sequence[float] = ()) -> _Labels:
        """Labels of ``q [*extent, basis, components]``, with densities at ``mu + offsets``.

        On a decomposed domain rank 0 alone has them whole.
        """
        tile = tuple(slice(*span) for span in self.domain.owned)
        state = State.at_rest(q[tile].contiguous().to(self.domain.device))
        if chemical_potential is not None:
            state = state.moved(forces=_at(chemical_potential, state.q))
        start = time.perf_counter()
        if offsets:
            result, *further = self.forces.at_potentials(state, offsets)
        else:
            result, further = self.forces(state), []
        whole = [self.domain.gather(field) for field in (result.force, result.density[..., None])]
        more = [None if one is None else self._gathered(one) for one in further]
        seconds = time.perf_counter() - start
        arrays = {name: _array(value) for name, value in zip(("force", "density"), whole, strict=True) if value is not None}
        arrays["chemical_potential"] = _array(result.chemical_potential)
        if offsets and self.keeps:
            arrays["more_chemical_potential"] = arrays["chemical_potential"] + np.asarray(offsets)
            arrays |= {name: one for name, one in zip(MORE[1:], more, strict=True) if one is not None}
        return _Labels(arrays, seconds, result.info)

    def _gathered(self, further: Tensor) -> NDArray[np.float64] | None:
        """A field ``[*cells, M, basis, ...]`` of the whole lattice as ``[M, *cells, basis, ...]``; None on ranks without it."""
        axes = len(self.domain.lattice.extent)
        whole = self.domain.gather(further.flatten(axes, -2))
        return None if whole is None else _array(whole.reshape(*whole.shape[:axes], *further.shape[axes:]).movedim(axes, 0))


def evaluate(
    snapshots: Snapshots,
    work: LabelWork,
    progress: Progress | None = None,
    stage: str = "label",
    chemical_potential: NDArray[np.floating] | None = None,
    parts: Parts | None = None,
    further: FurtherPotentials | None = None,
    stop: Stop | None = None,
) -> Evaluation:
    """Force, density and chemical potential of each snapshot, float64, what they cost, and what the provider says of them.

    ``stage`` names the work in progress lines.  ``chemical_potential [snapshot]``, ``t_nn``, goes to the provider with the
    state: those that compute a sample of the sites need it in the canonical ensemble.  ``parts`` keeps finished snapshots;
    those found there are not computed again.  ``further``: chemical potentials of densities besides.  Raises StoppedError, on
    all ranks, where ``stop`` ends the work of one.
    """
    transport = work.transport
    finished = _restored(parts)
    transport.barrier()  # no rank writes parts before all have read them
    fields = snapshots.fields()
    mine = [i for i in work.mine(len(snapshots)) if i not in finished]
    new: dict[int, _Labels] = {}

    def save() -> None:
        if parts is not None and work.keeps and new:
            parts.save(f"labels-{transport.rank}-{mine[0]}", _stacked(new))

    for count, i in enumerate(mine, 1):
        if work.is_told(stop):
            break
        known = None if chemical_potential is None else float(chemical_potential[i])
        new[i] = work.labels(fields[i], known, further.offsets(i) if further else ())
        if count % _SAVE_EVERY == 0 and count < len(mine):
            save()
        if progress is not None:
            progress(stage, count, len(mine))
    save()
    require_going(transport, stop)
    for share in transport.allgather(new if work.keeps else {}):
        finished.update(share)
    return _evaluation(snapshots, [finished[i] for i in range(len(snapshots))], work.forces)


def label(
    snapshots: Snapshots,
    lattice: Lattice,
    transport: Transport,
    make_forces: MakeForces,
    label_attributes: Mapping[str, Any],
    parts: Parts | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    further: FurtherPotentials | None = None,
    stop: Stop | None = None,
) -> Snapshots:
    """The snapshots with force, density and chemical potential of the provider, complete on every rank, float64.

    Errors: :class:`DataError` where the lattice of the snapshots is not ``lattice``, or the provider leaves sites without a
    force; :class:`ConfigError` where it gives no density at the chemical potentials that ``further`` asks for.
    """
    work = LabelWork.of(snapshots, lattice, transport, make_forces, device)
    if further and not work.forces.knows_spectrum:
        raise ConfigError(
            f"densities at {further.number} further chemical potentials come with exact forces only: label with --force exact, "
            "or without --more-mu"
        )
    found = evaluate(snapshots, work, progress, parts=parts, further=further, stop=stop).snapshots
    assert found.force is not None
    missing = int(np.count_nonzero(~np.isfinite(found.force)))
    if missing:
        raise DataError(f"{missing} forces of {found.force.size} are not finite, and labels need all: compute all sites")
    return replace(found, label_attributes=dict(label_attributes))


def label_file(
    source: Path,
    target: Path,
    lattice: Lattice,
    transport: Transport,
    make_forces: MakeForces,
    label_attributes: Mapping[str, Any],
    device: str = "cpu",
    progress: Progress | None = None,
    further: FurtherPotentials | None = None,
    stop: Stop | None = None,
) -> Snapshots:
    """Copy ``source`` to ``target`` with labels added and nothing else changed; an interrupted job continues.

    Errors: :class:`DataError` (before any work, on all ranks) where ``source`` cannot be used or ``target`` exists.
    """
    with agreed(transport):
        snapshots = dataset.read(source, axes=SiteAxes.of(lattice))
        dataset.refuse_labelled(source)
        refuse_existing(target)
        parts = Parts(target, {"states": snapshots.data_hash, "labels": dict(label_attributes), "further": further})
        parts.check()
    labelled = label(snapshots, lattice, transport, make_forces, label_attributes, parts, device, progress, further, stop)
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
    further: FurtherPotentials | None = None,
    stop: Stop | None = None,
) -> Snapshots:
    """Make random snapshots and snapshots along quenches, label them, and write the file; an interrupted job continues.

    ``attributes`` (see :func:`dataset.physics_attributes`) and the plans become attributes of the file.
    Errors: :class:`DataError` where ``target`` exists; :class:`ConfigError` where nothing is asked for.
    """
    if random is None and quenches is None:
        raise ConfigError("neither random snapshots nor quenches are asked for: give a number of at least one of them")
    plans = {**(random.attributes if random else {}), **(quenches.attributes if quenches else {})}
    steps = quenches.steps if quenches else ()
    job = {"states": {**attributes, **plans}, "steps": steps, "labels": dict(label_attributes), "further": further}
    parts = Parts(target, job)
    with agreed(transport):
        refuse_existing(target)
        parts.check()
    made = [random_snapshots(random, lattice)] if random else []
    if quenches:
        made.append(quench_snapshots(quenches, lattice, transport, parts, device, progress, stop))
    states = replace(joined(made), attributes={**attributes, **plans})
    labelled = label(states, lattice, transport, make_forces, label_attributes, parts, device, progress, further, stop)
    _finish(transport, parts, lambda: dataset.write(target, labelled))
    return labelled


def _at(chemical_potential: float, q: Tensor) -> ForceResult:
    """Forces that tell a provider the chemical potential and nothing else."""
    unknown = torch.full_like(q, math.nan)
    return ForceResult(unknown, unknown[..., 0], torch.tensor(chemical_potential, dtype=torch.float64))


def _array(value: Tensor) -> NDArray[np.float64]:
    return value.double().cpu().numpy()


def _evaluation(snapshots: Snapshots, labels: list[_Labels], forces: ForceProvider) -> Evaluation:
    """The labels of all snapshots as arrays of the schema."""
    count, sites = len(snapshots), snapshots.site_shape
    shapes = {"force": snapshots.q.shape, "density": (count, *sites), "chemical_potential": (count,)}
    arrays: dict[str, Any] = {
        name: np.stack([one.arrays[name] for one in labels]).reshape(shape) for name, shape in shapes.items()
    }
    for name in MORE:  # without them those of an earlier labelling go
        arrays[name] = np.stack([one.arrays[name] for one in labels]) if name in labels[0].arrays else None
    for name, shape in zip(MORE[1:], (sites, snapshots.q.shape[1:]), strict=True):
        if arrays[name] is not None:
            arrays[name] = arrays[name].reshape(count, -1, *shape)
    rows = [one.info or {} for one in labels]
    info = {
        key: np.array([row.get(key, math.nan) for row in rows]) for key in dict.fromkeys(key for row in rows for key in row)
    }
    return Evaluation(
        replace(snapshots, label_attributes={}, **arrays),
        np.array([one.seconds for one in labels]),
        info,
        forces.tolerance,
        forces.reach,
    )


def _restored(parts: Parts | None) -> dict[int, _Labels]:
    """Labels that an earlier run of the same job finished, by snapshot."""
    found = {}
    for part in parts.load("labels-*") if parts is not None else []:
        for row, i in enumerate(part["index"]):
            found[int(i)] = _Labels({name: part[name][row] for name in (*LABELS, *MORE) if name in part})
    return found


def _stacked(labels: Mapping[int, _Labels]) -> dict[str, NDArray[Any]]:
    """Labels in the order of the snapshots, and the ``index`` of those."""
    order = sorted(labels)
    names = labels[order[0]].arrays
    stacked: dict[str, NDArray[Any]] = {name: np.stack([labels[i].arrays[name] for i in order]) for name in names}
    return {"index": np.array(order), **stacked}


def _finish(transport: Transport, parts: Parts, write: Callable[[], None]) -> None:
    """The root writes the output and removes the parts; nobody returns before."""
    with agreed(transport):
        if transport.rank == 0:
            write()
            parts.clear()
