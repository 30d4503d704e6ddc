"""The chemical potential in a gap that is wide against kT: one value, whoever computes it, or a word that nobody can tell."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.forces import atomic, exact, kpm, local
from hpc_holstein.forces._filling import fill, potential_uncertainty
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, ForceResult, State
from hpc_holstein.lattice import square
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.validation import ForceSource, compare

KT = 0.1


def ordered(extent: tuple[int, int], amplitude: float = 5.0, seed: int = 0) -> Tensor:
    """A checkerboard that is not symmetric under the exchange of electrons and holes."""
    y, x = np.indices(extent)
    noise = np.random.default_rng(seed).normal(0, 0.3, extent)
    return torch.from_numpy(amplitude * (-1.0) ** (y + x) + 0.48 + noise)[..., None, None]


def result(kind, q: Tensor, kT: float = KT, filling: float = 0.5, t: float = 1.0, transport=None, **options) -> ForceResult:
    lattice = square.build(tuple(q.shape[-4:-2]))
    system = holstein.build(holstein.Options(t=t), lattice)
    domain = CartesianDomain(lattice, transport or SerialTransport())
    tile = tuple(slice(*span) for span in domain.owned)
    provider = kind.build(kind.Options(**options), system, domain, Ensemble("canonical", kT, filling))
    return provider(State.at_rest(q[..., *tile, :, :].contiguous()))


@pytest.mark.parametrize("extent", [(2, 4), (4, 4), (2, 2), (6, 4)])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kT", [0.0, 0.01, KT])
def test_clusters_that_are_the_whole_lattice_have_the_exact_potential(extent, seed, kT) -> None:
    q = ordered(extent, seed=seed)
    true, found = result(exact, q, kT), result(local, q, kT, reach=3)
    assert float(found.chemical_potential) == pytest.approx(float(true.chemical_potential), abs=1e-9)
    assert float(found.grand_potential) == pytest.approx(float(true.grand_potential), abs=1e-8)
    assert found.info["mu_uncertainty"] > 1
    if kT == KT:
        assert float(result(kpm, q).chemical_potential) == pytest.approx(float(true.chemical_potential), abs=1e-6)


@pytest.mark.parametrize("filling", [0.5, 0.25, 0.4])
@pytest.mark.parametrize("kT", [0.0, 0.01, KT])
def test_without_hopping_the_atomic_limit_has_the_exact_potential(filling, kT) -> None:
    q = ordered((4, 6))
    q[1, 2] = 1.0  # a level in the gap
    true, found = result(exact, q, kT, filling, t=0.0), result(atomic, q, kT, filling)
    np.testing.assert_allclose(found.density, true.density, atol=1e-12)
    assert float(found.chemical_potential) == pytest.approx(float(true.chemical_potential), abs=1e-9)
    clusters = result(local, q, kT, filling, reach=0)  # of one site
    assert float(clusters.chemical_potential) == pytest.approx(float(true.chemical_potential), abs=1e-9)


@pytest.mark.parametrize("reach", [2, 3])
def test_truncated_clusters_are_close_to_the_exact_potential(reach) -> None:
    """An electron number that is off by 1e-8 a site does not push mu to the edge of the gap."""
    q = ordered((8, 8), 4.0)
    true, found = result(exact, q), result(local, q, reach=reach)
    assert float(found.chemical_potential) == pytest.approx(float(true.chemical_potential), abs=0.5 * KT)
    energy = [float(one.grand_potential + 32 * one.chemical_potential) for one in (true, found)]
    assert energy[1] == pytest.approx(energy[0], abs=3e-5)  # of the levels that are truncated


def test_outside_of_a_gap_nothing_changes() -> None:
    q = 5 * torch.randn(8, 8, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for kind, options in ((exact, {}), (local, {"reach": 4}), (kpm, {}), (atomic, {})):
        assert result(kind, q, **options).info["mu_uncertainty"] < 0.01 * KT


def test_a_batch_has_the_potentials_of_its_states_alone() -> None:
    hot = 5 * torch.randn(6, 8, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    states = torch.stack([ordered((6, 8)), hot, ordered((6, 8), seed=3)])
    for kind in (atomic, local):
        together = result(kind, states).chemical_potential
        assert together.tolist() == [float(result(kind, one).chemical_potential) for one in states]


@pytest.mark.parametrize("kind", [atomic, local])
def test_on_any_ranks(kind) -> None:
    q, options = ordered((8, 12)), {"reach": 2} if kind is local else {}
    alone = float(result(kind, q, **options).chemical_potential)
    found = run_in_process(2, lambda transport: float(result(kind, q, transport=transport, **options).chemical_potential))
    assert found == [alone, alone]


def test_uncertainty_is_how_far_the_filling_stays() -> None:
    levels = np.array([-5.0, -4.0, 4.5, 6.0])
    mu, _ = fill(levels, 2.0, 0.3)
    x = (mu - levels) / 0.3
    width = potential_uncertainty(float(np.mean(1 / (4 * np.cosh(x / 2) ** 2))), 0.3, resolved=1e-4)
    moved = np.mean(1 / (1 + np.exp((levels - mu - width) / 0.3))) - 0.5
    assert moved == pytest.approx(1e-4, rel=1e-3)
    assert math.isfinite(potential_uncertainty(0.0, 0.01))


def test_validate_does_not_count_a_potential_that_the_density_does_not_tell() -> None:
    lattice = square.build((6, 6))
    system, ensemble = holstein.build(holstein.Options(), lattice), Ensemble("canonical", KT)
    gapped = Snapshots.of(ordered((6, 6))[..., 0, 0].numpy()[None])
    hot = Snapshots.of(5 * np.random.default_rng(0).normal(size=(1, 6, 6)))

    def side(kind, **options) -> ForceSource:
        return ForceSource(kind.__name__, lambda domain: kind.build(kind.Options(**options), system, domain, ensemble))

    def error(states: Snapshots) -> float | None:
        found = compare(side(atomic), side(exact), states, lattice, SerialTransport())
        return found.metrics["all"]["chemical_potential_max_error"]

    assert error(gapped) == 0
    assert error(hot) > 0.01


@pytest.mark.parametrize("kT", [0.05, 0.0])
@pytest.mark.parametrize("kind", [atomic, local])
def test_sorted_and_summed_levels_agree(kind, kT, monkeypatch):
    """In a gap of hundreds of kT ``f (1 - f)`` is below what a sum over ranks keeps, and counts all the same."""
    q = ordered((6, 8))
    options = {"reach": 8} if kind is local else {}
    wanted = result(atomic if kind is atomic else exact, q, kT)
    monkeypatch.setattr("hpc_holstein.forces._atomic._SORTED", 0)
    found = result(kind, q, kT, **options)
    assert float(found.chemical_potential) == pytest.approx(float(wanted.chemical_potential), abs=1e-9)
    assert found.info["mu_uncertainty"] == pytest.approx(wanted.info["mu_uncertainty"], rel=1e-6)
