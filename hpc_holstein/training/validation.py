"""One force provider against another, or against stored labels, over all snapshots and by regime of the quench."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_holstein.domain.transport import Transport
from hpc_holstein.errors import DataError
from hpc_holstein.interfaces import Lattice
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.label import label
from hpc_holstein.training.paths import MakeForces, Progress

REGIMES = {"hot": (0, 200), "coarsening": (200, 800), "ordered": (800, None)}
"""Steps ``[first, end)`` of each regime of a quench at the published parameters; random snapshots (quench -1) stand apart."""


@dataclass(frozen=True)
class Comparison:
    """Metrics (JSON-serialisable, see :func:`force_metrics`) and the snapshots with the labels of either side."""

    metrics: dict[str, Any]
    predicted: Snapshots
    reference: Snapshots


def compare(
    make_forces: MakeForces,
    snapshots: Snapshots,
    lattice: Lattice,
    transport: Transport,
    make_reference: MakeForces | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Comparison:
    """Total force of one provider against another on given states; without ``make_reference`` against their stored labels.

    The work is spread over ranks, the result complete on each.
    Errors: :class:`DataError` where stored labels are asked for and there are none.
    """
    if make_reference is None:
        _force(snapshots)  # before any work
    predicted = label(snapshots, lattice, transport, make_forces, {}, device=device, progress=progress)
    reference = snapshots
    if make_reference is not None:
        reference = label(snapshots, lattice, transport, make_reference, {}, device=device, progress=progress)
    metrics: dict[str, Any] = force_metrics(_force(predicted), _force(reference), snapshots.quench, snapshots.step)
    metrics["chemical_potential_max_error"] = _largest_difference(predicted, reference)
    return Comparison(metrics, predicted, reference)


def regimes(quench: NDArray[np.int64], step: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    """Masks ``[snapshot]`` of ``all``, ``random`` and each regime that has at least one snapshot."""
    masks = {"all": np.ones(len(step), dtype=bool), "random": quench == -1}
    for name, (first, end) in REGIMES.items():
        masks[name] = (quench != -1) & (step >= first) & (step < (np.inf if end is None else end))
    return {name: mask for name, mask in masks.items() if mask.any()}


def force_metrics(
    predicted: NDArray[np.floating], reference: NDArray[np.floating], quench: NDArray[np.int64], step: NDArray[np.int64]
) -> dict[str, dict[str, float | None]]:
    """For ``all`` and each regime: ``snapshots``, ``mse``, ``rmse``, ``mae``, ``max_error``, ``r2`` of the force.

    ``R2 = 1 - sum (F - F_ref)^2 / sum (F_ref - mean F_ref)^2``, None where the reference does not vary; forces
    ``[snapshot, y, x]`` in ``t_nn / a``, squared errors in its square.
    """
    return {name: _metrics(predicted[mask], reference[mask]) for name, mask in regimes(quench, step).items()}


def _force(snapshots: Snapshots) -> NDArray[np.floating]:
    if snapshots.force is None:
        raise DataError(f"the {len(snapshots)} snapshots carry no force to compare with: label them, or name a reference")
    return snapshots.force


def _metrics(predicted: NDArray[np.floating], reference: NDArray[np.floating]) -> dict[str, float | None]:
    exact = reference.astype(np.float64)
    error = predicted.astype(np.float64) - exact
    mse, variance = float(np.mean(error**2)), float(np.var(exact))
    return {
        "snapshots": len(exact),
        "mse": mse,
        "rmse": mse**0.5,
        "mae": float(np.mean(np.abs(error))),
        "max_error": float(np.max(np.abs(error))),
        "r2": 1.0 - mse / variance if variance > 0 else None,
    }


def _largest_difference(predicted: Snapshots, reference: Snapshots) -> float | None:
    """Largest difference of the chemical potentials, ``t_nn``; None where one side does not know them."""
    if predicted.chemical_potential is None or reference.chemical_potential is None:
        return None
    difference = np.abs(predicted.chemical_potential - reference.chemical_potential)
    return float(difference.max()) if np.isfinite(difference).all() else None


def summary(metrics: Mapping[str, Any]) -> str:
    """Metrics as a table for a terminal, one regime a line."""
    lines = [f"{'regime':<12}{'snapshots':>10}{'MSE':>12}{'RMSE':>12}{'MAE':>12}{'max':>12}{'R2':>12}"]
    for name, row in metrics.items():
        if isinstance(row, Mapping):
            values = "".join(f"{row[key]:>12.3e}" for key in ("mse", "rmse", "mae", "max_error"))
            r2 = "-" if row["r2"] is None else f"{row['r2']:.7f}"
            lines.append(f"{name:<12}{row['snapshots']:>10d}{values}{r2:>12}")
    return "\n".join(lines)
