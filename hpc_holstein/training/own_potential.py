"""The error of a network as a canonical run has it: at the chemical potential that the network itself finds.

    mean_i n_i(Q + mu/g) = mean_i n_i^label,     F_i - F_i^label = g (n_i - n_i^label),     mu - mu^label

The solver is that of a run (:mod:`hpc_holstein.forces._neural`).  At the chemical potential of the labels the same network
may be far more accurate: in a gap a small error of the electron number moves ``mu`` by a large part of the gap.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import ConfigError, SpectrumError
from hpc_holstein.forces._atomic import AtomicForces
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.forces._precision import Precision
from hpc_holstein.interfaces import Ensemble, Hamiltonian, State
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.fit_options import FitOptions

Array = NDArray[np.float64]
Forces = AtomicForces | NeuralForces

_CELLS = 1 << 15  # evaluated at once
_LAST_PART = 0.3
_ELECTRON_NUMBER_NEEDS = "whole snapshots (crop = 0) and a model that knows its response to mu, such as enn"
_SAME_FILLING = 1e-6  # electrons per site: labels are kept to far less


def is_canonical(model: nn.Module, ensemble: Ensemble) -> bool:
    """True if a run of ``ensemble`` finds ``mu`` from the density of ``model``."""
    return ensemble.kind == "canonical" and model.field != "plain" and model.predicts != "force"


def electron_number_part(options: FitOptions, model: nn.Module, ensemble: Ensemble) -> tuple[float, str]:
    """The part of the budget that trains the electron number, and why there is none if ``"auto"`` finds it impossible.

    Errors: :class:`ConfigError` where a part is asked for that is impossible.
    """
    possible = not options.crop and hasattr(model, "response")
    asked = options.electron_number
    if asked == "auto":
        wanted = is_canonical(model, ensemble)
        left_out = (
            f"the electron number is not trained, which needs {_ELECTRON_NUMBER_NEEDS}" if wanted and not possible else ""
        )
        return (_LAST_PART if wanted and possible else 0.0), left_out
    if asked and not possible:
        raise ConfigError(f"training.electron_number = {str(asked).lower()} needs {_ELECTRON_NUMBER_NEEDS}: set it to 0")
    return float(asked), ""


class OwnPotential:
    """Labelled ``snapshots``, on which providers are judged at the ``mu`` that each of them finds.

    The electron number is that of the labels.  A snapshot of another coupling ``g'`` (``g [snapshot]``) enters as ``(g'/g) Q``,
    which has the same electrons.
    """

    def __init__(self, snapshots: Snapshots, hamiltonian: Hamiltonian, ensemble: Ensemble, device: torch.device) -> None:
        assert snapshots.density is not None
        assert snapshots.chemical_potential is not None
        assert snapshots.force is not None
        self._hamiltonian = hamiltonian
        self._domain = CartesianDomain(hamiltonian.lattice, SerialTransport(), device=device)
        count, g = len(snapshots), hamiltonian.parameters.get("g", 1.0)
        self.g = np.full(count, g) if snapshots.g is None else snapshots.g
        q = snapshots.fields()
        self._q = q * torch.as_tensor(self.g / g).view(-1, *(1,) * (q.ndim - 1))
        self._density = snapshots.density.astype(np.float64)
        # the density tells the force, and without the round-off of the elastic one
        self._force = None if hamiltonian.tells_density else snapshots.force.astype(np.float64)
        self._mu = snapshots.chemical_potential.astype(np.float64)
        kT = np.full(count, ensemble.kT) if snapshots.kT is None else snapshots.kT
        filling = self._density.reshape(count, -1).mean(axis=1) / hamiltonian.orbitals
        filling[np.abs(filling - ensemble.filling) < _SAME_FILLING] = ensemble.filling
        self._settings = np.stack([kT, filling], axis=1)

    def of_network(self, model: nn.Module, index: NDArray[np.int64], dtype: torch.dtype) -> tuple[Array, Array]:
        """Error of the force ``[index, ...]`` [t_nn/a] and of ``mu`` ``[index]`` [t_nn] of a network evaluated in ``dtype``.

        NaN where it has no ``mu`` for the electrons.
        """
        precision: Precision = "float32" if dtype == torch.float32 else "state"
        return self._of(lambda one: NeuralForces(model, self._hamiltonian, self._domain, one, precision), index)

    def of_atomic_limit(self, index: NDArray[np.int64]) -> tuple[Array, Array]:
        """:meth:`of_network` of the atomic limit, which needs no training."""
        return self._of(lambda one: AtomicForces(self._hamiltonian, self._domain, one), index)

    def _of(self, provide: Callable[[Ensemble], Forces], index: NDArray[np.int64]) -> tuple[Array, Array]:
        force, mu = np.full((len(index), *self._shape), np.nan), np.full(len(index), np.nan)
        at_once = max(1, _CELLS // self._density[0].size)
        for kT, filling in np.unique(self._settings[index], axis=0):
            forces = provide(Ensemble("canonical", kT=float(kT), filling=float(filling)))
            alike = np.flatnonzero((self._settings[index] == (kT, filling)).all(axis=1))
            for rows in np.split(alike, range(at_once, len(alike), at_once)):
                force[rows], mu[rows] = self._errors(forces, index[rows])
        return force, mu

    def _errors(self, forces: Forces, index: NDArray[np.int64]) -> tuple[Array, Array]:
        q = self._q[torch.from_numpy(index)].to(self._domain.device)
        try:
            found = forces(State.at_rest(q))
        except SpectrumError:
            if len(index) == 1:
                return np.full((1, *self._shape), np.nan), np.full(1, np.nan)
            each = [self._errors(forces, index[i : i + 1]) for i in range(len(index))]
            return np.concatenate([error for error, _ in each]), np.concatenate([mu for _, mu in each])
        potential = found.chemical_potential.cpu().numpy() - self._mu[index]
        if self._force is not None:
            labels = self._force[index]
            return found.force.double().cpu().numpy().reshape(labels.shape) - labels, potential
        labels = self._density[index]
        error = found.density.double().cpu().numpy().reshape(labels.shape) - labels
        error *= self.g[index].reshape(-1, *(1,) * (error.ndim - 1))
        return error, potential

    @property
    def _shape(self) -> tuple[int, ...]:
        """Of the errors of a snapshot."""
        return (self._density if self._force is None else self._force).shape[1:]
