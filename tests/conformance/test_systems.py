"""Every Hamiltonian on every lattice that it builds on: forces that are gradients, symmetry, providers that agree."""

import itertools
import math

import pytest
import torch
from conformance.cases import HAMILTONIANS, LATTICES, build_hamiltonian, build_lattice, load, transformed

from hpc_holstein import forces
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.errors import ConfigError
from hpc_holstein.hamiltonian._base import LatticeHamiltonian
from hpc_holstein.interfaces import Ensemble, State

SYSTEMS = list(itertools.product(LATTICES, HAMILTONIANS))
CELLS = {1: 12, 2: 6, 3: 3}  # along each axis: of 1, 2 and 3 dimensions, small enough for finite differences
ENSEMBLES = {
    "canonical": Ensemble("canonical", kT=0.2, filling=0.4),
    "grand": Ensemble("grand-canonical", kT=0.2, chemical_potential=0.3),
}

each_system = pytest.mark.parametrize(("name", "system"), SYSTEMS)


def system_on(name, system, periodic=True, seed=0):
    """Domain, Hamiltonian and coordinates of one state."""
    lattice = build_lattice(name, 4)
    dimension = len(lattice.extent)
    lattice = load_lattice(name, (CELLS[dimension],) * dimension, periodic)
    hamiltonian = build_hamiltonian(system, lattice)
    shape = (*lattice.extent, len(lattice.basis), hamiltonian.components)
    scale = 0.1 if hamiltonian.coordinates.representation == "vector" else 2.0
    q = scale * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return CartesianDomain(lattice, SerialTransport()), hamiltonian, q


def load_lattice(name, extent, periodic=True):
    from hpc_holstein import lattice

    return load(lattice, name).build(extent, (periodic,) * len(extent))


def provider(kind, hamiltonian, domain, ensemble, **options):
    module = load(forces, kind)
    return module.build(module.Options(**options), hamiltonian, domain, ensemble)


