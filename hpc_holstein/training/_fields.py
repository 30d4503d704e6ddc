"""Snapshots as training tensors, and their division into training, validation and test sets."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hpc_holstein.errors import DataError
from hpc_holstein.training.dataset import Snapshots


class FieldData:
    """Inputs and targets ``[snapshot, y, x]`` of a model, each one tensor on the device.

    A model with ``field = "shifted"`` reads ``Q + mu/g``, with ``"plain"`` ``Q``; it predicts ``n_i`` or ``F_i``, and
    ``scale`` turns its error into that of the total force: ``dF = g dn``, since the elastic force is known exactly.
    """

    def __init__(self, snapshots: Snapshots, model: nn.Module, g: float, dtype: torch.dtype, device: torch.device) -> None:
        field = torch.as_tensor(snapshots.q, dtype=torch.float64)
        if model.field == "shifted":
            field = field + _chemical_potential(snapshots)[:, None, None] / g
        density = model.predicts == "density"
        target = snapshots.density if density else snapshots.force
        if target is None:
            raise DataError("the snapshots carry no labels to train on: run `hpc-holstein label` on their file first")
        self._g = g
        self._atomic = density and model.field == "shifted"
        self.reach = cast(int, model.reach)
        self.scale = abs(g) if density else 1.0
        self.inputs = field.to(device=device, dtype=dtype)
        self.targets = torch.as_tensor(target).to(device=device, dtype=dtype)

    def batch(self, index: Tensor, origin: Tensor, cells: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Windows of ``cells`` at ``origin [batch, 2]``, periodic: ghosted inputs (``reach`` more a side) and targets."""
        return self._window(self.inputs, index, origin, cells, self.reach), self._window(self.targets, index, origin, cells, 0)

    def whole(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Ghosted inputs and targets of whole snapshots."""
        extent = (self.inputs.shape[1], self.inputs.shape[2])
        return self.batch(index, torch.zeros(len(index), 2, dtype=torch.int64), extent)

    @staticmethod
    def _window(field: Tensor, index: Tensor, origin: Tensor, cells: tuple[int, int], halo: int) -> Tensor:
        """``field[index]`` around each window; the modulus wraps a halo of any width."""
        y, x = (
            (origin[:, axis, None] + torch.arange(-halo, cells[axis] + halo)).remainder(field.shape[1 + axis]).to(field.device)
            for axis in (0, 1)
        )
        return field[index.to(field.device)[:, None, None], y[:, :, None], x[:, None, :]]

    def baseline(self, kT: float, index: Tensor) -> float:
        """Force MSE of the best prediction that needs no training, on the snapshots of ``index``.

        For a density in the shifted field the atomic limit ``n_i = f(-g (Q_i + mu/g))``, else the mean of the targets.
        """
        target = self.targets[index].double()
        guess = target.mean()
        if self._atomic:
            guess = torch.sigmoid(self._g / max(kT, 1e-12) * self.inputs[index].double())
        return float(self.scale**2 * (guess - target).square().mean())


def split(snapshots: Snapshots, validation: float, test: float, seed: int) -> dict[str, NDArray[np.int64]]:
    """Snapshot numbers of ``training``, ``validation`` and ``test``: whole quenches, random snapshots one by one.

    Neighbouring states of a quench are nearly copies, so a quench never falls into two sets.  Fractions are of the
    quenches and of the random snapshots apart; validation gets at least one quench where there are two, and what is
    left over trains.
    Errors: :class:`DataError` where no validation set is possible.
    """
    generator = np.random.default_rng(seed)
    quenches = [np.flatnonzero(snapshots.quench == q) for q in np.unique(snapshots.quench) if q != -1]
    singles = [np.array([i]) for i in np.flatnonzero(snapshots.quench == -1)]
    sets: dict[str, list[NDArray[np.int64]]] = {"training": [], "validation": [], "test": []}
    for groups in (quenches, singles):
        order = generator.permutation(len(groups))
        validating = max(1, round(validation * len(groups))) if len(groups) > 1 else 0
        testing = min(round(test * len(groups)), max(0, len(groups) - validating - 1))
        bounds = {"validation": (0, validating), "test": (validating, validating + testing)}
        bounds["training"] = (validating + testing, len(groups))
        for name, (first, end) in bounds.items():
            sets[name] += [groups[i] for i in order[first:end]]
    if not sets["validation"]:
        raise DataError(
            f"no validation set is possible with {len(quenches)} quenches and {len(singles)} random snapshots, since a quench "
            "is never divided: label at least two quenches or two random snapshots"
        )
    return {name: np.sort(np.concatenate(groups)) if groups else np.array([], dtype=int) for name, groups in sets.items()}


def _chemical_potential(snapshots: Snapshots) -> Tensor:
    """``mu [snapshot]``, which a model on the shifted field needs."""
    mu = snapshots.chemical_potential
    if mu is None or not np.isfinite(mu).all():
        unknown = len(snapshots) if mu is None else int((~np.isfinite(mu)).sum())
        raise DataError(
            f"the chemical potential of {unknown} snapshots is not known, and the model reads Q + mu/g: "
            "label with a provider that knows mu (exact), or train a model on the plain field"
        )
    return torch.as_tensor(mu, dtype=torch.float64)
