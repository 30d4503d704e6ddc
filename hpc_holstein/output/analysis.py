"""What a stored run says: order maps, correlations, structure factor, growth of the domains."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import hpc_holstein
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.interfaces import Lattice
from hpc_holstein.output import observables
from hpc_holstein.output.hdf5 import Trajectory
from hpc_holstein.output.order import OrderScalars

Array = NDArray[np.float64]

_WINDOW = 0.5  # half width in ln t of the window that a local exponent is fitted in


@dataclass(frozen=True)
class Frames:
    """Some snapshots of a run and what follows from each.

    times              ``[frame]`` [hbar/t_nn]
    phi                ``[frame, y, x]``, local CDW order of the density
    radii, correlation ``[ring]`` [a], ``[frame, ring]``: radial average of ``C(r)``
    structure          ``[frame, y, x]``, ``S(q)`` in FFT order
    scalars            of each frame, by the names and with the values that the run records
    """

    steps: NDArray[np.int64]
    times: Array
    phi: Array
    radii: Array
    correlation: Array
    structure: Array
    scalars: list[dict[str, float]]


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


def frames(trajectory: Trajectory, lattice: Lattice, count: int = 6) -> Frames:
    """Order, correlations and structure factor of ``count`` snapshots.

    Raises ConfigError for open edges or a lattice that the checkerboard does not fit, DataError for a damaged snapshot.
    """
    observables.require_commensurate(lattice)
    observables.require_periodic(lattice, "C(r)")
    transport = SerialTransport()
    order = OrderScalars(CartesianDomain(lattice, transport), transport)
    assert order.lengths is not None
    snapshots = [trajectory.snapshot(index) for index in choose_frames(trajectory.steps, count)]
    density = np.stack([s.density for s in snapshots]).astype(np.float64)
    phi = observables.local_order(density, lattice)
    fields = [[torch.as_tensor(field)[..., None] for field in (s.density, s.q)] for s in snapshots]
    return Frames(
        steps=np.array([s.step for s in snapshots]),
        times=np.array([s.time for s in snapshots]),
        phi=phi.numpy(),
        radii=order.lengths.radii.numpy(),
        correlation=np.stack([order.lengths.correlation(one).numpy() for one in phi]),
        structure=observables.structure_factor(density, lattice).numpy(),
        scalars=[order(n, q) for n, q in fields],
    )


def order_frames(trajectory: Trajectory, lattice: Lattice, count: int) -> Iterator[tuple[float, Array]]:
    """Time and local CDW order ``[y, x]`` of at most ``count`` snapshots, evenly spaced, one at a time."""
    observables.require_commensurate(lattice)
    for index in np.unique(np.linspace(0, len(trajectory) - 1, min(count, len(trajectory))).round().astype(int)):
        density = trajectory.density(int(index)).astype(np.float64)
        yield float(trajectory.times[index]), observables.local_order(density, lattice).numpy()


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
    series = trajectory.series()
    lengths = series["domain_length_inverse_moment"]
    exponents = local_exponent(series["time"], lengths)
    ends = {name: {"first": finite(row[0]), "last": finite(row[-1])} for name, row in series.items() if len(row)}
    frame_rows = [
        {
            "step": int(step),
            "time": float(time),
            "correlation_at_zero": float(c[0]),
            **{name: finite(value) for name, value in scalars.items()},
        }
        for step, time, c, scalars in zip(chosen.steps, chosen.times, chosen.correlation, chosen.scalars, strict=True)
    ]
    return {
        "trajectory": str(trajectory.path),
        "snapshots": len(trajectory),
        "steps": int(trajectory.steps[-1]),
        "units": {"time": "hbar/t_nn", "length": "a", "energy": "t_nn"},
        "observables": ends,
        "growth_exponent": finite(_last_finite(exponents)),  # d ln L / d ln t of the inverse moment
        "frames": frame_rows,
    }


def state_of(trajectory: Trajectory) -> dict[str, Any]:
    """How far a run is, for records of what is derived from it, and the version of the package that derives it."""
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
