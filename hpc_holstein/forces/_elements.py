"""The states of the electrons, matrix elements of ``H(q)`` between them, and how far an error of ``rho`` carries."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from hpc_holstein.errors import SpectrumError
from hpc_holstein.hamiltonian import displaced
from hpc_holstein.interfaces import Bond, Domain, Hamiltonian, Lattice

AnyDomain = TypeVar("AnyDomain", bound=Domain)


class _StateLattice:
    """A lattice each of whose sites is taken ``orbitals`` times: ``site * orbitals + orbital``.

    What counts its sites counts states: the rows of a matrix, a filling, a mean.
    """

    def __init__(self, lattice: Lattice, orbitals: int) -> None:
        self._lattice = lattice
        self.basis = tuple(place for place in lattice.basis for _ in range(orbitals))
        self.sites = lattice.sites * orbitals

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # of a copy that is being made, which has no lattice yet
            raise AttributeError(name)
        return getattr(self._lattice, name)


def electron_domain(hamiltonian: Hamiltonian, domain: AnyDomain) -> AnyDomain:
    """``domain`` with the states of the electrons as its sites; itself if a site has one state."""
    if hamiltonian.orbitals == 1 or isinstance(domain.lattice, _StateLattice):
        return domain
    view = copy.copy(domain)
    view.lattice = cast(Lattice, _StateLattice(domain.lattice, hamiltonian.orbitals))
    return view


def on_sites(hamiltonian: Hamiltonian, rho: Tensor) -> Tensor:
    """Electrons on each site, ``[..., basis]``, from ``rho [..., pattern]`` or its diagonal."""
    diagonal = rho[..., : hamiltonian.states]
    return diagonal if hamiltonian.orbitals == 1 else diagonal.unflatten(-1, (-1, hamiltonian.orbitals)).sum(dim=-1)


def matrix_elements(hamiltonian: Hamiltonian, domain: Domain, q: Tensor) -> Tensor:
    """``H(q)`` on the pattern of the owned cells, ``[*batch, *cells, pattern]``; collective."""
    return hamiltonian.matrix(domain.pad(q, hamiltonian.reach), hamiltonian.reach)


def both_ways(hamiltonian: Hamiltonian, domain: Domain, entries: Tensor) -> Iterator[tuple[Bond, Tensor]]:
    """Every bond of the pattern from both of its ends, those of one site once: with its value in each cell that it starts in.

    ``entries [*batch, *cells, pattern]``, values ``[*batch, *cells]``, which mean nothing where a bond leaves an open edge.
    """
    ghosted = domain.pad(entries.unsqueeze(-1), hamiltonian.reach)
    for number, bond in enumerate(hamiltonian.pattern):
        yield bond, entries[..., number]
        if bond.source != bond.target or any(bond.offset):
            back = Bond(bond.target, bond.source, tuple(-step for step in bond.offset))
            yield back, displaced(ghosted, hamiltonian.reach, back.offset)[..., number, 0]


class WholeMatrix:
    """``H(q)`` of the whole lattice of a serial :func:`electron_domain`, states numbered cells row-major, then in a cell.

    starts, ends   states of each entry of the pattern, ``[cells, pattern]``; the end is -1 beyond an open edge
    rows, columns  of every matrix element, both halves, ``[elements]``; those of the same two states add up
    """

    def __init__(self, hamiltonian: Hamiltonian, whole: Domain) -> None:
        self._hamiltonian, self._whole = hamiltonian, whole
        lattice, halo, pattern = whole.lattice, hamiltonian.reach, hamiltonian.pattern
        number = torch.arange(1.0, lattice.sites + 1, dtype=torch.float64, device=whole.device)  # beyond an open edge: 0
        sites = whole.pad(number.view(*lattice.extent, len(lattice.basis), 1), halo)
        here = whole.crop(sites, halo)[..., [bond.source for bond in pattern], 0]
        there = torch.stack([displaced(sites, halo, bond.offset)[..., bond.target, 0] for bond in pattern], dim=-1)
        self.starts, self.ends = (one.flatten(0, -2).long() - 1 for one in (here, there))
        twice = torch.tensor([b.source != b.target or any(b.offset) for b in pattern], device=whole.device)
        upper, lower = (kept.flatten().nonzero()[:, 0] for kept in (self.ends >= 0, (self.ends >= 0) & twice))
        start, end = self.starts.flatten(), self.ends.flatten()
        self._entries = torch.cat([upper, lower])
        self.rows, self.columns = torch.cat([start[upper], end[lower]]), torch.cat([end[upper], start[lower]])

    def values(self, q: Tensor) -> Tensor:
        """``[elements]`` for one state ``q [*cells, basis, components]``."""
        return matrix_elements(self._hamiltonian, self._whole, q).flatten()[self._entries]


def require_finite(q: Tensor, step: int, domain: Domain) -> None:
    """Raise SpectrumError, on all ranks alike, for coordinates without a spectrum."""
    bad = domain.allsum((~torch.isfinite(q)).sum().double().cpu())
    if bad > 0:
        raise SpectrumError(
            f"{int(bad)} coordinates at step {step} are NaN or infinite, so H(q) has no spectrum: check the initial state, or "
            "reduce dt"
        )


def needed_entries(hamiltonian: Hamiltonian, domain: Domain) -> list[int]:
    """Entries of the pattern that ``Tr[rho dH/dq]`` or the density need: those that move with ``q``, and the diagonal."""
    halo = hamiltonian.reach
    shape = (2, *(1 + 2 * halo for _ in domain.local_extent), len(hamiltonian.lattice.basis), hamiltonian.components)
    q = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, second = hamiltonian.matrix(q, halo)
    moves = (first != second).reshape(-1, len(hamiltonian.pattern)).any(dim=0).tolist()
    return [entry for entry, moving in enumerate(moves) if moving or entry < hamiltonian.states]


def force_scale(hamiltonian: Hamiltonian, domain: Domain, q: Tensor) -> Tensor:
    """Largest force, on this rank, that errors of one in the needed entries of ``rho`` can make together; collective.

    ``max_c sum_ij |dH_ij/dq_c|``, the signs of the errors of one entry drawn at random: one site in a few has the worst ones.
    """
    halo = hamiltonian.reach
    ghosted, generator = domain.pad(q, halo), torch.Generator().manual_seed(0)
    signs = torch.randint(2, q.shape[:-2], generator=generator, dtype=torch.int8).to(q) * 2 - 1
    total = torch.zeros_like(q)
    for entry in needed_entries(hamiltonian, domain):
        rho = q.new_zeros((*q.shape[:-2], len(hamiltonian.pattern)))
        rho[..., entry] = signs
        total += hamiltonian.electronic_force(ghosted, halo, rho, domain).abs()
    return total.max().cpu()
