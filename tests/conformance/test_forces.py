"""Every force provider of ``hpc_holstein/forces``: symmetry, ensembles, decomposition, batches, what it promises."""

import dataclasses

import numpy as np
import pytest
import torch
from conformance.cases import CANONICAL, FORCES, KT, moved, provider, random_q, rms
from scipy.optimize import brentq
from scipy.special import expit

from hpc_holstein.domain.transport import run_in_process
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square

GRAND_CANONICAL = Ensemble("grand-canonical", kT=KT, chemical_potential=0.7)
ENSEMBLES = {"half": CANONICAL, "doped": Ensemble("canonical", kT=KT, filling=0.4), "grand": GRAND_CANONICAL}
WITH_MU = [case for case in FORCES if case.knows_mu]
IN_ENSEMBLES = [
    pytest.param(case, ensemble, id=f"{case}-{name}")
    for case in FORCES
    for name, ensemble in ENSEMBLES.items()
    if name == "half" or case.knows_mu
]

each_provider = pytest.mark.parametrize("case", FORCES, ids=str)
each_with_mu = pytest.mark.parametrize("case", WITH_MU, ids=str)
each_in_ensembles = pytest.mark.parametrize(("case", "ensemble"), IN_ENSEMBLES)


@each_in_ensembles
def test_point_group_and_translations(case, ensemble):
    """F(gQ) = gF(Q) for every element of the point group and for translations, at round-off."""
    forces_of = provider(case, ensemble)
    q = random_q(10, 10)
    plain = forces_of(State.at_rest(q))
    for matrix in square.build((10, 10)).point_group.matrices:
        turned = forces_of(State.at_rest(moved(q, matrix)))
        assert torch.allclose(turned.force, moved(plain.force, matrix), atol=1e-10, rtol=0)
        assert torch.allclose(turned.density, moved(plain.density, matrix), atol=1e-10, rtol=0)
    for shift in ((1, 0), (3, 7)):
        there = forces_of(State.at_rest(q.roll(shift, (0, 1))))
        assert torch.allclose(there.force, plain.force.roll(shift, (0, 1)), atol=1e-10, rtol=0)


@each_with_mu
def test_particle_hole(case):
    """At half filling the force is odd; at fixed mu, n(-Q, -mu) = 1 - n(Q, mu)."""
    q = random_q(10, 10)
    minus_mu = dataclasses.replace(GRAND_CANONICAL, chemical_potential=-0.7)
    for here, there in ((CANONICAL, CANONICAL), (GRAND_CANONICAL, minus_mu)):
        # The contour of PETSc runs around the occupied levels: its errors are not those of the empty ones.
        asked = {"tolerance": 1e-8} if case.kind == "petsc" else {}
        plus, minus = provider(case, here, **asked)(State.at_rest(q)), provider(case, there, **asked)(State.at_rest(-q))
        assert torch.allclose(minus.density, 1 - plus.density, atol=1e-10, rtol=0)
        assert torch.allclose(minus.force, -plus.force, atol=1e-9, rtol=0)


@each_with_mu
@pytest.mark.parametrize("filling", [0.5, 0.27])
def test_canonical_particle_number(case, filling):
    """From a cold and from a warm start."""
    forces_of = provider(case, Ensemble("canonical", kT=KT, filling=filling))
    cold = forces_of(State.at_rest(random_q(10, 10)))
    warm = forces_of(State(q=random_q(10, 10) + 0.01, velocity=random_q(10, 10), forces=cold))
    for result in (cold, warm):
        assert float(result.density.mean()) == pytest.approx(filling, abs=1.1e-10)


@each_with_mu
@pytest.mark.parametrize("ensemble", ENSEMBLES.values(), ids=ENSEMBLES)
def test_shifted_field_holds_all_that_mu_does(case, ensemble):
    """n(Q, mu) = n(Q + mu/g, 0): a canonical density is the grand-canonical one at its own mu.

    Up to the error of its last, linear step in mu, which is bounded by 1e-5 on every site.
    """
    q = random_q(10, 10)
    result = provider(case, ensemble)(State.at_rest(q))
    at_zero = provider(case, Ensemble("grand-canonical", kT=KT))
    same = at_zero(State.at_rest(q + result.chemical_potential / 3.5))
    assert torch.allclose(same.density, result.density, atol=1e-5, rtol=0)


