"""Matrix elements of ``H(q)`` that a solver reads, and how far an error of ``rho`` carries into the force."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hpc_holstein.errors import SpectrumError
from hpc_holstein.hamiltonian import displaced
from hpc_holstein.interfaces import Bond, Domain, Hamiltonian


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
    """``H(q)`` of the whole lattice that a serial domain holds, sites numbered cells row-major, then basis.

    starts, ends   sites of each entry of the pattern, ``[cells, pattern]``; the end is -1 beyond an open edge
    rows, columns  of every matrix element, both halves, ``[elements]``; those of the same two sites add up
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
    """Entries of the pattern that ``Tr[rho dH/dq]`` or the density need: those that move with ``q``, and the on-site ones."""
    halo, basis = hamiltonian.reach, len(domain.lattice.basis)
    shape = (2, *(1 + 2 * halo for _ in domain.local_extent), basis, hamiltonian.components)
    q = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, second = hamiltonian.matrix(q, halo)
    moves = (first != second).reshape(-1, len(hamiltonian.pattern)).any(dim=0).tolist()
    return [entry for entry, moving in enumerate(moves) if moving or entry < basis]


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
