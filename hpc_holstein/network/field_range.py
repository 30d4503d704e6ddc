"""The range of the field that a network was trained on, and which sites of a state lie outside of it.

Two numbers are looked at on each site: the field that the network reads, ``x_i = Q_i + mu/g`` (``Q_i`` for networks of the
plain field, :func:`network.elements.strength` for those that read matrix elements), and the sum over its nearest neighbours,
``s_i = sum_{j in nn(i)} x_j``.  A site is outside where one of the two is below the smallest or above the largest value of the
training set: the network extrapolates there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hpc_holstein.fields import displaced
from hpc_holstein.interfaces import Domain

_QUANTILES = {"median": 0.5, "99 %": 0.99, "99.9 %": 0.999}

KEYS = tuple(f"{name}.{part}" for name in ("field", "neighbours") for part in ("min", "max", *_QUANTILES))
"""What a card says of the training fields; see :func:`field_range`."""


def neighbour_sum(field: Tensor, domain: Domain, shells: Sequence[int] = (1,)) -> Tensor:
    """Sum over the neighbours in ``shells`` of an owned field ``[*batch, *cells, basis]``, of the same shape; collective."""
    bonds = [bond for shell in shells for bond in domain.lattice.bonds(shell)]
    halo = max(abs(step) for bond in bonds for step in bond.offset)
    ghosted = domain.pad(field.unsqueeze(-1), halo)
    total = torch.zeros_like(field)
    for bond in bonds:
        back = tuple(-step for step in bond.offset)
        total[..., bond.source] += displaced(ghosted, halo, bond.offset)[..., bond.target, 0]
        total[..., bond.target] += displaced(ghosted, halo, back)[..., bond.source, 0]
    return total


def field_range(field: Tensor, domain: Domain) -> dict[str, float]:
    """Range of the training fields ``[snapshot, *extent, basis]`` for the card of a model, on a domain of one rank.

    ``field.min``, ``field.max``, ``neighbours.min``, ``neighbours.max``, and quantiles of the magnitudes, such as
    ``field.99 %``; all in the unit of ``Q``.
    """
    field = field.double()
    found: dict[str, float] = {}
    for name, values in (("field", field), ("neighbours", neighbour_sum(field, domain))):
        ordered = values.abs().flatten().sort().values
        found |= {f"{name}.min": float(values.min()), f"{name}.max": float(values.max())}
        places = {word: round(part * (len(ordered) - 1)) for word, part in _QUANTILES.items()}
        found |= {f"{name}.{word}": float(ordered[place]) for word, place in places.items()}
    return found


def outside(field: Tensor, seen: Mapping[str, float], domain: Domain) -> Tensor:
    """Mask of the sites of an owned field ``[*cells, basis]`` outside of the range ``seen`` (of :func:`field_range`), bool."""
    found = torch.zeros_like(field, dtype=torch.bool)
    for name, values in (("field", field), ("neighbours", neighbour_sum(field, domain))):
        found |= ~((values >= seen[f"{name}.min"]) & (values <= seen[f"{name}.max"]))  # NaN is outside
    return found


def in_words(seen: Mapping[str, float], unit: str = "a") -> str:
    """The range for a reader of the card; ``unit`` of the field."""
    if not seen:
        return "not recorded (a file of an earlier version): the extrapolation guard is off"
    told = []
    for name, meaning in (("field", "field"), ("neighbours", "sum over the nearest neighbours")):
        parts = ", ".join(f"{word} {seen[f'{name}.{word}']:.3g}" for word in _QUANTILES)
        told.append(f"{meaning} {seen[f'{name}.min']:.4g} to {seen[f'{name}.max']:.4g} {unit} (magnitude: {parts})")
    return "; ".join(told)