@each_provider
@pytest.mark.parametrize(("size", "grid"), [(2, (2, 1)), (4, (1, 4)), (4, (2, 2))])
def test_ranks_agree_with_one(case, size, grid):
    """On 2x1, 1x4 and 2x2 ranks, cold and from a warm start, to round-off."""
    cells = (8, 8) if provider(case).reach is None else (20, 20)
    q = random_q(*cells)

    def two_steps(forces_of, owned):
        cold = forces_of(State.at_rest(owned))
        return forces_of(State(q=owned + 0.01, velocity=owned, forces=cold))

    serial = two_steps(provider(case, cells=cells), q)

    def body(transport):
        forces_of = provider(case, cells=cells, transport=transport, grid=grid)
        (top, bottom), (left, right) = forces_of.domain.owned
        tile = (slice(top, bottom), slice(left, right))
        return tile, two_steps(forces_of, q[tile].contiguous())

    for tile, result in run_in_process(size, body):
        assert torch.allclose(result.force, serial.force[tile], atol=1e-10, rtol=0)
        assert torch.allclose(result.density, serial.density[tile], atol=1e-10, rtol=0)
        assert torch.allclose(result.chemical_potential, serial.chemical_potential, atol=1e-10, rtol=0, equal_nan=True)
        if serial.grand_potential is not None:
            assert torch.allclose(result.grand_potential, serial.grand_potential, atol=1e-8, rtol=0)


@each_in_ensembles
def test_batch_is_state_by_state(case, ensemble):
    forces_of = provider(case, ensemble)
    q = random_q(2, 2, 10, 10)
    together = forces_of(State.at_rest(q))
    assert together.force.shape == q.shape
    assert together.density.shape == q.shape[:-1]
    assert together.chemical_potential.shape == (2, 2)
    for index in ((0, 0), (1, 0)):
        alone = forces_of(State.at_rest(q[index]))
        assert alone.chemical_potential.shape == ()
        assert torch.allclose(together.force[index], alone.force, atol=1e-10, rtol=0)
        assert torch.allclose(together.chemical_potential[index], alone.chemical_potential, atol=1e-10, equal_nan=True)


@each_in_ensembles
def test_single_precision(case, ensemble):
    forces_of = provider(case, ensemble)
    q = random_q(10, 10, dtype=torch.float32)
    single, double = forces_of(State.at_rest(q)), forces_of(State.at_rest(q.double()))
    assert single.force.dtype == single.density.dtype == torch.float32
    assert rms(single.force - double.force) < 1e-3
    assert not single.force.requires_grad


@each_provider
def test_reach_is_honest(case):
    """At fixed mu a coordinate further away than ``reach`` changes nothing, and a near one does."""
    forces_of = provider(case, GRAND_CANONICAL if case.knows_mu else CANONICAL, cells=(12, 12))
    reach = 12 if forces_of.reach is None else forces_of.reach
    q = random_q(12, 12)
    changed = q.clone()
    changed[0, 0] += 1.0
    before, after = forces_of(State.at_rest(q)).force, forces_of(State.at_rest(changed)).force
    away = torch.minimum(torch.arange(12), 12 - torch.arange(12))
    beyond = torch.maximum(away[:, None], away[None]) > reach
    assert torch.allclose(before[beyond], after[beyond], atol=1e-12, rtol=0)
    assert (before - after)[~beyond].abs().max() > 1e-3
    assert beyond.any() == (forces_of.reach is not None)


def reference_force(Q, ensemble):
    """Total force on an ``n x n`` torus at the preset by NumPy alone: dense H, all eigenvectors, mu by bracketing."""
    n = len(Q)
    site = np.arange(n * n).reshape(n, n)
    H = np.diag(-3.5 * Q.ravel())
    for axis in (0, 1):
        for step in (1, -1):
            H[site.ravel(), np.roll(site, step, axis).ravel()] -= 1.0
    e, v = np.linalg.eigh(H)
    mu = ensemble.chemical_potential
    if ensemble.kind == "canonical":
        mu = brentq(lambda m: expit((m - e) / KT).mean() - ensemble.filling, e[0] - 1, e[-1] + 1, xtol=1e-14, rtol=1e-15)
    density = (v**2 @ expit((mu - e) / KT)).reshape(n, n)
    neighbours = sum(np.roll(Q, step, axis) for axis in (0, 1) for step in (1, -1))
    return 3.5 * (density - 0.5) - Q - 0.18 * neighbours


@each_in_ensembles
def test_promised_tolerance(case, ensemble):
    """max |dF| against an independent diagonalization, hot and ordered, is what the provider promises, if it does."""
    forces_of = provider(case, ensemble)
    sign = 1 - 2 * (torch.arange(10)[:, None] + torch.arange(10)).remainder(2).double()[..., None, None]
    for q in (random_q(10, 10, std=5.27), 2 * sign + random_q(10, 10, std=0.2)):
        force = forces_of(State.at_rest(q)).force[..., 0, 0].numpy()
        difference = np.abs(force - reference_force(q[..., 0, 0].numpy(), ensemble)).max()
        assert np.isfinite(difference)
        assert forces_of.tolerance is None or difference <= forces_of.tolerance
