"""Clusters of every Hamiltonian on every lattice: exact if they hold the lattice, symmetric, the same on ranks and samples."""

import numpy as np
import pytest
import torch
from conformance.cases import SYSTEMS, build_hamiltonian, build_lattice
from conformance.test_systems import CANONICAL, GRAND_CANONICAL, amplitude, maker, system_on

from hpc_holstein import conformance
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import ConfigError
from hpc_holstein.hamiltonian import peierls
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import chain, square

each_system = pytest.mark.parametrize(("name", "system"), SYSTEMS)


def state_of(hamiltonian):
    return State.at_rest(amplitude(hamiltonian) * conformance.random_coordinates(hamiltonian))


def whole(hamiltonian):
    return CartesianDomain(hamiltonian.lattice, SerialTransport())


@each_system
@pytest.mark.parametrize(("periodic", "core"), [(True, 1), (True, 3), (False, 4)])
@pytest.mark.parametrize("ensemble", [CANONICAL, GRAND_CANONICAL, Ensemble("canonical", 0.0, filling=0.31)])
def test_clusters_that_hold_the_lattice_are_exact(name, system, periodic, core, ensemble):
    """At kT = 0 the last level is filled in part: the bond orders follow the density."""
    cells = {1: 9, 2: 4, 3: 3}[len(build_lattice(name, 2).extent)]
    hamiltonian = build_hamiltonian(system, build_lattice(name, cells, periodic))
    state, domain = state_of(hamiltonian), whole(hamiltonian)
    found = maker("local", hamiltonian, ensemble, reach=cells, core=core)(domain)(state)
    wanted = maker("exact", hamiltonian, ensemble)(domain)(state)
    assert torch.allclose(found.force, wanted.force, atol=1e-9, rtol=0)
    assert torch.allclose(found.density, wanted.density, atol=1e-10, rtol=0)


@each_system
@pytest.mark.parametrize("embedding", [0, 1])
def test_clusters_on_ranks(name, system, embedding):
    hamiltonian = system_on(name, system)
    make = maker("local", hamiltonian, CANONICAL, reach=1, embedding=embedding)
    conformance.check_forces(make, hamiltonian, CANONICAL, amplitude(hamiltonian), 0, (2,))


@pytest.mark.parametrize(("name", "system"), [one for one in SYSTEMS if one[0] in ("chain", "square", "cubic")])
def test_clusters_have_the_symmetry_of_the_lattice(name, system):
    """Windows are boxes of cells, which have the symmetry of these lattices."""
    hamiltonian = system_on(name, system)
    forces = maker("local", hamiltonian, CANONICAL, reach=1)(whole(hamiltonian))
    conformance.check_symmetry(forces, hamiltonian, state_of(hamiltonian).q)


@each_system
@pytest.mark.parametrize(("core", "embedding"), [(1, 0), (2, 0), (1, 2)])
def test_sampled_sites_are_those_of_all_clusters(name, system, core, embedding):
    hamiltonian = system_on(name, system, periodic=name != "square")
    state, domain, options = state_of(hamiltonian), whole(hamiltonian), {"reach": 1, "core": core, "embedding": embedding}
    wanted = maker("local", hamiltonian, GRAND_CANONICAL, **options)(domain)(state).force
    found = maker("local", hamiltonian, GRAND_CANONICAL, sites=3, **options)(domain)(state).force
    known = ~torch.isnan(found)
    assert int(known.any(dim=-1).sum()) == 3
    assert torch.allclose(found[known], wanted[known], atol=1e-12, rtol=0)


def test_embedding_against_loops_over_the_sites():
    """A chain: the window around each end of a bond has displacements, the sites beyond have none."""
    u, reach, embedding, kT, mu = 0.2 * np.random.default_rng(3).normal(size=15), 2, 3, 0.3, -0.2
    hamiltonian = peierls.build(peierls.Options(t2=0.0), chain.build((15,)))
    t0, a, k0, kappa = (hamiltonian.parameters[name] for name in ("t0", "alpha", "k0", "kappa"))

    def order(centre, i, j):
        places = range(centre - reach - embedding, centre + reach + embedding + 1)
        inside = {x: u[x % 15] if abs(x - centre) <= reach else 0.0 for x in places}
        h = np.diag([-(t0 - a * (inside[x + 1] - inside[x])) for x in places[:-1]], 1)
        energies, states = np.linalg.eigh(h + h.T)
        row = {x: n for n, x in enumerate(places)}
        return (states[row[i]] * states[row[j]]) @ (1 / (np.exp((energies - mu) / kT) + 1))

    bond = np.array([(order(x, x, x + 1) + order(x + 1, x, x + 1)) / 2 for x in range(15)])
    wanted = -k0 * u - kappa * (np.roll(u, 1) + np.roll(u, -1)) + 2 * a * (bond - np.roll(bond, 1))
    make = maker("local", hamiltonian, Ensemble("grand-canonical", kT, chemical_potential=mu), reach=2, embedding=3)
    found = make(whole(hamiltonian))(State.at_rest(torch.from_numpy(u).reshape(15, 1, 1)))
    np.testing.assert_allclose(found.force.flatten(), wanted, atol=1e-11)


def test_windows_in_the_undistorted_lattice_are_nearer_to_exact():
    """Weakly distorted, cold Peierls: an open edge reflects, the undistorted lattice does not."""
    hamiltonian = peierls.build(peierls.Options(), square.build((14, 14)))
    state, domain = State.at_rest(0.1 * conformance.random_coordinates(hamiltonian)), whole(hamiltonian)
    ensemble = Ensemble("canonical", 0.2)
    exact = maker("exact", hamiltonian, ensemble)(domain)(state).force
    errors = [
        float((maker("local", hamiltonian, ensemble, reach=2, embedding=e)(domain)(state).force - exact).square().mean())
        for e in (0, 3)
    ]
    assert errors[1] < 0.5 * errors[0]


def test_refusals():
    hamiltonian = peierls.build(peierls.Options(), square.build((8, 8)))
    with pytest.raises(ConfigError, match=r"clusters of 1x1 cells do not hold the bonds .* give a reach of 1 or more"):
        maker("local", hamiltonian, CANONICAL, reach=0)(whole(hamiltonian))
    with pytest.raises(ConfigError, match="embedding = -1"):
        maker("local", hamiltonian, CANONICAL, embedding=-1)(whole(hamiltonian))
