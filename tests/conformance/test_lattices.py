"""Every lattice and every Hamiltonian: bonds closed under the point group, forces that are gradients."""

import itertools

import numpy as np
import pytest
import torch
from conformance.cases import HAMILTONIANS, LATTICES, build_hamiltonian, build_lattice, moved

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import ConfigError

each_lattice = pytest.mark.parametrize("name", LATTICES)
SYSTEMS = list(itertools.product(LATTICES, HAMILTONIANS))
each_system = pytest.mark.parametrize(("name", "system"), SYSTEMS)


def shells(lattice):
    for shell in itertools.count(1):
        try:
            yield lattice.bonds(shell)
        except ConfigError:
            return


def displacements(lattice, bonds):
    """Vectors along the bonds, both ways, in units of the lattice constant, ``[2 bonds, dimension]``."""
    vectors, basis = np.asarray(lattice.vectors), np.asarray(lattice.basis)
    along = np.array([np.asarray(b.offset) @ vectors + basis[b.target] - basis[b.source] for b in bonds])
    return np.concatenate([along, -along])


@each_lattice
def test_point_group_preserves_distances(name):
    lattice = build_lattice(name, 6)
    vectors = np.asarray(lattice.vectors)
    for matrix in lattice.point_group.array:
        rotation = vectors.T @ matrix @ np.linalg.inv(vectors.T)
        assert np.allclose(rotation @ rotation.T, np.eye(len(vectors)))


@each_lattice
def test_bonds_are_closed_under_the_point_group(name):
    """Each shell has one length, each bond once, and every element maps the shell onto itself."""
    lattice = build_lattice(name, 6)
    vectors, lengths = np.asarray(lattice.vectors), []
    for bonds in shells(lattice):
        along = displacements(lattice, bonds)
        length = np.linalg.norm(along, axis=1)
        assert np.allclose(length, length[0])
        lengths.append(length[0])
        keyed = {(b.source, b.target, b.offset) for b in bonds} | {
            (b.target, b.source, tuple(-step for step in b.offset)) for b in bonds
        }
        assert len(keyed) == 2 * len(bonds)
        known = {tuple(row) for row in np.round(along, 9) + 0.0}
        for matrix in lattice.point_group.array:
            rotation = vectors.T @ matrix @ np.linalg.inv(vectors.T)
            assert {tuple(row) for row in np.round(along @ rotation.T, 9) + 0.0} == known
    assert lengths == sorted(lengths)
    assert lengths


@each_lattice
def test_symmetry_permutes_the_sites(name):
    """``site`` and ``cell`` move each site where its rotation moves it, about one point, and compose like the group."""
    lattice = build_lattice(name, 6)
    group, vectors, basis = lattice.symmetry, np.asarray(lattice.vectors), np.asarray(lattice.basis)
    images = group.cell @ vectors + basis[group.site]  # [g, basis, dim]
    shift = images - np.einsum("gij,bj->gbi", group.rotations, basis)  # (1 - R) origin, the same for all sites
    assert np.allclose(shift, shift[:, :1])
    fixed = np.eye(len(vectors)) - group.rotations
    origin = np.linalg.lstsq(fixed.reshape(-1, len(vectors)), shift[:, 0].reshape(-1), rcond=None)[0]
    assert np.allclose(fixed @ origin, shift[:, 0])
    table, matrices = group.point_group.product_table, group.point_group.array
    for g, h in itertools.product(range(group.point_group.order), repeat=2):
        assert (group.site[g][group.site[h]] == group.site[table[g, h]]).all()
        assert (group.cell[h] @ matrices[g].T + group.cell[g][group.site[h]] == group.cell[table[g, h]]).all()


@each_lattice
def test_bonds_are_those_of_the_symmetry(name):
    """Every element takes the bonds of a shell, cells and sites, to bonds of it."""
    lattice = build_lattice(name, 6)
    group = lattice.symmetry
    for bonds in shells(lattice):
        directed = {(b.source, b.target, b.offset) for b in bonds}
        directed |= {(t, s, tuple(-step for step in o)) for s, t, o in directed}
        for g, matrix in enumerate(group.point_group.array):
            moved_bonds = {
                (group.site[g, s], group.site[g, t], tuple((matrix @ o + group.cell[g, t] - group.cell[g, s]).tolist()))
                for s, t, o in directed
            }
            assert moved_bonds == directed