@each_system
@pytest.mark.parametrize("periodic", [True, False])
def test_forces_that_are_written_out_are_vector_jacobian_products(name, system, periodic):
    domain, hamiltonian, q = system_on(name, system, periodic)
    halo = hamiltonian.reach
    ghosted = domain.pad(q, halo)
    rho = torch.randn_like(hamiltonian.matrix(ghosted, halo))
    written = hamiltonian.electronic_force(ghosted, halo, rho, domain), hamiltonian.classical_force(ghosted, halo, domain)
    product = (
        LatticeHamiltonian.electronic_force(hamiltonian, ghosted, halo, rho, domain),
        LatticeHamiltonian.classical_force(hamiltonian, ghosted, halo, domain),
    )
    for one, other in zip(written, product, strict=True):
        assert torch.allclose(one, other, atol=1e-12, rtol=1e-12)
        assert float(one.abs().max()) > 0
    assert torch.equal(hamiltonian.force(ghosted, halo, rho, domain), written[0] + written[1])
    wide = domain.pad(q, halo + 2)
    assert torch.allclose(hamiltonian.energy(wide, halo + 2), hamiltonian.energy(ghosted, halo), atol=1e-13)
    assert torch.allclose(hamiltonian.matrix(wide, halo + 2), hamiltonian.matrix(ghosted, halo), atol=1e-13)
    assert torch.allclose(hamiltonian.force(wide, halo + 2, rho, domain), sum(written), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(("cells", "closed"), [(6, True), (5, True), (2, True), (1, True), (5, False), (4, False)])
@each_system
def test_stiffness_is_that_of_the_softest_and_of_the_stiffest_mode(name, system, cells, closed):
    """Against the eigenvalues of the Hessian, from forces of the classical potential; open edges bound them."""
    lattice = build_lattice(name, cells if len(build_lattice(name, 1).extent) < 3 else min(cells, 4), closed)
    hamiltonian = build_hamiltonian(system, lattice)
    domain, halo, size = CartesianDomain(lattice, SerialTransport()), hamiltonian.reach, lattice.sites * hamiltonian.components
    unit = torch.eye(size, dtype=torch.float64).reshape(size, *lattice.extent, len(lattice.basis), hamiltonian.components)
    force, rest = (hamiltonian.classical_force(domain.pad(q, halo), halo, domain) for q in (unit, torch.zeros_like(unit[:1])))
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
    assert max(abs(step) for bond in hamiltonian.pattern for step in bond.offset) == hamiltonian.reach
    assert all(isinstance(value, float) for value in hamiltonian.parameters.values())


@each_system
@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("ensemble", ENSEMBLES.values(), ids=ENSEMBLES)
def test_exact_forces_against_finite_differences(name, system, periodic, ensemble):
    """``F = -d(V + Omega [+ mu N])/dq`` along random directions."""
    domain, hamiltonian, q = system_on(name, system, periodic)
    exact = provider("exact", hamiltonian, domain, ensemble)
    halo, electrons = hamiltonian.reach, ensemble.filling * domain.lattice.sites

    def free_energy(x):
        found = exact(State.at_rest(x))
        energy = float(found.grand_potential) + float(hamiltonian.energy(domain.pad(x, halo), halo).sum())
        return energy + (electrons * float(found.chemical_potential) if ensemble.kind == "canonical" else 0.0)

    force = exact(State.at_rest(q)).force
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        along = torch.randn(q.shape, generator=generator, dtype=torch.float64)
        h = 1e-4 * math.sqrt(float(q.square().mean()))
        slope = sum(
            w * (free_energy(q + s * h * along) - free_energy(q - s * h * along)) for s, w in ((1, 8 / 12), (2, -1 / 12))
        )
        wanted = -float((force * along).sum())
        assert slope / h == pytest.approx(wanted, rel=1e-6, abs=1e-6 * float(force.abs().max()))


@each_system
def test_space_group(name, system):
    """Every element of the point group, about its origin, and a translation, act on coordinates and on forces alike."""
    domain, hamiltonian, q = system_on(name, system)
    exact = provider("exact", hamiltonian, domain, ENSEMBLES["canonical"])
    plain = exact(State.at_rest(q))
    vector = hamiltonian.coordinates.representation == "vector"
    for g in range(domain.lattice.point_group.order):
        turned = exact(State.at_rest(transformed(q, domain.lattice, g, vector)))
        assert torch.allclose(turned.force, transformed(plain.force, domain.lattice, g, vector), atol=1e-10, rtol=0)
        assert torch.allclose(
            turned.density[..., None], transformed(plain.density[..., None], domain.lattice, g), atol=1e-10, rtol=0
        )
    moved = exact(State.at_rest(q.roll(1, 0)))
    assert torch.allclose(moved.force, plain.force.roll(1, 0), atol=1e-10, rtol=0)


@each_system
@pytest.mark.parametrize("kind", ["kpm", "petsc"])
@pytest.mark.parametrize("periodic", [True, False])
def test_solvers_keep_their_tolerance(name, system, kind, periodic):
    domain, hamiltonian, q = system_on(name, system, periodic)
    for ensemble in ENSEMBLES.values():
        wanted = provider("exact", hamiltonian, domain, ensemble)(State.at_rest(q))
        found = provider(kind, hamiltonian, domain, ensemble, tolerance=1e-6)(State.at_rest(q))
        assert torch.allclose(found.force, wanted.force, atol=1e-6, rtol=0)
        assert torch.allclose(found.density, wanted.density, atol=1e-6, rtol=0)


@each_system
@pytest.mark.parametrize("kind", ["kpm", "petsc"])
def test_sampled_sites_are_those_of_the_whole_lattice(name, system, kind):
    """Also of a Hamiltonian whose bonds move: the force takes those that end at the site, too."""
    domain, hamiltonian, q = system_on(name, system, periodic=name != "square")
    ensemble = ENSEMBLES["grand"]
    wanted = provider("exact", hamiltonian, domain, ensemble)(State.at_rest(q)).force
    found = provider(kind, hamiltonian, domain, ensemble, tolerance=1e-6, sites=3)(State.at_rest(q)).force
    known = ~torch.isnan(found)
    assert int(known.any(dim=-1).sum()) == 3
    assert torch.allclose(found[known], wanted[known], atol=1e-6, rtol=0)


@each_system
@pytest.mark.parametrize("kind", ["exact", "kpm"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_agree_with_one(name, system, kind, ranks):
    domain, hamiltonian, q = system_on(name, system)
    lattice, ensemble = domain.lattice, ENSEMBLES["canonical"]
    serial = provider(kind, hamiltonian, domain, ensemble)(State.at_rest(q))

    def body(transport):
        try:
            part = CartesianDomain(lattice, transport)
            forces_of = provider(kind, hamiltonian, part, ensemble)
        except ConfigError:
            return None
        tile = tuple(slice(*span) for span in part.owned)
        return tile, forces_of(State.at_rest(q[tile].contiguous()))

    for found in run_in_process(ranks, body):
        tile, result = found
        assert torch.allclose(result.force, serial.force[tile], atol=2e-6 if kind == "kpm" else 1e-12, rtol=0)
