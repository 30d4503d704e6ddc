"""Snapshots as training tensors of a network that reads the matrix elements of ``H`` and writes those of ``rho``.

The loss is that of the force, ``F = -dV/dq - Tr[rho dH/dq]``, which is linear in ``rho``, and of the density, which decides
the chemical potential of a canonical run:

    loss = <(F_model - F)^2> + w c^2 <(n_model - n)^2>,    c^2 = <(Tr[s dH/dq])^2>  with random signs ``s``,

the second if the force does not tell the density; ``w`` is small, since that enters through ``mu`` alone then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import DataError
from hpc_holstein.forces._elements import needed_entries, on_sites
from hpc_holstein.hamiltonian import displaced
from hpc_holstein.interfaces import Hamiltonian
from hpc_holstein.network.elements import ElementReader
from hpc_holstein.training._fields import chemical_potential, temperatures, window
from hpc_holstein.training.dataset import Snapshots

_DENSITY = 0.1  # w
_TOGETHER = 1 << 17  # sites whose elements are computed at once


class MatrixData:
    """Elements of ``H`` ``[snapshot, *cells, elements]`` and electronic forces ``[snapshot, *cells, basis, components]``.

    The same members as :class:`training._fields.FieldData`.
    """

    def __init__(
        self, snapshots: Snapshots, model: nn.Module, hamiltonian: Hamiltonian, dtype: torch.dtype, device: torch.device
    ) -> None:
        if snapshots.force is None or snapshots.density is None:
            raise DataError("the snapshots carry no labels to train on: run `hpc-holstein label` on their file first")
        if snapshots.g is not None and len(np.unique(snapshots.g)) > 1:
            raise DataError("the snapshots have several couplings g: give files of one Hamiltonian, since its entries are read")
        self._hamiltonian, self._dimension = hamiltonian, snapshots.axes.dimension
        self._reader = ElementReader(hamiltonian, cast(Any, model).elements)
        self._written, self._halo = cast(Any, model).written, hamiltonian.reach
        own = temperatures(snapshots, model)
        self._kT = None if own is None else own / hamiltonian.hopping
        self.reach = cast(int, model.reach)
        q = snapshots.fields()
        shape = (len(q), *q.shape[1:])
        domain = CartesianDomain(hamiltonian.lattice, SerialTransport())
        mu, inputs, electronic = chemical_potential(snapshots), [], []
        force = torch.as_tensor(snapshots.force, dtype=torch.float64).reshape(shape)
        for rows in torch.arange(len(q)).split(max(1, _TOGETHER // hamiltonian.lattice.sites)):
            inputs.append(self._reader(domain.pad(q[rows], self._reader.margin), mu[rows]).to(dtype))
            halo = self._halo
            electronic.append(force[rows] - hamiltonian.classical_force(domain.pad(q[rows], halo), halo, domain))
        self.inputs = torch.cat(inputs).to(device)
        self.targets = torch.cat(electronic).to(device=device, dtype=dtype)
        self._q = q.to(device=device, dtype=dtype)
        self._density = torch.as_tensor(snapshots.density).reshape(shape[:-1]).to(device=device, dtype=dtype)  # of sites
        self._scale = self._coupling(domain)
        self.density_weight = 0.0 if hamiltonian.tells_density else _DENSITY * self._scale

    def _coupling(self, domain: CartesianDomain) -> float:
        """``c^2``, of the first snapshot."""
        q, entries = self._q[:1].double(), needed_entries(self._hamiltonian, domain)
        signs = torch.randint(2, (*q.shape[:-2], len(self._hamiltonian.pattern)), generator=torch.Generator().manual_seed(0))
        rho = torch.zeros(signs.shape, dtype=torch.float64)
        rho[..., entries] = 2 * signs[..., entries].double() - 1
        force = self._hamiltonian.electronic_force(domain.pad(q, self._halo), self._halo, rho, domain)
        return float(force.square().mean())

    def loss(self, model: nn.Module, index: Tensor, origin: Tensor, cells: Sequence[int]) -> Tensor:
        """Mean over sites and components, summed over the windows."""
        force, electrons, _ = self._compared(model, index, origin, cells)
        return _mean(force.square()) + self.density_weight * _mean(electrons.square())

    def canonical_loss(self, model: nn.Module, index: Tensor) -> Tensor:
        """:meth:`loss` of whole snapshots and the cost of a wrong electron number.

        An electron number that is off by ``mean e`` shifts ``mu`` by ``mean e / mean s`` with ``s_i = dn_i/dmu``, and each
        ``rho_ij`` by no more than ``(s_i s_j)^(1/2)`` of that: ``c^2 mean s^2 / (mean s)^2 (mean e)^2``, the factor at most the
        number of sites.
        """
        force, electrons, response = self._compared(model, index, *self._everywhere(index), with_response=True)
        e, s = electrons.flatten(1), cast(Tensor, response).detach().flatten(1)
        mean = s.mean(dim=1).clamp_min(torch.finfo(s.dtype).tiny ** 0.25)
        cost = (s.square().mean(dim=1) / mean.square()).clamp_max(s.shape[1]) * e.mean(dim=1).square()
        return _mean(force.square()) + self.density_weight * _mean(electrons.square()) + (self._scale * cost).sum()

    def errors(self, model: nn.Module, index: Tensor, origin: Tensor, cells: Sequence[int]) -> Tensor:
        """Force of ``model`` minus that of the labels, ``[batch, *cells, basis, components]``, in windows."""
        return self._compared(model, index, origin, cells)[0]

    def whole_errors(self, model: nn.Module, index: Tensor) -> Tensor:
        """:meth:`errors` on whole snapshots."""
        return self.errors(model, index, *self._everywhere(index))

    def electron_errors(self, model: nn.Module, index: Tensor) -> Tensor:
        """Error of the density on whole snapshots, ``[batch, *cells, basis]``."""
        return self._compared(model, index, *self._everywhere(index))[1]

    @property
    def extent(self) -> tuple[int, ...]:
        """Cells along each axis."""
        return tuple(self.inputs.shape[1 : 1 + self._dimension])

    def baseline(self, kT: float, index: Tensor) -> float:
        """Force MSE of the best prediction that needs no training: the mean force of each component on the chosen snapshots."""
        targets = self.targets[index.to(self.targets.device)].double()
        mean = targets.mean(dim=tuple(range(1 + self._dimension)))
        return float((targets - mean).square().mean())

    def _everywhere(self, index: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        return torch.zeros(len(index), self._dimension, dtype=torch.int64), self.extent

    def _compared(
        self, model: nn.Module, index: Tensor, origin: Tensor, cells: Sequence[int], with_response: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Errors of force and density in windows of ``cells``, and the response of the density if asked for."""
        halo = self._halo
        elements = window(self.inputs, index, origin, cells, self.reach + halo)
        q = window(self._q, index, origin, cells, 2 * halo)
        rho, response = self._outputs(model, elements, index, with_response)
        own = self._electronic_force(q, rho)
        axes = (0,) * self._dimension
        inner = displaced(rho.unsqueeze(-1), halo, axes)[..., 0]
        force = own - window(self.targets, index, origin, cells, 0)
        electrons = on_sites(self._hamiltonian, inner) - window(self._density, index, origin, cells, 0)
        if response is not None:
            response = on_sites(self._hamiltonian, displaced(response.unsqueeze(-1), halo, axes)[..., 0])
        return force, electrons, response

    def _electronic_force(self, q: Tensor, rho: Tensor) -> Tensor:
        """``-Tr[rho dH/dq]`` of the cells of a window: coordinates with twice the halo of ``H``, ``rho`` with one."""
        halo = self._halo
        again = rho.requires_grad and torch.is_grad_enabled()
        weight = rho.new_full((len(self._hamiltonian.pattern),), 2.0)
        weight[: self._hamiltonian.states] = 1.0
        with torch.enable_grad():
            variable = q.detach().requires_grad_()
            entries = self._hamiltonian.matrix(variable, halo)
            value = (weight * self._reader.on_pattern(rho, self._written) * entries).sum()
            (gradient,) = torch.autograd.grad(value, variable, create_graph=again)
        return -displaced(gradient, 2 * halo, (0,) * self._dimension)

    def _outputs(self, model: nn.Module, elements: Tensor, index: Tensor, with_response: bool) -> tuple[Tensor, Tensor | None]:
        """``rho``, at the temperature of each snapshot if the model takes that, and its response."""

        def of(rows: Tensor | slice, *kT: float) -> tuple[Tensor, Tensor | None]:
            if with_response:
                return cast(tuple[Tensor, Tensor], cast(Any, model).response(elements[rows], *kT))
            return model(elements[rows], *kT), None

        if self._kT is None:
            return of(slice(None))
        own: NDArray[np.float64] = self._kT[index.cpu().numpy()]
        rows = [torch.from_numpy(np.flatnonzero(own == kT)).to(elements.device) for kT in np.unique(own)]
        parts = [of(chosen, float(kT)) for chosen, kT in zip(rows, np.unique(own), strict=True)]
        order = torch.cat(rows).argsort()
        rho = torch.cat([part[0] for part in parts])[order]
        return rho, torch.cat([cast(Tensor, part[1]) for part in parts])[order] if with_response else None


def _mean(values: Tensor) -> Tensor:
    """Mean of each window, summed over these."""
    return values.flatten(1).mean(dim=1).sum()
