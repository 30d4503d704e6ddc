"""One set of labelled snapshots of one system in a training: its tensors, its division, and the errors on each set.

A training of a network that reads the matrix elements of ``H`` may have several, of different Hamiltonians and extents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hpc_holstein.domain.transport import Transport
from hpc_holstein.interfaces import Ensemble, Hamiltonian
from hpc_holstein.training._fields import FieldData, split, with_further
from hpc_holstein.training._matrix_fields import MatrixData
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.fit_options import FitOptions
from hpc_holstein.training.own_potential import OwnPotential, is_canonical
from hpc_holstein.training.regimes import Masks
from hpc_holstein.training.validation import add_potential_metrics, force_metrics

_VALIDATION_CELLS = 1 << 15  # cells evaluated at once without gradients: enough to amortise the call, small enough for caches

Rows = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class LabelledSystem:
    """Snapshots with labels and the system that these belong to; ``masks [snapshot]``: parts that are judged apart."""

    snapshots: Snapshots
    hamiltonian: Hamiltonian
    ensemble: Ensemble
    masks: Masks


class Judged:
    """A :class:`LabelledSystem` as ``model`` learns it, and is judged on it."""

    def __init__(self, system: LabelledSystem, model: nn.Module, options: FitOptions, transport: Transport) -> None:
        self.system, self._transport = system, transport
        self.sets = split(system.snapshots, options.validation, options.test, options.seed)
        dtype, device = getattr(torch, options.dtype), torch.device(options.device)
        rows, source = with_further(system.snapshots, model, system.hamiltonian)
        self.training_rows = np.flatnonzero(np.isin(source, self.sets["training"]))
        self.rows = len(source)
        self.data = training_data(rows, model, system.hamiltonian, dtype, device)
        canonical = is_canonical(model, system.ensemble)
        self.own = OwnPotential(system.snapshots, system.hamiltonian, system.ensemble, device) if canonical else None

    def loss(self, model: nn.Module, own: bool) -> float:
        """Force MSE of the validation set at the ``mu`` of the labels, or at the ``own`` one of the network."""
        if own:
            return float(np.square(self.own_errors(model, "validation")[0]).mean())
        return float(self.errors(model, "validation").square().mean())

    def baseline(self, own: bool) -> float:
        """Force MSE of the validation set without training: of the atomic limit at its own ``mu``, if the density decides."""
        if own and isinstance(self.data, FieldData):
            assert self.own is not None
            return float(np.square(self.own.of_atomic_limit(self.sets["validation"])[0]).mean())
        return self.data.baseline(self.system.ensemble.kT, self.index("validation"))

    def errors(self, model: nn.Module, name: str) -> Tensor:
        """Force minus that of the labels on one of the sets, shaped like the targets, spread over ranks, complete on each."""
        model.eval()
        index = self.index(name)
        errors = torch.zeros(len(index), *self.data.targets.shape[1:], dtype=torch.float64)
        mine = torch.arange(len(index))[self._transport.rank :: self._transport.size]
        size = max(1, _VALIDATION_CELLS // self.data.targets[0].numel())
        with torch.no_grad():
            for rows in torch.split(mine, size) if len(mine) else ():
                errors[rows] = self.data.whole_errors(model, index[rows]).double().cpu()
        return self._transport.allsum(errors)

    def own_errors(self, model: nn.Module, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Error of the force ``[snapshot, ...]`` and of ``mu`` ``[snapshot]`` at the ``mu`` that the network finds."""
        assert self.own is not None
        model.eval()
        index = self.sets[name]
        force, mu = np.zeros((len(index), *self.data.targets.shape[1:])), np.zeros(len(index))
        mine = slice(self._transport.rank, None, self._transport.size)
        if len(index[mine]):
            found, mu[mine] = self.own.of_network(model, index[mine], self.data.inputs.dtype)
            force[mine] = found.reshape(force[mine].shape)
        summed = [self._transport.allsum(torch.from_numpy(part)).numpy() for part in (force, mu)]
        return summed[0], summed[1]

    def index(self, name: str) -> Tensor:
        """Snapshots of one of the sets."""
        return torch.from_numpy(self.sets[name])

    def metrics(self, model: nn.Module) -> dict[str, Rows]:
        """Errors of each set that there is, apart for the masks."""
        return {name: self._metrics(model, name) for name in self.sets if len(self.sets[name])}

    def _metrics(self, model: nn.Module, name: str) -> Rows:
        """Errors as a run has them; of a canonical one beside those at the chemical potentials of the labels."""
        index, snapshots = self.sets[name], self.system.snapshots
        assert snapshots.force is not None
        reference = snapshots.force[index]
        error = self.errors(model, name).numpy().reshape(reference.shape)
        masks = {regime: mask[index] for regime, mask in self.system.masks.items() if mask[index].any()}
        rows = force_metrics(reference + error, reference, masks)
        if self.own is None:
            return rows
        force, mu = self.own_errors(model, name)
        own = force_metrics(reference + force.reshape(reference.shape), reference, masks)
        add_potential_metrics(own, mu, masks)
        electrons = self._electron_errors(model, name, error)
        for regime, mask in masks.items():
            own[regime]["mse_at_reference_mu"] = rows[regime]["mse"]
            own[regime]["electron_number_rms_error"] = float(np.sqrt(np.mean(electrons[mask] ** 2)))
        return own

    def _electron_errors(self, model: nn.Module, name: str, force: NDArray[np.float64]) -> NDArray[np.float64]:
        """Error of the electrons per site ``[snapshot]`` at the chemical potentials of the labels."""
        assert self.own is not None
        if isinstance(self.data, FieldData):
            return np.asarray(force.reshape(len(force), -1).mean(axis=1) / self.own.g[self.sets[name]])
        with torch.no_grad():
            return np.array([self.data.electron_errors(model, row[None]).mean().item() for row in self.index(name)])


def training_data(
    snapshots: Snapshots, model: nn.Module, hamiltonian: Hamiltonian, dtype: torch.dtype, device: torch.device
) -> FieldData | MatrixData:
    """Tensors of what ``model`` reads and learns."""
    if model.field == "matrix":
        return MatrixData(snapshots, model, hamiltonian, dtype, device)
    return FieldData(snapshots, model, hamiltonian.parameters["g"], dtype, device)


def together(losses: list[float]) -> float:
    """One loss of those of several systems, whose scales differ: their geometric mean."""
    return losses[0] if len(losses) == 1 else float(np.exp(np.log(losses).mean()))