@each_lattice
def test_size_costs_nothing(name):
    small, large = build_lattice(name, 4), build_lattice(name, 10**6)
    assert large.bonds(1) == small.bonds(1)
    dimension = len(small.extent)
    assert large.sites == small.sites * (10**6 // 4) ** dimension


def system_on(name, system, cells=6):
    lattice = build_lattice(name, cells)
    hamiltonian = build_hamiltonian(system, lattice)
    shape = (2, *lattice.extent, len(lattice.basis), hamiltonian.components)
    q = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    return CartesianDomain(lattice, SerialTransport()), hamiltonian, q


@each_system
def test_classical_force_is_minus_the_gradient(name, system):
    domain, hamiltonian, q = system_on(name, system)
    halo = hamiltonian.reach
    energy, force = hamiltonian.classical(domain.pad(q, halo), halo)
    (gradient,) = torch.autograd.grad(energy.sum(), q)
    assert torch.allclose(force, -gradient, atol=1e-12)
    assert energy.shape == q.shape[:-2]
    with torch.no_grad():
        wide = hamiltonian.classical(domain.pad(q, halo + 2), halo + 2)
    assert torch.allclose(wide[0], energy, atol=1e-13)
    assert torch.allclose(wide[1], force, atol=1e-13)


@each_system
def test_pull_back_is_minus_the_trace(name, system):
    """``Tr[rho dH/dq]``: on-site entries once, every off-diagonal one twice."""
    _, hamiltonian, q = system_on(name, system)
    entries = hamiltonian.entries(q)
    rho = torch.randn_like(entries)
    on_site = torch.tensor([b.source == b.target and not any(b.offset) for b in hamiltonian.pattern])
    weight = torch.where(on_site, 1.0, 2.0).double()
    (gradient,) = torch.autograd.grad((weight * entries * rho).sum(), q)
    assert torch.allclose(hamiltonian.pull_back(q, rho), -gradient, atol=1e-12)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize(("cells", "closed"), [(6, True), (5, True), (2, True), (1, True), (5, False), (4, False)])
@each_system
def test_stiffness_is_that_of_the_softest_and_of_the_stiffest_mode(name, system, cells, closed):
    """Against the eigenvalues of the Hessian, from forces of the classical potential; open edges bound them."""
    lattice = build_lattice(name, cells, closed)
    hamiltonian = build_hamiltonian(system, lattice)
    domain, halo, size = CartesianDomain(lattice, SerialTransport()), hamiltonian.reach, lattice.sites * hamiltonian.components
    unit = torch.eye(size, dtype=torch.float64).reshape(size, *lattice.extent, len(lattice.basis), hamiltonian.components)
    force, rest = (hamiltonian.classical(domain.pad(q, halo), halo)[1] for q in (unit, torch.zeros_like(unit[:1])))
    exact = torch.linalg.eigvalsh((rest - force).reshape(size, size))
    low, high = hamiltonian.stiffness
    assert low <= exact[0] + 1e-12
    assert high >= exact[-1] - 1e-12
    if closed or name == "square":
        assert (low, high) == pytest.approx((float(exact[0]), float(exact[-1])), abs=1e-12)


@each_system
def test_pattern_lists_on_site_entries_first(name, system):
    _, hamiltonian, q = system_on(name, system)
    basis = q.shape[-2]
    for b, bond in enumerate(hamiltonian.pattern[:basis]):
        assert (bond.source, bond.target) == (b, b)
        assert not any(bond.offset)
    assert max(abs(step) for bond in hamiltonian.pattern for step in bond.offset) <= hamiltonian.reach
    assert all(isinstance(value, float) for value in hamiltonian.parameters.values())


@pytest.mark.parametrize(("name", "system"), [pair for pair in SYSTEMS if system_on(*pair)[2].shape[-2:] == (1, 1)])
def test_classical_energy_has_the_symmetry_of_the_lattice(name, system):
    """One coordinate a cell: those of several basis sites or components would turn along."""
    domain, hamiltonian, q = system_on(name, system)
    halo = hamiltonian.reach

    def energy(x):
        return float(hamiltonian.classical(domain.pad(x, halo), halo)[0].sum())

    with torch.no_grad():
        for matrix in domain.lattice.point_group.matrices:
            assert energy(moved(q, matrix, 1)) == pytest.approx(energy(q), abs=1e-10)
