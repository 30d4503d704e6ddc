"""Analysis of a stored run: order maps, correlations, structure factor, growth of the domains."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import hpc_holstein
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.fields import cell_axes
from hpc_holstein.files import replaced
from hpc_holstein.interfaces import Hamiltonian, Lattice
from hpc_holstein.output import observables
from hpc_holstein.output.geometry import positions
from hpc_holstein.output.order import Order, OrderScalars, local_order
from hpc_holstein.storage.trajectory import Snapshot, Trajectory

Array = NDArray[np.float64]

_WINDOW = 0.5  # half width in ln t of the window that a local exponent is fitted in
MANY = 240
"""Snapshots of a film, and of the picture of a chain in time, at most."""

_LENGTHS = ("first_zero", "half_height", "inverse_moment")


class Variable(NamedTuple):
    """An array; one along a single dimension of its own name is the coordinate of that."""

    dims: tuple[str, ...]
    values: NDArray[Any]
    unit: str
    meaning: str


@dataclass(frozen=True)
class OrderFrames:
    """Maps and correlations of one order in some snapshots.

    phi                ``[frame, *cells, basis, components]``, the local order, complex unless it is real
    radii, correlation ``[ring]`` [a], ``[frame, ring]``: radial average of ``C(r)``
    """

    order: Order
    phi: NDArray[Any]
    radii: Array
    correlation: Array


@dataclass(frozen=True)
class Frames:
    """Some snapshots of a run and what follows from each.

    series     of the run, at the cadence of its observables
    times      ``[frame]`` [hbar/t_nn]
    density    ``[frame, *cells, basis]``
    structure  ``[frame, *j]``, ``S(q)`` at :func:`observables.wave_vectors`; None where edges are open
    orders     those that fit the lattice
    scalars    of each frame, by the names and with the values that the run records
    left_out   a sentence for each observable that does not fit
    history    of a chain: time and the first ``phi`` of many snapshots
    """

    lattice: Lattice
    kT: float
    series: dict[str, Array]
    steps: NDArray[np.int64]
    times: Array
    density: Array
    structure: Array | None
    orders: list[OrderFrames]
    scalars: list[dict[str, float]]
    left_out: list[str]
    history: list[tuple[float, NDArray[Any]]]


def choose_frames(steps: NDArray[np.int64], count: int) -> list[int]:
    """Indices of ``count`` snapshots from first to last, evenly in ``log(step + last/50)``: domains grow fast at first."""
    last = int(steps[-1])
    if len(steps) <= count or count == 1:
        return list(range(len(steps)))[-count:]
    offset = max(last / 50, 1.0)
    wanted = np.geomspace(steps[0] + offset, last + offset, count) - offset
    chosen: set[int] = set()
    for step in wanted[::-1]:  # the nearest that is still free: early ones crowd, late ones have room
        chosen.add(min(set(range(len(steps))) - chosen, key=lambda index: abs(int(steps[index]) - step)))
    return sorted(chosen)


def frames(
    trajectory: Trajectory, hamiltonian: Hamiltonian, orders: Sequence[Order], kT: float = math.nan, count: int = 6
) -> Frames:
    """Orders, correlations and structure factor of ``count`` snapshots; DataError for a damaged one."""
    lattice, transport = hamiltonian.lattice, SerialTransport()
    domain = CartesianDomain(lattice, transport)
    measured = OrderScalars(domain, transport, orders)
    chosen = [trajectory.snapshot(index) for index in choose_frames(trajectory.steps, count)]
    fields = [fields_of(one, hamiltonian) for one in chosen]
    density = torch.stack([n for n, _ in fields])
    found = []
    for order in (order for order in measured.fitting if order.whole):
        phi = [local_order(order.values(n, q), order, domain) for n, q in fields]
        lengths = measured.lengths[order]
        rings = torch.stack([lengths.correlation(one) for one in phi])
        found.append(OrderFrames(order, torch.stack(phi).numpy(), lengths.radii.numpy(), rings.numpy()))
    is_chain = len(lattice.extent) == 1 and found
    return Frames(
        lattice=lattice,
        kT=kT,
        series=trajectory.series(),
        steps=np.array([one.step for one in chosen]),
        times=np.array([one.time for one in chosen]),
        density=density.numpy(),
        structure=observables.structure_factor(density, lattice).numpy() if all(lattice.periodic) else None,
        orders=found,
        scalars=[measured(n, q) for n, q in fields],
        left_out=measured.told,
        history=list(order_frames(trajectory, hamiltonian, found[0].order, MANY)) if is_chain else [],
    )


def order_frames(
    trajectory: Trajectory, hamiltonian: Hamiltonian, order: Order, count: int
) -> Iterator[tuple[float, NDArray[Any]]]:
    """Time and local order ``[*cells, basis, components]`` of at most ``count`` snapshots, evenly spaced, one at a time."""
    domain = CartesianDomain(hamiltonian.lattice, SerialTransport())
    for index in np.unique(np.linspace(0, len(trajectory) - 1, min(count, len(trajectory))).round().astype(int)):
        snapshot = trajectory.snapshot(int(index))
        yield snapshot.time, local_order(order.values(*fields_of(snapshot, hamiltonian)), order, domain).numpy()


def fields_of(snapshot: Snapshot, hamiltonian: Hamiltonian) -> tuple[Tensor, Tensor]:
    """Density ``[*cells, basis]`` and coordinates ``[*cells, basis, components]`` of a stored state, float64."""
    lattice = hamiltonian.lattice
    shape = (*lattice.extent, len(lattice.basis))
    density, q = (torch.as_tensor(field).double() for field in (snapshot.density, snapshot.q))
    return density.reshape(shape), q.reshape(*shape, -1)


def local_exponent(times: Array, lengths: Array) -> Array:
    """``d ln L / d ln t``: slope of the line through the points within half a unit of ``ln t``, NaN where they are few."""
    usable = (times > 0) & np.isfinite(lengths) & (lengths > 0)
    exponent = np.full(len(times), math.nan)
    if usable.sum() < 3:
        return exponent
    x, y = np.log(times[usable]), np.log(lengths[usable])
    x, y = x - x.mean(), y - y.mean()  # so that a constant length has the exponent 0 and not that of its round-off
    first, last = np.searchsorted(x, x - _WINDOW), np.searchsorted(x, x + _WINDOW, side="right")
    sums = {name: np.concatenate([[0.0], np.cumsum(v)]) for name, v in {"x": x, "y": y, "xx": x * x, "xy": x * y}.items()}
    n, sx, sy, sxx, sxy = (last - first, *(sums[name][last] - sums[name][first] for name in ("x", "y", "xx", "xy")))
    spread = n * sxx - sx**2
    fitted = np.where((n >= 3) & (spread > 1e-9), (n * sxy - sx * sy) / np.where(spread > 1e-9, spread, 1.0), math.nan)
    exponent[usable] = fitted
    return exponent


def digest(trajectory: Trajectory, chosen: Frames) -> dict[str, Any]:
    """The numbers of an analysis, ready for JSON: first and last observables, growth, correlations of the frames."""
    series = chosen.series
    exponents = local_exponent(series["time"], series["domain_length_inverse_moment"])
    ends = {name: {"first": finite(row[0]), "last": finite(row[-1])} for name, row in series.items() if len(row)}
    frame_rows = [
        {"step": int(step), "time": float(time), **{name: finite(value) for name, value in scalars.items()}}
        for step, time, scalars in zip(chosen.steps, chosen.times, chosen.scalars, strict=True)
    ]
    for found in chosen.orders:
        for row, correlation in zip(frame_rows, found.correlation, strict=True):
            row[found.order.scalar("correlation_at_zero")] = float(correlation[0])
    return {
        "trajectory": str(trajectory.path),
        "snapshots": len(trajectory),
        "steps": int(trajectory.steps[-1]),
        "units": {"time": "hbar/t_nn", "length": "a", "energy": "t_nn"},
        "observables": ends,
        "growth_exponent": finite(_last_finite(exponents)),  # d ln L / d ln t of the inverse moment
        "left_out": chosen.left_out,
        "frames": frame_rows,
    }


def write_numbers(path: Path, chosen: Frames) -> None:
    """All that the figures show, with coordinates and units, as xarray opens it."""
    cells = cell_axes(len(chosen.lattice.extent))
    waves = tuple(f"j_{axis}" for axis in cells)
    place, vectors = positions(chosen.lattice), observables.wave_vectors(chosen.lattice)
    found = {
        "time": Variable(("time",), chosen.times, "hbar/t_nn", "time of the snapshot"),
        "step": Variable(("time",), chosen.steps, "1", "number of the time step"),
        "density": Variable(("time", *cells, "site"), chosen.density, "electrons/site", "n_i"),
        "observables_time": Variable(("observables_time",), chosen.series["time"], "hbar/t_nn", "time"),
    }
    for axis in range(len(cells)):
        name = "xyz"[axis]
        found[f"position_{name}"] = Variable((*cells, "site"), place[..., axis], "a", f"{name} of the site")
        if chosen.structure is not None:
            found[f"q_{name}"] = Variable(waves, vectors[..., axis], "1/a", f"{name} of the wave vector")
    if chosen.structure is not None:
        for name, numbers in zip(waves, observables.wave_numbers(chosen.lattice), strict=True):
            found[name] = Variable((name,), numbers, "1", "q = sum_a (j_a / cells_a) b_a")
        found["structure_factor"] = Variable(("time", *waves), chosen.structure, "electrons^2/site", "S(q)")
    for one in chosen.orders:
        found |= _numbers_of(one, chosen.series, cells)
    _write_arrays(path, found)


def _numbers_of(found: OrderFrames, series: dict[str, Array], cells: tuple[str, ...]) -> dict[str, Variable]:
    """Maps, correlations and growth of one order."""
    order, unit = found.order, "1" if found.order.field == "density" else "a"
    ring, named = order.scalar("r"), order.scalar
    numbers = {named("phi"): Variable(("time", *cells, "site", named("component")), found.phi, unit, order.in_words())}
    numbers[ring] = Variable((ring,), found.radii, "a", "distance")
    numbers[named("correlation")] = Variable(("time", ring), found.correlation, f"{unit}^2", "C(r)")
    for kind in _LENGTHS:
        name = named(f"domain_length_{kind}")
        if name in series:
            exponent = local_exponent(series["time"], series[name])
            numbers[name] = Variable(("observables_time",), series[name], "a", "domain length L(t)")
            numbers[f"{name}_exponent"] = Variable(("observables_time",), exponent, "1", "d ln L / d ln t")
    return numbers


def _write_arrays(path: Path, variables: Mapping[str, Variable]) -> None:
    """Write, whole or not at all.  Complex numbers are stored as two arrays, the second one with ``_imag`` after its name."""
    parts: dict[str, Variable] = {}
    for name, variable in variables.items():
        values = variable.values
        parts[name] = variable._replace(values=values.real)
        if np.iscomplexobj(values):
            parts[f"{name}_imag"] = variable._replace(values=values.imag)
    with replaced(path) as temporary, h5py.File(temporary, "w") as file:
        for name, variable in parts.items():
            dataset = file.create_dataset(name, data=variable.values, compression="gzip" if variable.values.ndim > 1 else None)
            dataset.attrs.update(units=variable.unit, long_name=variable.meaning)
            if variable.dims == (name,):
                dataset.make_scale(name)
        for variable in parts.values():
            for dim, size in zip(variable.dims, variable.values.shape, strict=True):
                if dim not in file:
                    file.create_dataset(dim, data=np.arange(size)).make_scale(dim)
        for name, variable in parts.items():
            for axis, dim in enumerate(variable.dims if variable.dims != (name,) else ()):
                file[name].dims[axis].attach_scale(file[dim])


def figure_names(orders: Sequence[Order], lattice: Lattice) -> list[tuple[str, str, Order | None]]:
    """File, what it shows (a function of :mod:`output.plots_run`) and of which order, of all figures of a run."""
    found: list[tuple[str, str, Order | None]] = [("energies.png", "energies_and_temperature", None)]
    found += [("structure_factor.png", "structure_factor", None)] if all(lattice.periodic) else []
    for order in orders:
        maps = "cdw_maps" if order.field == "density" else "order_maps"
        kinds = {maps: "maps", "domain_growth": "domain_growth", "correlations": "correlations"}
        found += [(f"{order.scalar(name)}.png", kind, order) for name, kind in kinds.items()]
    return found if orders else [*found, ("density_maps.png", "maps", None)]


def state_of(trajectory: Trajectory) -> dict[str, Any]:
    """State of a run, for records of what is derived from it, and the version of the package that derives it."""
    rows = len(trajectory.series()["time"])
    return {"snapshots": len(trajectory), "step": int(trajectory.steps[-1]), "rows": rows, "version": hpc_holstein.__version__}


def length_in_words(length: float) -> str:
    """A domain length for a terminal: it is NaN without order, and infinite if no end of the domains is in sight."""
    if math.isnan(length):
        return "none, no order"
    return f"{length:.2f} a" if math.isfinite(length) else "beyond the box"


def finite(value: float) -> float | None:
    """A number that JSON knows: None for NaN and infinity."""
    return float(value) if math.isfinite(value) else None


def _last_finite(values: Array) -> float:
    kept = values[np.isfinite(values)]
    return float(kept[-1]) if len(kept) else math.nan
