"""Snapshots as training tensors, and their division into training, validation and test sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import DataError
from hpc_holstein.interfaces import Hamiltonian
from hpc_holstein.training.dataset import Snapshots

Evaluate = Callable[..., Tensor | tuple[Tensor, ...]]
"""``evaluate(ghosted field[, kT])``: a model, or one of its methods, which tells more than the output."""


class FieldData:
    """Inputs and targets ``[snapshot, *cells]`` of a model, with a site axis if a cell has several, on the device.

    A model with ``field = "shifted"`` reads ``Q' = Q + mu/g``, with ``"plain"`` ``Q``; it predicts ``n_i`` (perhaps as the
    gradient of a grand potential) or ``F_i``.  The electrons know ``g Q'`` alone, so a snapshot of another coupling ``g'`` than
    that of the model enters as ``(g'/g) Q'``.
    """

    def __init__(self, snapshots: Snapshots, model: nn.Module, g: float, dtype: torch.dtype, device: torch.device) -> None:
        density = model.predicts in ("density", "grand_potential")
        own_g = np.full(len(snapshots), g) if snapshots.g is None else snapshots.g
        field = torch.as_tensor(snapshots.q, dtype=torch.float64)
        if model.field == "shifted":
            field = _over_sites(own_g / g, field) * field + _over_sites(chemical_potential(snapshots), field) / g
        elif len(np.unique(own_g)) > 1:
            raise DataError(
                "a model of the plain field knows one coupling g, and the snapshots have several: give files of one g"
            )
        target = snapshots.density if density else snapshots.force
        if target is None:
            raise DataError("the snapshots carry no labels to train on: run `hpc-holstein label` on their file first")
        self._g, self._dimension = g, snapshots.axes.dimension
        self._atomic = density and model.field == "shifted"
        self._kT = temperatures(snapshots, model)
        self.reach = cast(int, model.reach)
        self.inputs = field.to(device=device, dtype=dtype)
        self.targets = torch.as_tensor(target).to(device=device, dtype=dtype)
        scale = np.abs(own_g) if density else np.ones(len(snapshots))  # what turns an error of the output into one of the force
        self._scale = _over_sites(scale, field).to(device=device, dtype=dtype)

    def errors(self, model: nn.Module, index: Tensor, origin: Tensor, cells: Sequence[int]) -> Tensor:
        """Total force of ``model`` minus that of the labels ``[batch, *cells]``, in windows as of :meth:`batch`.

        ``dF = g dn``, since the elastic force is known exactly.
        """
        inputs, targets = self.batch(index, origin, cells)
        return self._scale[index.to(self._scale.device)] * (self._outputs(model, inputs, index)[0] - targets)

    def loss(self, model: nn.Module, index: Tensor, origin: Tensor, cells: Sequence[int]) -> Tensor:
        """Mean square of :meth:`errors` of each window, summed over these."""
        errors = self.errors(model, index, origin, cells)
        return errors.square().sum() / errors[0].numel()

    def canonical_loss(self, model: nn.Module, index: Tensor) -> Tensor:
        """Loss of whole snapshots in the canonical ensemble, summed over ``index``, for a model that knows its response.

        An electron number that is off by ``mean e`` shifts ``mu``, and so each force by ``s_i mean e / mean s``, where ``s_i =
        dn_i/dmu``: ``mean e^2 + (mean s^2 / (mean s)^2) (mean e)^2``, the second factor at most the number of sites.
        """
        inputs, targets = self.whole(index)
        density, response = self._outputs(cast(Evaluate, model.response), inputs, index)
        error, response = self._scale[index.to(self._scale.device)] * (density - targets), response.detach()
        error, response = error.flatten(1), response.flatten(1)
        mean = response.mean(dim=1).clamp_min(torch.finfo(response.dtype).tiny ** 0.25)
        weight = (response.square().mean(dim=1) / mean.square()).clamp_max(targets[0].numel())
        return (error.square().mean(dim=1) + weight * error.mean(dim=1).square()).sum()

    def whole_errors(self, model: nn.Module, index: Tensor) -> Tensor:
        """:meth:`errors` on whole snapshots."""
        return self.errors(model, index, *self._everywhere(index))

    def _outputs(self, evaluate: Evaluate, inputs: Tensor, index: Tensor) -> tuple[Tensor, ...]:
        """Predictions of a model for ghosted ``inputs``, at the temperature of each snapshot if it takes that."""
        if self._kT is None:
            return _as_tuple(evaluate(inputs))
        own = self._kT[index.cpu().numpy()]
        rows = [np.flatnonzero(own == kT) for kT in np.unique(own)]
        parts = [
            _as_tuple(evaluate(inputs[torch.from_numpy(chosen).to(inputs.device)], float(own[chosen[0]]))) for chosen in rows
        ]
        order = torch.from_numpy(np.argsort(np.concatenate(rows))).to(inputs.device)
        return tuple(torch.cat(part)[order] for part in zip(*parts, strict=True))

    def batch(self, index: Tensor, origin: Tensor, cells: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Windows of ``cells`` at ``origin [batch, axes]``, periodic: ghosted inputs, ``reach`` more a side, and targets."""
        return window(self.inputs, index, origin, cells, self.reach), window(self.targets, index, origin, cells, 0)

    def whole(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Ghosted inputs and targets of whole snapshots."""
        return self.batch(index, *self._everywhere(index))

    @property
    def extent(self) -> tuple[int, ...]:
        """Cells along each axis."""
        return tuple(self.inputs.shape[1 : 1 + self._dimension])

    def _everywhere(self, index: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Origins and cells of windows that are whole snapshots."""
        return torch.zeros(len(index), self._dimension, dtype=torch.int64), self.extent

    def baseline(self, kT: float, index: Tensor) -> float:
        """Force MSE of the best prediction that needs no training, on the snapshots of ``index``.

        For a density in the shifted field the atomic limit ``n_i = f(-g (Q_i + mu/g))``, at ``kT`` or that of each snapshot,
        else the mean of the targets.
        """
        target = self.targets[index].double()
        guess = target.mean()
        if self._atomic:
            own = np.full(len(index), kT) if self._kT is None else self._kT[index.cpu().numpy()]
            widths = _over_sites(own, target).to(target.device).clamp_min(1e-12)
            guess = torch.sigmoid(self._g / widths * self.inputs[index].double())
        return float((self._scale[index].double() * (guess - target)).square().mean())


def window(field: Tensor, index: Tensor, origin: Tensor, cells: Sequence[int], halo: int) -> Tensor:
    """``field[index]`` around windows of ``cells`` at ``origin [batch, axes]``; the modulus wraps a halo of any width."""
    places = [index.view(-1, *(1,) * len(cells)).to(field.device)]
    for axis, count in enumerate(cells):
        along = (origin[:, axis, None] + torch.arange(-halo, count + halo)).remainder(field.shape[1 + axis])
        shape = [len(along), *(1,) * axis, along.shape[1], *(1,) * (len(cells) - 1 - axis)]
        places.append(along.view(shape).to(field.device))
    return field[tuple(places)]


def with_further(snapshots: Snapshots, model: nn.Module, hamiltonian: Hamiltonian) -> tuple[Snapshots, NDArray[np.int64]]:
    """The snapshots, followed by one for each further chemical potential at which the labels are known, if ``model`` can.

    Also the snapshot ``[row]`` that each is of.  What is learned is a function of ``H - mu``, whatever ``mu``.
    """
    numbers = np.arange(len(snapshots))
    mu, density = snapshots.more_chemical_potential, snapshots.more_density
    if mu is None or density is None or model.field == "plain":
        return snapshots, numbers
    assert snapshots.density is not None
    force, further = None, snapshots.more_force
    known = ~np.isnan(mu)
    if model.field == "matrix":
        assert snapshots.force is not None
        if further is None and not hamiltonian.tells_density:
            return snapshots, numbers
        if further is None:
            change = torch.as_tensor(density - snapshots.density[:, None])
            further = (
                snapshots.force[:, None] + _of_density(hamiltonian, change).reshape(*mu.shape, *snapshots.q.shape[1:]).numpy()
            )
        known &= ~np.isnan(further.reshape(*mu.shape, -1)).any(axis=2)
        force = np.concatenate([snapshots.force, further[known]])
    source = np.concatenate([numbers, np.nonzero(known)[0]])
    rows = replace(
        snapshots.select(source),
        force=force,
        density=np.concatenate([snapshots.density, density[known]]),
        chemical_potential=np.concatenate([chemical_potential(snapshots).numpy(), mu[known]]),
    )
    return rows, source


def _of_density(hamiltonian: Hamiltonian, density: Tensor) -> Tensor:
    """Electronic force of a density ``[..., *cells(, basis)]`` that tells it."""
    lattice = hamiltonian.lattice
    rho = density.double().reshape(-1, *lattice.extent, len(lattice.basis))
    domain, halo = CartesianDomain(lattice, SerialTransport()), hamiltonian.reach
    at_rest = domain.pad(rho.new_zeros((1, *rho.shape[1:], hamiltonian.components)), halo)
    return hamiltonian.electronic_force(at_rest.expand(len(rho), *at_rest.shape[1:]), halo, rho, domain)


def split(snapshots: Snapshots, validation: float, test: float, seed: int) -> dict[str, NDArray[np.int64]]:
    """Snapshot numbers of ``training``, ``validation`` and ``test``: whole quenches, random snapshots one by one.

    Neighbouring states of a quench are nearly copies, so a quench never falls into two sets.  Fractions are of the
    quenches and of the random snapshots apart; validation gets at least one quench where there are two, and what is
    left over trains.  Each has a random number of its own that decides, so that more of them, as in rounds of learning, move
    few between the sets: what trained an earlier network hardly ever validates a later one.
    Errors: :class:`DataError` where no validation set is possible.
    """
    quenches = [np.flatnonzero(snapshots.quench == q) for q in np.unique(snapshots.quench) if q != -1]
    singles = [np.array([i]) for i in np.flatnonzero(snapshots.quench == -1)]
    sets: dict[str, list[NDArray[np.int64]]] = {"training": [], "validation": [], "test": []}
    for kind, groups in enumerate((quenches, singles)):
        order = np.argsort(np.random.default_rng((seed, kind)).random(len(groups)))
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


def _over_sites(values: NDArray[np.float64] | Tensor, field: Tensor) -> Tensor:
    """``values [snapshot]``, one for all sites of each snapshot of a field."""
    return torch.as_tensor(values).view(-1, *(1,) * (field.ndim - 1))


def _as_tuple(found: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


def chemical_potential(snapshots: Snapshots) -> Tensor:
    """``mu [snapshot]``, which a model on the shifted field needs."""
    mu = snapshots.chemical_potential
    if mu is None or not np.isfinite(mu).all():
        unknown = len(snapshots) if mu is None else int((~np.isfinite(mu)).sum())
        raise DataError(
            f"the chemical potential of {unknown} snapshots is not known, and the model reads Q + mu/g: "
            "label with a provider that knows mu (exact), or train a model on the plain field"
        )
    return torch.as_tensor(mu, dtype=torch.float64)


def temperatures(snapshots: Snapshots, model: nn.Module) -> NDArray[np.float64] | None:
    """``kT [snapshot]`` for a model that takes it; None for one that has its own."""
    if getattr(model, "takes_kT", False):
        if snapshots.kT is None:
            raise DataError("the model takes kT as an input and sees one value of it: give files of several kT, or no kT_range")
        return snapshots.kT
    if snapshots.kT is not None and snapshots.kT.min() < snapshots.kT.max():
        raise DataError(
            f"the snapshots have kT from {snapshots.kT.min():g} to {snapshots.kT.max():g}, and the model knows one: "
            "train a model with kT_range, or give files of one kT"
        )
    return None
