"""Order of a field at a wave vector, on owned tiles ``[*batch, *cells, basis, components]``; sums are over all ranks.

    phi_i = c sum_{j = i, nn(i)} w_ij f_j s_j exp(-i Q.r_j),   |mean phi| the order parameter

``Q`` in reciprocal lattice vectors, ``s`` a sign of each site of a cell, ``r`` the place of its cell.  Where neighbours are out
of phase on the whole, the mean over them takes out the uniform part of ``f`` and, on the triangular lattice, the order at
``-Q``, so that ``phi`` is uniform in a domain; where two sublattices alternate, ``phi_i = s_i exp(-i Q.r_i) (f_i - mean of f
over nn(i))``.  Elsewhere the mean over the lattice is taken out.  ``c`` makes 1 the largest order of densities between 0 and 1.

Sources: arXiv 2601.04104 for ``phi``, arXiv 2303.03493 for ``C(r)`` and the domain length.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, reduce
from itertools import product

import torch
from torch import Tensor

from hpc_holstein.domain.partition import shown
from hpc_holstein.domain.transport import Transport
from hpc_holstein.hamiltonian import displaced, ends
from hpc_holstein.interfaces import Bond, Domain, Hamiltonian, Lattice
from hpc_holstein.output.domain_lengths import DomainLengths
from hpc_holstein.output.observables import RESOLUTION, total

_CANDIDATES = tuple(Fraction(n, 6) for n in (0, 2, 3, 4))  # of the wave vector of a lattice, along each axis
_SAME = 1e-9


@dataclass(frozen=True)
class Order:
    """An order: the quantity that alternates, and its wave vector.

    wave_vector  in reciprocal lattice vectors, of each array axis: ``(1/2, 1/2)`` is (pi, pi) on the square lattice
    signs        of the sites of a cell
    field        ``density``, ``q`` with all components, or one of them, ``q_x``
    name         ends the names of its scalars; empty: those of the lattice
    whole        with walls and domain lengths
    part         number of the component, if the field is one
    """

    wave_vector: tuple[Fraction, ...]
    signs: tuple[int, ...] = (1,)
    field: str = "density"
    name: str = ""
    whole: bool = True
    part: int | None = None

    @property
    def is_real(self) -> bool:
        """If ``exp(-i Q.r)`` is a sign on every cell."""
        return all((2 * turns).denominator == 1 for turns in self.wave_vector)

    @property
    def scale(self) -> float:
        """One over the largest amplitude at ``Q`` that numbers between 0 and 1 can have."""
        period = math.lcm(*(turns.denominator for turns in self.wave_vector), len(set(self.signs)))
        if period <= 3:
            return float(period)
        return period * math.sin(math.pi / period) if period % 2 == 0 else 2 * period * math.sin(math.pi / (2 * period))

    def along(self, bond: Bond) -> complex:
        """``s_i s_j exp(-i Q.(r_j - r_i))``; a sign where the order is real."""
        turns = sum((q * step for q, step in zip(self.wave_vector, bond.offset, strict=True)), Fraction(0)) % 1
        sign = self.signs[bond.source] * self.signs[bond.target]
        return sign * ((-1) ** int(2 * turns) if self.is_real else cmath.exp(-2j * math.pi * turns))

    def weights(self, lattice: Lattice) -> tuple[float, float] | None:
        """Weights of a site and of the mean over its neighbours, times ``c``; None if neighbours are not out of phase."""
        means: list[list[complex]] = [[] for _ in lattice.basis]
        for site, _, _, factor in _neighbours(lattice.bonds(1), self):
            means[site].append(factor)
        mean = sum(means[0]) / len(means[0])
        if any(abs(sum(one) / len(one) - mean) > _SAME for one in means) or abs(mean.imag) > _SAME or mean.real >= -_SAME:
            return None
        share = round(mean.real, 12)
        return -self.scale * share / (1 - share), self.scale / (1 - share)

    def misfit(self, lattice: Lattice) -> str:
        """One sentence if the order does not close on the periodic axes, with the nearest extents on which it does."""
        periods = [q.denominator if p else 1 for q, p in zip(self.wave_vector, lattice.periodic, strict=True)]
        if all(cells % period == 0 for cells, period in zip(lattice.extent, periods, strict=True)):
            return ""
        axes = list(zip(lattice.extent, periods, strict=True))
        near = [tuple(n // period * period for n, period in axes), tuple(-(-n // period) * period for n, period in axes)]
        fitting = " or ".join(shown(extent) for extent in near if min(extent) > 0)
        return (
            f"{self.in_words()} is left out but for its walls: its period of {shown(periods)} cells does not fit the lattice "
            f"extent {shown(lattice.extent)}; use {fitting}"
        )

    def in_words(self) -> str:
        """The order in words."""
        signs = f" with the signs ({', '.join(f'{sign:+d}' for sign in self.signs)})" if len(set(self.signs)) > 1 else ""
        return f"the order of {self.field} at ({', '.join(map(str, self.wave_vector))}) reciprocal lattice vectors{signs}"

    def scalar(self, base: str) -> str:
        """The name of one of its scalars among the series of a run."""
        of_field = "_q" if base == "order_parameter" and self.field != "density" else ""
        return f"{base}{of_field}{'_' if self.name else ''}{self.name}"

    def values(self, density: Tensor, q: Tensor) -> Tensor:
        """The field, ``[*batch, *cells, basis, components]``, of a density ``[*batch, *cells, basis]`` and coordinates."""
        if self.field == "density":
            return density.unsqueeze(-1)
        return q if self.part is None else q[..., [self.part]]


def lattice_order(lattice: Lattice) -> tuple[tuple[Fraction, ...], tuple[int, ...]] | None:
    """Wave vector and signs for which nearest neighbours are most out of phase; None where several are, as on frustrated ones.

    Two sublattices that alternate where there are such, three (sqrt3 x sqrt3) on the triangular lattice.
    """
    return _most_opposite(lattice.bonds(1), len(lattice.basis), len(lattice.extent))


@lru_cache
def _most_opposite(bonds: tuple[Bond, ...], basis: int, axes: int) -> tuple[tuple[Fraction, ...], tuple[int, ...]] | None:
    found: dict[object, tuple[float, Order]] = {}
    for wave_vector, others in product(product(_CANDIDATES, repeat=axes), product((1, -1), repeat=basis - 1)):
        order = Order(wave_vector, (1, *others))
        same = frozenset((wave_vector, tuple(-turns % 1 for turns in wave_vector)))  # Q and -Q are one order
        found.setdefault((same, order.signs), (sum(order.along(bond).real for bond in bonds), order))
    lowest, best = min(found.values(), key=lambda pair: pair[0])
    if sum(score < lowest + _SAME for score, _ in found.values()) > 1:
        return None
    return best.wave_vector, best.signs


def default_orders(hamiltonian: Hamiltonian) -> list[Order]:
    """The orders that every run records, those of its lattice; none where it has none.

    Of the density and, besides, of the coordinates, if these are numbers; of coordinates that turn, where two sublattices of
    one site a cell alternate.
    """
    found = lattice_order(hamiltonian.lattice)
    if found is None:
        return []
    if hamiltonian.coordinates.representation == "scalar":
        return [Order(*found), Order(*found, field="q", whole=False)]
    order = Order(*found, field="q")
    return [order] if order.is_real and len(order.signs) == 1 else []


def difference(values: Tensor, order: Order, domain: Domain) -> Tensor:
    """``phi_i s_i exp(i Q.r_i)`` of an owned field, of its shape: what the order compares, without its phase; collective.

    Neighbours come from other ranks; those beyond an open edge do not count in the mean.
    """
    weights = order.weights(domain.lattice)
    if weights is None:
        if not any(order.wave_vector) and len(set(order.signs)) == 1:
            return order.scale * values
        axes = len(domain.lattice.extent)
        mean = _mean(values, domain).to(values).reshape(*values.shape[: -2 - axes], *(1,) * (axes + 1), -1)
        return order.scale * (values - mean)
    own, around = weights
    bonds = domain.lattice.bonds(1)
    reach = _reach(bonds)
    ghosted, there = domain.pad(values, reach), _existing_cells(domain, values, reach)
    summed = torch.zeros_like(values, dtype=values.dtype if order.is_real else values.dtype.to_complex())
    count = there.new_zeros((*displaced(there, reach, (0,) * len(domain.lattice.extent)).shape[:-2], values.shape[-2], 1))
    for site, neighbour, offset, factor in _neighbours(bonds, order):
        summed[..., site, :].add_(displaced(ghosted, reach, offset)[..., neighbour, :], alpha=factor)
        count[..., site, :] += displaced(there, reach, offset)[..., 0, :]
    return summed.div_(count.clamp(min=1) / around).add_(values, alpha=own)


def local_order(values: Tensor, order: Order, domain: Domain) -> Tensor:
    """``phi`` of an owned field, of its shape, complex unless the order is real; collective."""
    return difference(values, order, domain) * _phase(order, domain, values)


def order_parameter(phi: Tensor, domain: Domain) -> Tensor:
    """``|mean phi|`` over the whole lattice, ``[*batch]``; collective."""
    return _length(_mean(phi, domain))


def wall_density(compared: Tensor, order: Order, domain: Domain) -> Tensor:
    """Part of the nearest-neighbour bonds whose ends have opposite order, ``Re phi_i^* . phi_j < 0``, ``[*batch]``; collective.

    ``compared``: as :func:`difference` gives it.  Of the phases of ``phi`` those along a bond alone matter, so a lattice of any
    extent has walls.  0 in one domain, about 1/2 without any order.  A site whose difference is below :data:`RESOLUTION` has no
    sign and no walls: there are none where the field is uniform.
    """
    bonds = _bonds_to_others(domain.lattice)
    reach = _reach(bonds)
    ghosted, there = domain.pad(compared, reach), _existing_cells(domain, compared.real, reach)
    axes = domain.local_extent
    walls, counted = torch.zeros_like(compared.real[..., 0, 0]), there.new_zeros(())
    strong = _length(ghosted).unsqueeze(-1) > RESOLUTION
    for bond in bonds:
        here, ahead = ends(ghosted, reach, bond)
        aligned = _dot(here, ahead, order.along(bond))
        signed, signed_ahead = ends(strong, reach, bond)
        walls += (aligned < 0) & signed[..., 0] & signed_ahead[..., 0]
        counted = counted + displaced(there, reach, bond.offset)[..., 0, 0]
    return total(walls, domain, fields=0) / total(counted.expand(axes), domain, fields=0)


class OrderScalars:
    """Order parameters, walls and domain lengths of a state.

    Collective to make.  ``told``: a sentence for each that is left out, since it does not fit the lattice; ``lengths``: of
    each order that has some.
    """

    def __init__(self, domain: Domain, transport: Transport, orders: Sequence[Order]) -> None:
        self._domain, self.orders, lattice = domain, list(orders), domain.lattice
        self.fitting = [order for order in orders if not order.misfit(lattice)]
        self.told = [sentence for order in orders if (sentence := order.misfit(lattice))]
        measured = [order for order in self.fitting if order.whole]
        kinds = {real: DomainLengths(domain, transport, real) for real in {order.is_real for order in measured}}
        self.lengths = {order: kinds[order.is_real] for order in measured}
        if not orders:
            self.told.append(f"no order is recorded: the {lattice.name} lattice has none that all neighbours agree on")
        if not all(lattice.periodic):
            self.told.append(
                f"S(q) and the domain length of its moment are left out: they need periodic axes, and periodic = "
                f"{list(lattice.periodic)}"
            )

    def __call__(self, density: Tensor, q: Tensor) -> dict[str, float]:
        """The values by their names among the series, the same on all ranks; collective.

        ``density [*cells, basis]``, ``q [*cells, basis, components]``: owned, in any precision; computed in float64.
        """
        found: dict[str, Tensor] = {}
        for order in self.orders:
            compared = difference(order.values(density, q).double(), order, self._domain)
            if order in self.fitting:
                phi = compared * _phase(order, self._domain, compared)
                found[order.scalar("order_parameter")] = order_parameter(phi, self._domain)
            if order.whole:
                found[order.scalar("domain_wall_density")] = wall_density(compared, order, self._domain)
            if order in self.lengths:
                lengths = self.lengths[order](phi)
                found |= {order.scalar(f"domain_length_{name}"): length for name, length in lengths.items()}
        return {name: float(value) for name, value in found.items()}


def _neighbours(bonds: Sequence[Bond], order: Order) -> Iterator[tuple[int, int, tuple[int, ...], complex]]:
    """Site, neighbour, offset of its cell and :meth:`Order.along` of both directions of each bond."""
    for bond in bonds:
        factor = order.along(bond)
        yield bond.source, bond.target, bond.offset, factor
        yield bond.target, bond.source, tuple(-step for step in bond.offset), factor.conjugate()


def _bonds_to_others(lattice: Lattice) -> list[Bond]:
    """Bonds of the first shell without those from a site to itself, around an axis of one cell."""
    closed = [n if periodic else math.inf for n, periodic in zip(lattice.extent, lattice.periodic, strict=True)]
    around = [all(step % n == 0 for step, n in zip(bond.offset, closed, strict=True)) for bond in lattice.bonds(1)]
    return [b for b, itself in zip(lattice.bonds(1), around, strict=True) if not (itself and b.source == b.target)]


def _mean(owned: Tensor, domain: Domain) -> Tensor:
    """Mean of each component over the sites of the whole lattice, ``[*batch, components]`` on the CPU; collective."""
    return torch.stack([total(one, domain, fields=1) for one in owned.unbind(-1)], dim=-1) / domain.lattice.sites


def _length(vectors: Tensor) -> Tensor:
    """Lengths of vectors along the last axis: the absolute value of one component."""
    return reduce(torch.hypot, vectors.abs().unbind(-1))


def _dot(one: Tensor, other: Tensor, factor: complex) -> Tensor:
    """``Re factor one^* . other`` along the last axis."""
    if not one.is_complex():
        return reduce(torch.add, (one * other).unbind(-1)) * factor.real
    return reduce(torch.add, (one.conj() * other * factor).real.unbind(-1))


def _phase(order: Order, domain: Domain, like: Tensor) -> Tensor:
    """``s exp(-i Q.r)`` of the owned sites, ``[*cells, basis, 1]``; the signs +-1 where it is real."""
    phase = torch.ones((), dtype=torch.float64)
    for turns, (start, stop) in zip(order.wave_vector, domain.owned, strict=True):
        part = torch.arange(start, stop) * turns.numerator % turns.denominator
        angle = -2 * math.pi * part.double() / turns.denominator
        phase = phase.unsqueeze(-1) * (
            torch.cos(angle).round() if order.is_real else torch.polar(torch.ones_like(angle), angle)
        )
    phase = phase[..., None, None] * torch.tensor(order.signs, dtype=torch.float64)[:, None]
    kind = like.dtype if order.is_real or like.is_complex() else like.dtype.to_complex()
    return phase.to(device=like.device, dtype=kind)


def _existing_cells(domain: Domain, like: Tensor, reach: int) -> Tensor:
    """1 on every cell of the lattice and 0 beyond its open edges, with a halo of ``reach``: ``[*ghosted cells, 1, 1]``.

    Without edges, of one cell only: all are alike.
    """
    if all(domain.lattice.periodic):
        return like.new_ones((*(2 * reach + 1 for _ in domain.local_extent), 1, 1))
    return domain.pad(like.new_ones((*domain.local_extent, 1, 1)), reach)


def _reach(bonds: Sequence[Bond]) -> int:
    return max((abs(step) for bond in bonds for step in bond.offset), default=0)
