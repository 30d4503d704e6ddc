"""The chemical potential before anything is solved, against that of the whole spectrum."""

import pytest
import torch

from hpc_holstein.conformance import random_coordinates
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.forces import exact
from hpc_holstein.forces._first_guess import LocalSpectra
from hpc_holstein.forces._resolvent import Resolvent
from hpc_holstein.hamiltonian import holstein, peierls
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import honeycomb, square

KT = 0.1
FILLINGS = (0.2, 0.37, 0.5)


def guess(hamiltonian, q, filling, kT=KT):
    domain = CartesianDomain(hamiltonian.lattice, SerialTransport())
    return float(LocalSpectra.of(hamiltonian, domain, q[None], kT).chemical_potential(filling))


def solved(hamiltonian, q, filling):
    domain = CartesianDomain(hamiltonian.lattice, SerialTransport())
    forces = exact.build(exact.Options(), hamiltonian, domain, Ensemble("canonical", KT, filling))
    return float(forces(State.at_rest(q)).chemical_potential)


@pytest.mark.parametrize("filling", FILLINGS)
@pytest.mark.parametrize("lattice", [square, honeycomb])
@pytest.mark.parametrize("spread", [1.0, 5.0])
def test_holstein(lattice, spread, filling):
    hamiltonian = holstein.build(holstein.Options(), lattice.build((12, 12)))
    q = spread * random_coordinates(hamiltonian)
    assert guess(hamiltonian, q, filling) == pytest.approx(solved(hamiltonian, q, filling), abs=0.5)


@pytest.mark.parametrize("filling", [*FILLINGS, 0.8])
def test_bonds_without_levels(filling):
    """The band of the Peierls model is 20 wide; without its bonds the guess would be 0, up to 5 off."""
    hamiltonian = peierls.build(peierls.Options(), square.build((14, 14)))
    q = 0.1 * random_coordinates(hamiltonian)
    assert guess(hamiltonian, q, filling) == pytest.approx(solved(hamiltonian, q, filling), abs=2.0)


def test_alternating_levels_are_sharp():
    """In the ordered state no two neighbours are in resonance: the guess lies in the lower band, or in the gap."""
    hamiltonian = holstein.build(holstein.Options(), square.build((8, 8)))
    y, x = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    q = 5.0 * (1.0 - 2.0 * ((y + x) % 2))[..., None, None].double()
    assert guess(hamiltonian, q, 0.3) == pytest.approx(-17.5, abs=0.6)
    assert abs(guess(hamiltonian, q, 0.5)) < 1e-9


def test_open_edges_have_no_bonds():
    """A chain of one row with open edges, the widths of its ends."""
    lattice = square.build((1, 3), (False, False))
    hamiltonian = peierls.build(peierls.Options(t0=2.0, t2=0.0), lattice)
    q = torch.zeros(1, 1, 3, 1, 2, dtype=torch.float64)
    widths = LocalSpectra.of(hamiltonian, CartesianDomain(lattice, SerialTransport()), q, 0.0).widths.flatten()
    assert torch.allclose(widths.square(), torch.tensor([4.0, 8.0, 4.0], dtype=torch.float64) * 3 / torch.pi**2)


def test_levels_that_nothing_broadens():
    hamiltonian = holstein.build(holstein.Options(t=0.0), square.build((6, 6)))
    q = random_coordinates(hamiltonian)
    levels = (-3.5 * q).flatten().sort().values
    assert float(levels[17]) - 0.01 < guess(hamiltonian, q, 0.5, kT=0.0) < float(levels[18]) + 0.01


def test_ranks_agree():
    lattice = square.build((8, 8))
    hamiltonian = peierls.build(peierls.Options(), lattice)
    q = 0.1 * random_coordinates(hamiltonian)

    def body(transport):
        domain = CartesianDomain(lattice, transport)
        tile = tuple(slice(*span) for span in domain.owned)
        spectra = LocalSpectra.of(hamiltonian, domain, q[tile][None].contiguous(), KT)
        mu = spectra.chemical_potential(0.37)
        return float(mu), float(spectra.slope(mu))

    alone, *others = (run_in_process(1, body)[0], *run_in_process(2, body), *run_in_process(4, body))
    assert all(one == pytest.approx(alone, rel=1e-12) for one in others)


@pytest.mark.parametrize("filling", FILLINGS)
def test_a_previous_potential_of_bonds_alone_is_taken_up(filling):
    """Sums over poles held it against the on-site levels, which for Peierls at low temperature refused every one."""
    hamiltonian = peierls.build(peierls.Options(), square.build((12, 12)))
    q = 0.1 * random_coordinates(hamiltonian)
    domain, ensemble = CartesianDomain(hamiltonian.lattice, SerialTransport()), Ensemble("canonical", 0.02, filling)
    resolvent = Resolvent(hamiltonian, domain, ensemble, None, SerialTransport(), 1e-6, None)
    previous = solved(hamiltonian, q, filling)
    assert resolvent._start(resolvent._problem(q), previous) == previous
