"""The cooperative Jahn-Teller model against closed forms: bands, levels of single sites, and the truncation of clusters."""

import numpy as np
import pytest
import torch

from hpc_holstein import dynamics
from hpc_holstein.conformance import random_coordinates
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.forces import atomic, exact, kpm, local
from hpc_holstein.forces._elements import WholeMatrix, electron_domain
from hpc_holstein.hamiltonian import jahn_teller
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square
from hpc_holstein.output import observables

CANONICAL = Ensemble("canonical", kT=0.2, filling=0.4)


def system(cells=(6, 8), **options):
    lattice = square.build(cells)
    return jahn_teller.build(jahn_teller.Options(**options), lattice), CartesianDomain(lattice, SerialTransport())


def spectrum(hamiltonian, domain, q):
    whole = WholeMatrix(hamiltonian, electron_domain(hamiltonian, domain))
    size = hamiltonian.lattice.sites * hamiltonian.orbitals
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix.index_put_((whole.rows, whole.columns), whole.values(q), accumulate=True)
    return torch.linalg.eigvalsh(matrix).numpy()


def test_bands_without_distortions():
    """``E = -t (cx + cy +- (cx^2 + cy^2 - cx cy)^(1/2))`` with ``c = cos k``."""
    hamiltonian, domain = system(t=0.7)
    found = spectrum(hamiltonian, domain, torch.zeros(6, 8, 1, 2, dtype=torch.float64))
    cy, cx = (np.cos(2 * np.pi * np.arange(n) / n) for n in (6, 8))
    cy, cx = np.meshgrid(cy, cx, indexing="ij")
    root = np.sqrt(cx**2 + cy**2 - cx * cy)
    bands = np.sort(np.concatenate([(-0.7 * (cx + cy + sign * root)).ravel() for sign in (1, -1)]))
    np.testing.assert_allclose(found, bands, rtol=0, atol=1e-12)


def test_levels_of_single_sites():
    """``E = +-lam |Q|`` without hopping, where exact forces are those of the atomic limit."""
    hamiltonian, domain = system(t=0.0, lam=1.3)
    q = random_coordinates(hamiltonian)
    lengths = q.square().sum(dim=-1).sqrt().flatten().numpy()
    np.testing.assert_allclose(spectrum(hamiltonian, domain, q), np.sort(1.3 * np.concatenate([lengths, -lengths])), atol=1e-12)
    found, wanted = (kind.build(kind.Options(), hamiltonian, domain, CANONICAL)(State.at_rest(q)) for kind in (atomic, exact))
    torch.testing.assert_close(found.force, wanted.force, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.density, wanted.density, rtol=0, atol=1e-9)
    assert float(found.density.mean()) == pytest.approx(2 * CANONICAL.filling, abs=1e-12)
    torch.testing.assert_close(found.grand_potential, wanted.grand_potential, rtol=0, atol=1e-8)


def test_clusters_without_reach_are_single_sites():
    hamiltonian, domain = system()
    q = random_coordinates(hamiltonian)
    one = local.build(local.Options(reach=0, core=1), hamiltonian, domain, CANONICAL)(State.at_rest(q))
    other = atomic.build(atomic.Options(), hamiltonian, domain, CANONICAL)(State.at_rest(q))
    torch.testing.assert_close(one.force, other.force, rtol=0, atol=1e-8)


def test_clusters_converge_to_exact_forces():
    hamiltonian, domain = system((16, 16))
    q = random_coordinates(hamiltonian)
    wanted = exact.build(exact.Options(), hamiltonian, domain, CANONICAL)(State.at_rest(q)).force
    errors = []
    for reach in (1, 3, 5):
        found = local.build(local.Options(reach=reach), hamiltonian, domain, CANONICAL)(State.at_rest(q)).force
        errors.append(float((found - wanted).square().mean()))
    assert errors[0] > 10 * errors[1] > 100 * errors[2], errors


def test_energy_is_conserved_without_a_thermostat():
    """The electrons of a site are twice the filling: the canonical energy ``Omega + mu N`` has both orbitals."""
    hamiltonian, domain = system((6, 6))
    forces, errors = exact.build(exact.Options(), hamiltonian, domain, CANONICAL), []
    for dt in (0.02, 0.01):
        scheme = dynamics.build("verlet-ou", 1.0, 0.0, dt, CANONICAL.kT)
        state = scheme.init(State.at_rest(random_coordinates(hamiltonian)), forces)
        before = observables.energies(state, 1.0, hamiltonian, domain, CANONICAL)
        for _ in range(round(1 / dt)):
            state = scheme.step(state, forces, lambda step: torch.zeros(()))
        after = observables.energies(state, 1.0, hamiltonian, domain, CANONICAL)
        errors.append(float(after["total"] - before["total"]))
        assert abs(float(after["electronic"] - before["electronic"])) > 0.1
    assert abs(errors[0]) < 1e-3
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_a_sample_of_sites_has_all_orbitals():
    hamiltonian, domain = system()
    q, fixed = random_coordinates(hamiltonian), Ensemble("grand-canonical", kT=0.2, chemical_potential=-0.4)
    wanted = exact.build(exact.Options(), hamiltonian, domain, fixed)(State.at_rest(q))
    found = kpm.build(kpm.Options(tolerance=1e-7, sites=5), hamiltonian, domain, fixed)(State.at_rest(q))
    known = ~torch.isnan(found.density)
    assert int(known.sum()) == 5
    torch.testing.assert_close(found.force[known], wanted.force[known], rtol=0, atol=1e-6)
    torch.testing.assert_close(found.density[known], wanted.density[known], rtol=0, atol=1e-6)
