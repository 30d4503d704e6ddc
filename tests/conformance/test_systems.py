"""Every Hamiltonian on every lattice that it builds on: forces that are gradients, symmetry, providers that agree."""

import re
from pathlib import Path

import pytest
import torch
from conformance.cases import LATTICES, SQUARE_ALONE, SYSTEMS, build_hamiltonian, build_lattice, load

from hpc_holstein import conformance, forces
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import ConfigError
from hpc_holstein.hamiltonian.holstein import Holstein, Options
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square
from hpc_holstein.lattice._bravais import BravaisLattice

CELLS = {1: 12, 2: 6, 3: 3}  # along each axis: of 1, 2 and 3 dimensions, small enough for finite differences
AMPLITUDE = {"scalar": 2.0, "vector": 0.1, "e_g": 1.0}  # of the coordinates
CANONICAL = Ensemble("canonical", kT=0.2, filling=0.4)
GRAND_CANONICAL = Ensemble("grand-canonical", kT=0.2, chemical_potential=0.3)

each_system = pytest.mark.parametrize(("name", "system"), SYSTEMS)


def system_on(name, system, periodic=True):
    lattice = build_lattice(name, CELLS[len(build_lattice(name, 1).extent)], periodic)
    return build_hamiltonian(system, lattice)


def amplitude(hamiltonian):
    return AMPLITUDE[hamiltonian.coordinates.representation]


def maker(kind, hamiltonian, ensemble, **options):
    """Builds a provider on a domain."""
    module = load(forces, kind)
    return lambda domain: module.build(module.Options(**options), hamiltonian, domain, ensemble)


@pytest.mark.parametrize("name", LATTICES)
def test_lattice(name):
    conformance.check_lattice(build_lattice(name, 6))


@each_system
@pytest.mark.parametrize("periodic", [True, False])
def test_hamiltonian(name, system, periodic):
    hamiltonian = system_on(name, system, periodic)
    conformance.check_hamiltonian(hamiltonian, amplitude(hamiltonian))


@each_system
@pytest.mark.parametrize("ensemble", [CANONICAL, GRAND_CANONICAL], ids=["canonical", "grand"])
@pytest.mark.parametrize(("kind", "ranks"), [("exact", (2, 4)), ("kpm", (2, 4)), ("petsc", ())])
def test_solver(name, system, kind, ranks, ensemble):
    hamiltonian = system_on(name, system)
    options = {} if kind == "exact" else {"tolerance": 1e-6}
    conformance.check_forces(
        maker(kind, hamiltonian, ensemble, **options), hamiltonian, ensemble, amplitude(hamiltonian), 0, ranks
    )


@each_system
@pytest.mark.parametrize("kind", ["kpm", "petsc"])
def test_solver_with_open_edges(name, system, kind):
    hamiltonian = system_on(name, system, periodic=False)
    make = maker(kind, hamiltonian, CANONICAL, tolerance=1e-6)
    conformance.check_forces(make, hamiltonian, CANONICAL, amplitude(hamiltonian), 0, ())


@pytest.mark.parametrize("name", sorted(set(LATTICES) - {"square"}))
@pytest.mark.parametrize("system", sorted(SQUARE_ALONE))
def test_orbitals_without_overlaps_are_refused(name, system):
    with pytest.raises(ConfigError, match=r"set lattice\.kind = 'square'"):
        system_on(name, system)


@each_system
def test_pattern_lists_the_diagonal_first(name, system):
    hamiltonian = system_on(name, system)
    for state, bond in enumerate(hamiltonian.pattern[: hamiltonian.states]):
        assert (bond.source, bond.target) == (state, state)
        assert not any(bond.offset)
    assert max(abs(step) for bond in hamiltonian.pattern for step in bond.offset) == hamiltonian.reach
    assert all(isinstance(value, float) for value in hamiltonian.parameters.values())


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
@pytest.mark.parametrize("kind", ["kpm", "petsc"])
def test_sampled_sites_are_those_of_the_whole_lattice(name, system, kind):
    """Also of a Hamiltonian whose bonds move: the force takes those that end at the site, too."""
    hamiltonian = system_on(name, system, periodic=name != "square")
    domain, q = CartesianDomain(hamiltonian.lattice, SerialTransport()), conformance.random_coordinates(hamiltonian)
    q *= amplitude(hamiltonian)
    wanted = maker("exact", hamiltonian, GRAND_CANONICAL)(domain)(State.at_rest(q)).force
    found = maker(kind, hamiltonian, GRAND_CANONICAL, tolerance=1e-6, sites=3)(domain)(State.at_rest(q)).force
    known = ~torch.isnan(found)
    assert int(known.any(dim=-1).sum()) == 3
    assert torch.allclose(found[known], wanted[known], atol=1e-6, rtol=0)


# --- a check that cannot fail is none -------------------------------------------------------------------------------------


def test_a_lattice_with_a_symmetry_that_it_has_not_is_found():
    vectors, mirror, exchange = ((0.0, 1.0), (1.0, 0.0)), ((1, 0), (0, -1)), ((0, 1), (1, 0))
    plain = BravaisLattice("oblong", (6, 6), (True, True), ((0.0, 1.5), (1.0, 0.0)), ((0.0, 0.0),), (mirror,))
    conformance.check_lattice(plain)
    halved = BravaisLattice("halved", (6, 6), (True, True), vectors, ((0.0, 0.0), (0.0, 0.5)), (exchange,))
    with pytest.raises(ConfigError, match="do not map the sites"):
        conformance.check_lattice(halved)


class WrongSign(Holstein):
    """Holstein whose written electronic force points the other way."""

    def electronic_force(self, ghosted_q, halo, rho, domain):
        return -super().electronic_force(ghosted_q, halo, rho, domain)


def test_a_wrong_force_is_found():
    with pytest.raises(conformance.ConformanceError, match="the electronic force differs from its vector-Jacobian product"):
        conformance.check_hamiltonian(WrongSign(square.build((4, 4)), Options()))


def test_a_provider_beyond_its_tolerance_is_found():
    hamiltonian = system_on("square", "holstein")

    class Sloppy:
        reach, tolerance = None, 1e-6

        def __init__(self, domain):
            self._forces = maker("exact", hamiltonian, CANONICAL)(domain)

        def __call__(self, state):
            result = self._forces(state)
            result.force.add_(1e-5)
            return result

    with pytest.raises(conformance.ConformanceError, match=r"the force differs from exact diagonalization by 1\.00e-05"):
        conformance.check_forces(Sloppy, hamiltonian, CANONICAL, ranks=())


def test_the_page_on_extending_builds_a_lattice_and_a_hamiltonian():
    """Its first three Python blocks, in order, as one program; the others are files, see ``test_own_kinds.py``."""
    page = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {}
    exec("\n".join(blocks[:3]), names)
    lieb, breathing = names["lieb"], names["Breathing"]
    hamiltonian = breathing(lieb((4, 4)))
    conformance.check_forces(maker("kpm", hamiltonian, CANONICAL, tolerance=1e-6), hamiltonian, CANONICAL, ranks=(2,))
