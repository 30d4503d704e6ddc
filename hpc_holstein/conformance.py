"""Checks that a lattice, a Hamiltonian or a force provider keeps its contract; for those of the package and for your own.

    from hpc_holstein import conformance
    conformance.check_hamiltonian(my_model.build(my_model.Options(), lattice))
    conformance.check_forces(lambda domain: my_forces(domain), hamiltonian, ensemble)

Each returns nothing or raises :class:`ConformanceError`, which says what deviates from what, and by how much.  The tests of the
package run them over every file of its folders.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, Transport, run_in_process
from hpc_holstein.errors import HolsteinError
from hpc_holstein.fields import Field
from hpc_holstein.forces import exact
from hpc_holstein.hamiltonian._base import LatticeHamiltonian
from hpc_holstein.interfaces import Domain, Ensemble, ForceProvider, ForceResult, Hamiltonian, Lattice, State

_ROUND_OFF = 1e-10
_STEP = 1e-4  # of finite differences, in units of the coordinates
_STENCIL = ((1, 8 / 12), (2, -1 / 12))  # fourth order
_DIRECTIONS = 3
_NUMBER = Field("", "", "a number on each site")
_ENSEMBLES = (
    Ensemble("canonical", kT=0.2, filling=0.4),
    Ensemble("grand-canonical", kT=0.2, chemical_potential=0.3),
)


class ConformanceError(HolsteinError):
    """A lattice, Hamiltonian or provider that does not do what its contract says."""


def check_lattice(lattice: Lattice) -> None:
    """Check that each element of the symmetry maps sites onto sites and the nearest bonds onto themselves.

    Raises :class:`ConformanceError`, or ConfigError for matrices that are no symmetry of the sites.
    """
    group = lattice.symmetry
    directed = {(b.source, b.target, b.offset) for b in lattice.bonds(1)}
    directed |= {(t, s, tuple(-step for step in o)) for s, t, o in directed}
    for g, matrix in enumerate(group.point_group.array):
        site, cell = group.site[g], group.cell[g]
        images = {(site[s], site[t], tuple((matrix @ o + cell[t] - cell[s]).tolist())) for s, t, o in directed}
        if images != directed:
            raise ConformanceError(
                f"element {g} of the symmetry of the {lattice.name} lattice, {matrix.tolist()}, does not map its bonds onto "
                "themselves: correct generators, vectors or basis"
            )


def check_hamiltonian(hamiltonian: Hamiltonian, amplitude: float = 1.0, seed: int = 0) -> None:
    """Check a Hamiltonian on its lattice, which should be small, with random coordinates of this ``amplitude``.

    Forces are minus the gradients of the free energy, canonical and grand-canonical, by finite differences to 1e-6; forces that
    are written out are the vector-Jacobian products; on a periodic lattice of equal sides each element of the point group,
    and a translation, act on coordinates and forces alike, to 1e-10.
    """
    lattice = hamiltonian.lattice
    domain = CartesianDomain(lattice, SerialTransport())
    q = amplitude * random_coordinates(hamiltonian, seed)
    _check_products(hamiltonian, domain, q)
    for ensemble in _ENSEMBLES:
        _check_gradient(hamiltonian, domain, q, ensemble)
    if all(lattice.periodic) and len(set(lattice.extent)) == 1:
        forces = exact.build(exact.Options(), hamiltonian, domain, _ENSEMBLES[0])
        check_symmetry(forces, hamiltonian, q)


def check_forces(
    make: Callable[[Domain], ForceProvider],
    hamiltonian: Hamiltonian,
    ensemble: Ensemble,
    amplitude: float = 1.0,
    seed: int = 0,
    ranks: tuple[int, ...] = (2, 4),
) -> None:
    """Check a provider, built by ``make`` on a domain: within its tolerance of exact forces, and the same on several ranks.

    A provider without a ``tolerance`` is compared with itself alone.  Ranks are threads of this process.
    """
    lattice = hamiltonian.lattice
    domain = CartesianDomain(lattice, SerialTransport())
    q = amplitude * random_coordinates(hamiltonian, seed)
    forces = make(domain)
    found = forces(State.at_rest(q))
    if forces.tolerance is not None:
        wanted = exact.build(exact.Options(), hamiltonian, domain, ensemble)(State.at_rest(q))
        _require_close("the force", found.force, "exact diagonalization", wanted.force, forces.tolerance)
    allowed = 2 * (forces.tolerance or 0.0) + _ROUND_OFF * float(found.force.abs().max())

    def body(transport: Transport) -> tuple[tuple[slice, ...], Tensor]:
        part = CartesianDomain(lattice, transport)
        tile = tuple(slice(*span) for span in part.owned)
        return tile, make(part)(State.at_rest(q[tile].contiguous())).force

    for number in ranks:
        for tile, force in run_in_process(number, body):
            _require_close(f"the force on {number} ranks", force, "one rank", found.force[tile], allowed)


def check_symmetry(
    forces: Callable[[State], ForceResult], hamiltonian: Hamiltonian, q: Tensor, tolerance: float = _ROUND_OFF
) -> None:
    """Check ``F(g q) = g F(q)`` for each element of the point group of a periodic lattice of equal sides, and a translation.

    ``q``: ``[*cells, basis, components]`` of the whole lattice.
    """
    lattice = hamiltonian.lattice
    field = hamiltonian.coordinates
    plain = forces(State.at_rest(q))
    scale = max(float(plain.force.abs().max()), 1.0)
    for g in range(lattice.point_group.order):
        turned = forces(State.at_rest(transformed(q, lattice, g, field)))
        name = f"under element {g} of the point group"
        image = transformed(plain.force, lattice, g, field)
        _require_close(f"the force {name}", turned.force, "the transformed force", image, tolerance * scale)
        image = transformed(plain.density[..., None], lattice, g)[..., 0]
        _require_close(f"the density {name}", turned.density, "the transformed density", image, tolerance)
    moved = forces(State.at_rest(q.roll(1, 0))).force
    _require_close("the force after a translation", moved, "the translated force", plain.force.roll(1, 0), tolerance * scale)


def transformed(values: Tensor, lattice: Lattice, g: int, field: Field = _NUMBER) -> Tensor:
    """A field ``[*cells, basis, components]`` under element ``g`` of the point group of a periodic lattice of equal sides.

    ``field`` says how its components turn.
    """
    group, dimension, cells = lattice.symmetry, len(lattice.extent), lattice.extent[0]
    r = np.indices((cells,) * dimension).reshape(dimension, -1)
    matrix = field.turned(group.rotations[g])
    turned = values if matrix is None else values @ torch.from_numpy(matrix).T.to(values)
    out = torch.empty_like(values)
    for b in range(values.shape[-2]):
        image = (group.point_group.array[g] @ r + group.cell[g, b][:, None]) % cells
        out[(*image, int(group.site[g, b]))] = turned[(*r, b)]
    return out


def random_coordinates(hamiltonian: Hamiltonian, seed: int = 0) -> Tensor:
    """Standard normal coordinates ``[*extent, basis, components]``, float64."""
    lattice = hamiltonian.lattice
    shape = (*lattice.extent, len(lattice.basis), hamiltonian.components)
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _check_products(hamiltonian: Hamiltonian, domain: Domain, q: Tensor) -> None:
    """Forces that are written out against the vector-Jacobian products, with halos of two widths."""
    if not isinstance(hamiltonian, LatticeHamiltonian):
        return
    halo = hamiltonian.reach
    entries = hamiltonian.matrix(domain.pad(q, halo), halo)
    rho = torch.randn(entries.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for width in (halo, halo + 2):
        ghosted = domain.pad(q, width)
        _require_close("matrix with more ghosts", hamiltonian.matrix(ghosted, width), "matrix", entries, _ROUND_OFF)
        pairs = {
            "the electronic force": (
                hamiltonian.electronic_force(ghosted, width, rho, domain),
                LatticeHamiltonian.electronic_force(hamiltonian, ghosted, width, rho, domain),
            ),
            "the classical force": (
                hamiltonian.classical_force(ghosted, width, domain),
                LatticeHamiltonian.classical_force(hamiltonian, ghosted, width, domain),
            ),
        }
        for name, (written, product) in pairs.items():
            scale = max(float(product.abs().max()), 1.0)
            _require_close(name, written, "its vector-Jacobian product", product, _ROUND_OFF * scale)


def _check_gradient(hamiltonian: Hamiltonian, domain: Domain, q: Tensor, ensemble: Ensemble) -> None:
    """``F = -d(V + Omega [+ mu N])/dq`` along random directions."""
    forces, halo = exact.build(exact.Options(), hamiltonian, domain, ensemble), hamiltonian.reach
    electrons = ensemble.filling * domain.lattice.sites * hamiltonian.orbitals if ensemble.kind == "canonical" else 0.0

    def free_energy(x: Tensor) -> float:
        found = forces(State.at_rest(x))
        assert found.grand_potential is not None  # exact forces have it
        potential = hamiltonian.energy(domain.pad(x, halo), halo).sum()
        return float(found.grand_potential + potential + electrons * found.chemical_potential)

    force = forces(State.at_rest(q)).force
    generator, h = torch.Generator().manual_seed(1), _STEP * math.sqrt(float(q.square().mean()))
    for _ in range(_DIRECTIONS):
        along = torch.randn(q.shape, generator=generator, dtype=torch.float64)
        slope = sum(w * (free_energy(q + s * h * along) - free_energy(q - s * h * along)) for s, w in _STENCIL) / h
        work = float((force * along).sum())
        if abs(slope + work) > 1e-6 * max(abs(work), float(force.abs().max())):
            raise ConformanceError(
                f"the {ensemble.kind} force of {hamiltonian.name} along a random direction is {work:.9g} and finite "
                f"differences of the free energy give {-slope:.9g}: its matrix, energy and forces do not belong together"
            )


def _require_close(name: str, found: Tensor, other: str, wanted: Tensor, tolerance: float) -> None:
    largest = float((found.double() - wanted.double()).abs().max())
    if not largest <= tolerance:
        raise ConformanceError(f"{name} differs from {other} by {largest:.2e}, more than {tolerance:.2e}")
