"""The surroundings of a site that a network was trained on, and which sites of a state lie in others.

Two numbers tell the surroundings of site ``i`` in the field ``x = Q + mu/g`` (``Q`` for networks of the plain field):

    a_i = e_i / (e_i^2 + w^2)^(1/2),  e_i = g |x_i|                how far the level of the site is from the Fermi level
    b_i = mean of w^2 / (w^2 + e_j^2) over the three nearest shells   how much of its surroundings lies near the Fermi level

with ``w = 1.4 t_nn``.  Both are the same under the point group and under the exchange of particles and holes.  The unit square
of (a, b) is cut into cells, and the card of a model keeps those in which training sites lie.  A network errs most where levels
around a site lie close together at the Fermi level, so that electrons move far: such states are rare along thermal quenches,
and no range of the field alone excludes them.  ``benchmarks/trust.py`` measures what this misses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hpc_holstein.errors import ModelError
from hpc_holstein.interfaces import Domain
from hpc_holstein.network.field_range import neighbour_sum

_WIDTH = 1.4  # w [t_nn]
_CELLS = (16, 48)  # of a and of b
_SHELLS = (1, 2, 3)
_RARE = 3e-6  # part of the training sites below which a cell counts as empty, where these are many enough to tell
_QUANTILE, _FACTOR, _LEAST = 0.99, 2.0, 0.005  # of the part of unfamiliar sites in states that were held out
_ERRORS = 3.0  # standard errors of that part in a lattice of few sites


@dataclass(frozen=True)
class Surroundings:
    """Record of the surroundings of the training sites on a card.

    seen    rows of a, columns of b, bool: cells with training sites
    g       coupling of the network
    usual   largest part of unfamiliar sites that is usual in a state like those of the training
    """

    seen: Tensor
    g: float
    usual: float

    @classmethod
    def of_card(cls, told: Mapping[str, Any], g: float) -> Surroundings | None:
        """From the member ``surroundings`` of a card; None where it is empty.  Raises ModelError."""
        if not told:
            return None
        try:
            seen = torch.tensor([[{"0": False, "1": True}[cell] for cell in row] for row in told["seen"]])
            found = cls(seen, g, float(told["usual"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"surroundings on the card cannot be read ({error!r}): train the model again") from error
        if seen.shape != _CELLS or not 0 <= found.usual <= 1:
            raise ModelError(
                f"surroundings on the card are {list(seen.shape)} cells with usual = {found.usual:g}, and should be "
                f"{list(_CELLS)} with 0 to 1: train the model again"
            )
        return found

    def unfamiliar(self, field: Tensor, domain: Domain) -> Tensor:
        """Sites of an owned field ``[*cells, basis]`` in surroundings without training sites (NaN is), bool; collective."""
        return ~self.seen.to(field.device).flatten()[_cells(field, self.g, domain)] | field.isnan()

    def limit(self, sites: int) -> float:
        """Part of unfamiliar sites of a state of so many sites that is beyond what is usual."""
        return self.usual + _ERRORS * math.sqrt(self.usual / sites)


def surroundings_of(training: Tensor, held_out: Tensor, g: float, domain: Domain) -> dict[str, Any]:
    """Surroundings of fields ``[snapshot, *extent, basis]`` for the card of a model, on a domain of one rank.

    ``held_out``: of states that the weights were not fitted to, which tell what part of unfamiliar sites is usual.
    """
    count = math.prod(_CELLS)
    hits = torch.zeros(count, dtype=torch.int64)
    for field in training:
        hits += torch.bincount(_cells(field, g, domain).flatten().cpu(), minlength=count)
    seen = (hits >= max(1.0, _RARE * training.numel())).reshape(_CELLS)
    own = Surroundings(seen, g, 0.0)
    parts = torch.stack([own.unfamiliar(field, domain).double().mean() for field in held_out])
    usual = max(_LEAST, _FACTOR * float(torch.quantile(parts, _QUANTILE)))
    return {
        "seen": ["".join("1" if cell else "0" for cell in row) for row in seen.tolist()],
        "usual": min(1.0, usual),
        "sites": training.numel(),
    }


def together(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Surroundings of several sets of states for one card: those of any."""
    rows = zip(*(one["seen"] for one in told), strict=True)
    return {
        "seen": ["".join(max(cells) for cells in zip(*row, strict=True)) for row in rows],
        "usual": max(one["usual"] for one in told),
        "sites": sum(one["sites"] for one in told),
    }


def in_words(told: Mapping[str, Any]) -> str:
    """The member of the card for a reader."""
    if not told:
        return "not recorded (a file of an earlier version): states far from the training are not noticed"
    cells = sum(row.count("1") for row in told["seen"])
    words = f"{cells} sorts of {math.prod(_CELLS)}, from {told['sites']} sites; {100 * told['usual']:.2g} % of others are usual"
    return f"{words}; {told['states']}" if "states" in told else words


def _cells(field: Tensor, g: float, domain: Domain) -> Tensor:
    """Number of the cell of (a, b) of each site, ``[*cells, basis]``, int64; collective."""
    rows, columns = _CELLS
    squares = (g / _WIDTH * field.float()).square()
    near = 1 / (1 + squares)
    bonds = 2 * sum(len(domain.lattice.bonds(shell)) for shell in _SHELLS) / len(domain.lattice.basis)
    a, b = (squares * near).sqrt(), neighbour_sum(near, domain, _SHELLS) / bonds
    return _column(a, rows) * columns + _column(b, columns)


def _column(value: Tensor, count: int) -> Tensor:
    """Column of a value from 0 to 1, of ``count`` of one width; NaN is in the first one."""
    return (count * value.nan_to_num()).long().clamp(0, count - 1)
