"""PETSc forces against exact diagonalization and against KPM: hot, quenched, ordered states, ensembles, sampled sites."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from physics.test_kpm import CANONICAL, build
from physics.test_kpm import state as large_state

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.forces import exact, kpm, petsc
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square

GRAND_CANONICAL = Ensemble("grand-canonical", 0.1, chemical_potential=0.7)
STATES = ["0", "1", "4", "20", "hot"]


@cache
def state(name):
    """A 12x12 part of a state of the quench, or of a hot one."""
    return large_state(name)[:12, :12].contiguous()


@cache
def reference(name, ensemble=CANONICAL):
    return build(exact, (12, 12), ensemble)(State.at_rest(state(name)))


def forces(name, ensemble=CANONICAL, **options):
    q = state(name)
    return build(petsc, tuple(q.shape[:2]), ensemble, **options)(State.at_rest(q))


def difference(result, name, ensemble=CANONICAL):
    return float((result.force - reference(name, ensemble).force).abs().nan_to_num(0).max())


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("tolerance", [1e-6, 1e-3])
def test_tolerance_is_met(name, tolerance):
    result = forces(name, tolerance=tolerance)
    assert difference(result, name) <= tolerance
    assert difference(result, name) <= 2 * result.info["error_estimate"] <= 2 * tolerance
    assert float(result.density.mean()) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("tolerance", [1e-5, 1e-7, 1e-9])
@pytest.mark.parametrize("mu", [-2.3, 0.7])
def test_stated_error_at_a_given_potential(tolerance, mu):
    """The filling does not set the mean of the density here: an error of the expansion's constant is seen."""
    ensemble = Ensemble("grand-canonical", 0.1, chemical_potential=mu)
    result = forces("4", ensemble, tolerance=tolerance)
    assert difference(result, "4", ensemble) <= 2 * result.info["error_estimate"] <= 2 * tolerance


def test_smallest_tolerance():
    assert difference(forces("4", tolerance=1e-9), "4") <= 1e-9


def test_blunter_is_cheaper():
    """Fewer poles, each with a right-hand side a site."""
    sharp, blunt = forces("20"), forces("20", tolerance=1e-3)
    assert blunt.info["poles"] < sharp.info["poles"]
    assert blunt.info["right_hand_sides"] < sharp.info["right_hand_sides"]


@pytest.mark.parametrize(
    "ensemble",
    [GRAND_CANONICAL, Ensemble("canonical", 0.1, filling=0.37), Ensemble("canonical", 0.5), Ensemble("canonical", 0.02)],
    ids=["grand-canonical", "doped", "warm", "cold"],
)
def test_ensembles(ensemble):
    result, wanted = forces("4", ensemble), reference("4", ensemble)
    assert difference(result, "4", ensemble) <= 1e-6
    shift = 144 * ensemble.filling * (result.chemical_potential - wanted.chemical_potential)
    moved = 0.0 if ensemble.kind == "grand-canonical" else float(shift)  # Omega + mu N does not depend on the error of mu
    assert float(result.grand_potential) + moved == pytest.approx(float(wanted.grand_potential), abs=1e-6)


def test_force_is_the_derivative_of_the_grand_potential():
    """g n_i = -dOmega/dQ_i at fixed mu, by central differences of its own Omega."""
    forces_of = build(petsc, (8, 8), GRAND_CANONICAL)
    q = torch.randn(8, 8, 1, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    density = forces_of(State.at_rest(q)).density
    step = 1e-3 * torch.zeros_like(q).index_put((torch.tensor(3), torch.tensor(5)), torch.tensor(1.0, dtype=torch.float64))
    ends = [float(forces_of(State.at_rest(q + sign * step)).grand_potential) for sign in (1, -1)]
    assert -(ends[0] - ends[1]) / 2e-3 == pytest.approx(3.5 * float(density[3, 5]), abs=1e-5)


@pytest.mark.parametrize("name", ["0", "20"])
def test_sampled_sites_are_those_of_the_whole(name):
    """No probing error: the poles alone, in either ensemble; elsewhere nothing is claimed."""
    for ensemble in (GRAND_CANONICAL, CANONICAL):
        q, wanted = state(name), reference(name, ensemble)
        result = build(petsc, (12, 12), ensemble, sites=16, seed=3)(State(q=q, velocity=q, forces=wanted))
        kept = ~torch.isnan(result.force)
        assert int(kept.sum()) == 16
        assert torch.equal(kept[..., 0], ~torch.isnan(result.density))
        assert float((result.force - wanted.force)[kept].abs().max()) <= 3e-7
        assert result.grand_potential is None
        assert result.info["right_hand_sides"] == 16 * result.info["poles"]


def test_kpm_and_petsc_agree_where_no_diagonalization_reaches():
    """Two routes with nothing in common but the Hamiltonian, at the mu that KPM found."""
    q = 5.27 * torch.randn(64, 64, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    by_kpm = build(kpm, (64, 64), Ensemble("grand-canonical", 0.1, chemical_potential=0.1), tolerance=1e-4)(State.at_rest(q))
    by_petsc = build(petsc, (64, 64), sites=24)(State(q=q, velocity=q, forces=by_kpm))
    assert float((by_petsc.force - by_kpm.force).abs().nan_to_num(0).max()) <= 1e-4


def test_warm_start_costs_less_and_gives_the_same():
    q = state("4")
    forces_of = build(petsc, (12, 12))
    cold = forces_of(State.at_rest(q))
    warm = forces_of(State(q=q, velocity=q, forces=cold))
    assert torch.allclose(warm.force, cold.force, atol=1e-6, rtol=0)
    assert warm.info["right_hand_sides"] < cold.info["right_hand_sides"]


def test_a_bad_guess_of_mu_costs_solutions_and_no_accuracy():
    q = state("20")
    forces_of = build(petsc, (12, 12), tolerance=1e-4)
    misled = State(q=q + 1.0, velocity=q, forces=forces_of(State.at_rest(q)))  # mu moves by -g
    wanted = build(exact, (12, 12))(misled).force
    assert float((forces_of(misled).force - wanted).abs().max()) <= 1e-4


@pytest.mark.parametrize("extent", [(14, 12), (12, 9)])
def test_open_edges(extent):
    lattice = square.build(extent, (False, True))
    q = 3.0 * torch.randn(*extent, 1, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    hamiltonian, domain = holstein.build(holstein.Options(), lattice), CartesianDomain(lattice, SerialTransport())
    results = [k.build(k.Options(), hamiltonian, domain, CANONICAL)(State.at_rest(q)).force for k in (petsc, exact)]
    assert float((results[0] - results[1]).abs().max()) <= 1e-6
