"""One force provider against another, or against stored labels, over all snapshots and by regime of the quench.

Either side may compute a sample of the sites only; what is compared are the sites at which the reference is known.  A
sampled provider cannot find the canonical chemical potential, so it is given one: that of the other side if it knows the
whole lattice and promises a tolerance (the ``mu`` of a network is part of its error), else that of a third provider.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_holstein.domain.transport import Transport
from hpc_holstein.errors import DataError
from hpc_holstein.interfaces import Lattice
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.label import Evaluation, LabelWork, evaluate
from hpc_holstein.training.paths import MakeForces, Progress
from hpc_holstein.training.regimes import Masks, Regimes, Steps

UNITS = {
    "snapshots": "1",
    "values": "1",
    "mse": "(t_nn/a)^2",
    "rmse": "t_nn/a",
    "mae": "t_nn/a",
    "max_error": "t_nn/a",
    "r2": "1",
    "mse_at_reference_mu": "(t_nn/a)^2",
    "electron_number_rms_error": "electrons/site",
    "chemical_potential_mean_error": "t_nn",
    "chemical_potential_rms_error": "t_nn",
    "chemical_potential_max_error": "t_nn",
    "reference_error_estimate": "t_nn/a",
    "seconds_per_state": "s",
    "reference_seconds_per_state": "s",
}
"""Unit of every metric of a regime."""

POTENTIAL_ERRORS = ("electron_number_rms_error", "chemical_potential_rms_error")
"""Metrics of a canonical network: of ``mean n`` at the ``mu`` of the reference, and of the ``mu`` that it finds."""

_COLUMNS = {  # metric -> heading and format
    "snapshots": ("states", "d"),
    "values": ("forces", "d"),
    "mse": ("MSE", ".2e"),
    "rmse": ("RMSE", ".2e"),
    "max_error": ("max |dF|", ".2e"),
    "r2": ("R2", ".7f"),
    "mse_at_reference_mu": ("MSE(mu_ref)", ".2e"),
    "chemical_potential_max_error": ("max |dmu|", ".1e"),
    "seconds_per_state": ("time/state", ".2g"),
    "reference_seconds_per_state": ("reference", ".2g"),
    "reference_error_estimate": ("est. error", ".1e"),
}
_ROUND_OFF = {4: 1e-6, 8: 1e-11}
"""Bytes of a number -> error of a force of 1 t_nn/a, which is a difference of numbers of that size, by round-off."""
_SHOWN_UNITS = {"1": "", "(t_nn/a)^2": "(t/a)^2", "t_nn/a": "t/a", "t_nn": "t"}


@dataclass(frozen=True)
class ForceSource:
    """One side of a comparison.

    name     in progress lines
    make     builds the provider; None: the labels that the snapshots carry
    sampled  whether it computes the chosen sites alone, at a chemical potential that it is given
    """

    name: str
    make: MakeForces | None
    sampled: bool = False


@dataclass(frozen=True)
class Comparison:
    """Metrics by regime (see :func:`force_metrics`), whose snapshots ``masks`` tell, and these with the labels of either side.

    The force of ``reference`` is NaN at sites that are not compared.  ``seconds``: by regime, wall time per state of either
    side.  ``chemical_potential [snapshot]``, ``t_nn``: what the reference stands for, None where it is not known;
    ``potential_of`` names the provider that gave it to the sampled sides, None where none was needed.
    """

    masks: Masks
    metrics: dict[str, dict[str, float | None]]
    seconds: dict[str, dict[str, float | None]]
    predicted: Evaluation
    reference: Evaluation
    chemical_potential: NDArray[np.floating] | None
    potential_of: str | None


def compare(
    judged: ForceSource,
    reference: ForceSource,
    snapshots: Snapshots,
    lattice: Lattice,
    transport: Transport,
    sites: NDArray[np.int64] | None = None,
    potential: ForceSource | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    steps: Steps | None = None,
) -> Comparison:
    """Total force of ``judged`` against ``reference`` on given states, at ``sites`` (numbers in the whole lattice) or at all.

    ``potential`` knows the whole lattice and gives sampled sides their ``mu`` where neither side can; None: they need none
    (grand-canonical).  ``steps``: of the regimes; None: they follow from the states.  The work is spread over ranks, the
    result complete on each.
    Errors: :class:`DataError` where stored labels are asked for and there are none, or where a force is NaN.
    """
    if reference.make is None and snapshots.force is None:  # before any work
        raise DataError(f"the {len(snapshots)} snapshots carry no force to compare with: label them, or name a reference")
    prepare = partial(_Run.of, snapshots=snapshots, lattice=lattice, transport=transport, device=device, progress=progress)
    runs = {side: prepare(side) for side in (judged, reference)}  # before any work, too
    found = {side: runs[side]() for side in runs if not side.sampled}
    trusted = [side for side in (reference, judged) if side in found and _knows_potential(found[side])]
    mu, potential_of = None, None
    if potential is not None and (judged.sampled or reference.sampled):
        mu = (found[trusted[0]] if trusted else prepare(potential)()).snapshots.chemical_potential
        potential_of = (trusted[0] if trusted else potential).name
    found |= {side: runs[side](mu) for side in runs if side.sampled}
    predicted, truth = found[judged], _only_at(found[reference], sites)
    known = truth.snapshots.chemical_potential
    masks = Regimes(lattice, steps).masks(snapshots)
    own_potential = not (judged.sampled or reference.sampled)
    return Comparison(
        masks,
        _metrics_by_regime(predicted, truth, masks, own_potential),
        _seconds_by_regime(predicted, truth, masks),
        predicted,
        truth,
        known if known is not None and np.isfinite(known).all() else None,
        potential_of,
    )


def force_metrics(
    predicted: NDArray[np.floating], reference: NDArray[np.floating], masks: Mapping[str, NDArray[np.bool_]], error: float = 0.0
) -> dict[str, dict[str, float | None]]:
    """For each of the ``masks [snapshot]``: ``snapshots``, ``values``, ``mse``, ``rmse``, ``mae``, ``max_error``, ``r2``.

    ``R2 = 1 - sum (F - F_ref)^2 / sum (F_ref - mean F_ref)^2``, None if the reference is constant: if it varies by no more than
    its own ``error`` or the round-off of forces of its type.  Forces ``[snapshot, *cells, ...]`` and ``error`` in ``t_nn / a``,
    squared errors in its square, over the ``values`` at which the reference is not NaN.
    """
    return {name: _metrics(predicted[mask], reference[mask], error) for name, mask in masks.items()}


def add_potential_metrics(
    rows: Mapping[str, dict[str, float | None]],
    error: NDArray[np.floating],
    masks: Mapping[str, NDArray[np.bool_]],
) -> None:
    """Mean, rms and largest size of the error of ``mu`` ``[snapshot]``, ``t_nn``, for each of the masks; None if one is NaN."""
    for name, mask in masks.items():
        chosen = error[mask]
        known = bool(np.isfinite(chosen).all())
        values = {"mean": chosen.mean(), "rms": np.sqrt(np.mean(chosen**2)), "max": np.abs(chosen).max()}
        for word, value in values.items():
            rows[name][f"chemical_potential_{word}_error"] = float(value) if known else None


def summary(metrics: Mapping[str, Any]) -> str:
    """Metrics as a table for a terminal, one regime a line, with the columns that are known."""
    rows = {name: row for name, row in metrics.items() if isinstance(row, Mapping)}
    shown = [key for key in _COLUMNS if any(row.get(key) is not None for row in rows.values())]
    width = {key: max(11, len(_COLUMNS[key][0]) + 2) for key in shown}
    head = "".join(f"{_COLUMNS[key][0]:>{width[key]}}" for key in shown)
    units = "".join(f"{_SHOWN_UNITS.get(UNITS[key], UNITS[key]):>{width[key]}}" for key in shown)
    lines = [f"{'regime':<11}{head}", f"{'':<11}{units}"]
    for name, row in rows.items():
        cells = ["-" if row.get(key) is None else format(row[key], _COLUMNS[key][1]) for key in shown]
        lines.append(f"{name:<11}" + "".join(f"{cell:>{width[key]}}" for key, cell in zip(shown, cells, strict=True)))
    return "\n".join(lines)


@dataclass(frozen=True)
class _Run:
    """A side that can be computed: its provider is built (None: the stored labels)."""

    side: ForceSource
    work: LabelWork | None
    snapshots: Snapshots
    progress: Progress | None

    @classmethod
    def of(
        cls,
        side: ForceSource,
        snapshots: Snapshots,
        lattice: Lattice,
        transport: Transport,
        device: str,
        progress: Progress | None,
    ) -> _Run:
        work = None if side.make is None else LabelWork.of(snapshots, lattice, transport, side.make, device)
        return cls(side, work, snapshots, progress)

    def __call__(self, chemical_potential: NDArray[np.floating] | None = None) -> Evaluation:
        if self.work is None:
            return Evaluation(self.snapshots, np.full(len(self.snapshots), np.nan), {}, None, None)
        return evaluate(self.snapshots, self.work, self.progress, self.side.name, chemical_potential)


def _knows_potential(found: Evaluation) -> bool:
    """True if the chemical potential of a whole-lattice provider, or of stored labels, can stand for the exact one."""
    mu = found.snapshots.chemical_potential
    stored = bool(np.isnan(found.seconds).all())
    return mu is not None and bool(np.isfinite(mu).all()) and (stored or found.tolerance is not None)


def _only_at(found: Evaluation, sites: NDArray[np.int64] | None) -> Evaluation:
    """NaN as the force of all sites but these."""
    force = found.snapshots.force
    assert force is not None
    if sites is None:
        return found
    of_sites = found.snapshots.site_shape
    chosen = np.zeros(math.prod(of_sites), dtype=bool)
    chosen[sites] = True
    kept = chosen.reshape(1, *of_sites, *(1,) * (force.ndim - 1 - len(of_sites)))
    return replace(found, snapshots=replace(found.snapshots, force=np.where(kept, force, np.nan)))


def _metrics_by_regime(
    predicted: Evaluation, reference: Evaluation, masks: Masks, own_potential: bool
) -> dict[str, dict[str, float | None]]:
    """Metrics of the force, of ``mu`` where both sides found it themselves, and what the reference says of its own error."""
    here, there = predicted.snapshots, reference.snapshots
    assert here.force is not None
    assert there.force is not None
    estimate = reference.info.get("error_estimate", np.full(len(there), np.nan))
    rows = force_metrics(here.force, there.force, masks, _largest(estimate) or reference.tolerance or 0.0)
    difference = _potential_difference(predicted, reference) if own_potential else None
    if difference is not None:
        add_potential_metrics(rows, difference, masks)
    for name, mask in masks.items():
        largest = _largest(estimate[mask])
        rows[name]["reference_error_estimate"] = reference.tolerance if largest is None else largest
    return rows


def _potential_difference(predicted: Evaluation, reference: Evaluation) -> NDArray[np.float64] | None:
    """``mu - mu_ref [snapshot]``, 0 within what the densities leave open, as in a gap; None if one is unknown."""
    mu = [side.snapshots.chemical_potential for side in (predicted, reference)]
    if mu[0] is None or mu[1] is None:
        return None
    difference = mu[0] - mu[1]
    left_open = sum(side.info.get("mu_uncertainty", np.zeros(len(difference))) for side in (predicted, reference))
    return np.where(np.abs(difference) <= left_open, 0.0, difference)


def _seconds_by_regime(predicted: Evaluation, reference: Evaluation, masks: Masks) -> dict[str, dict[str, float | None]]:
    """Mean wall time of a state, of either side."""
    sides = {"seconds_per_state": predicted.seconds, "reference_seconds_per_state": reference.seconds}
    return {
        regime: {key: float(row[mask].mean()) if np.isfinite(row[mask]).all() else None for key, row in sides.items()}
        for regime, mask in masks.items()
    }


def _metrics(predicted: NDArray[np.floating], reference: NDArray[np.floating], uncertain: float) -> dict[str, float | None]:
    kept = ~np.isnan(reference)
    exact = reference[kept].astype(np.float64)
    error = predicted[kept].astype(np.float64) - exact
    if not np.isfinite(error).all():
        raise DataError(
            f"{int((~np.isfinite(error)).sum())} of the {error.size} forces to compare are not finite: check the states"
        )
    mse, variance = float(np.mean(error**2)), float(np.var(exact))
    round_off = _ROUND_OFF[reference.dtype.itemsize] * max(1.0, float(np.abs(exact).max()))
    return {
        "snapshots": len(reference),
        "values": int(error.size),
        "mse": mse,
        "rmse": mse**0.5,
        "mae": float(np.mean(np.abs(error))),
        "max_error": float(np.max(np.abs(error))),
        "r2": 1.0 - mse / variance if variance > max(round_off, uncertain) ** 2 else None,
    }


def _largest(values: NDArray[np.floating]) -> float | None:
    """The largest value; None where one is not known."""
    return float(values.max()) if np.isfinite(values).all() else None
