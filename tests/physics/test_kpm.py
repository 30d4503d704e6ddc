"""KPM forces against exact diagonalization where probing is at work: hot, quenched, ordered states, ranks, dynamics."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.errors import ConfigError
from hpc_holstein.forces import _kernel_fused, exact, kpm
from hpc_holstein.forces._sampled import chosen_sites
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square
from hpc_holstein.training.dataset import read

QUENCH = Path(__file__).parents[1] / "data" / "quench-20x20.h5"
CANONICAL = Ensemble("canonical", 0.1)


def build(kind, extent, ensemble=CANONICAL, transport=None, **options):
    lattice = square.build(extent)
    hamiltonian = holstein.build(holstein.Options(), lattice)
    return kind.build(kind.Options(**options), hamiltonian, CartesianDomain(lattice, transport or SerialTransport()), ensemble)


@cache
def state(name: str) -> torch.Tensor:
    """A state of the recorded quench by its number, or ``hot``: independent sites of the initial spread, 24x30."""
    if name == "hot":
        return 5.27 * torch.randn(24, 30, 1, 1, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    return torch.from_numpy(np.asarray(read(QUENCH).q[int(name)], dtype=np.float64))[..., None, None].contiguous()


@cache
def reference(name: str, ensemble: Ensemble = CANONICAL):
    return build(exact, tuple(state(name).shape[:2]), ensemble)(State.at_rest(state(name)))


def forces(name, ensemble=CANONICAL, dtype=torch.float64, **options):
    q = state(name)
    return build(kpm, tuple(q.shape[:2]), ensemble, **options)(State.at_rest(q.to(dtype)))


def difference(result, name, ensemble=CANONICAL):
    return float((result.force.double() - reference(name, ensemble).force).abs().max())


@pytest.mark.parametrize("name", ["0", "1", "4", "20"])
@pytest.mark.parametrize("tolerance", [1e-6, 1e-3])
def test_tolerance_is_met(name, tolerance):
    result = forces(name, tolerance=tolerance)
    assert difference(result, name) <= tolerance
    assert difference(result, name) <= 2 * result.info["error_estimate"] <= 2 * tolerance
    assert float(result.density.mean()) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("name", ["0", "1", "4", "20", "hot"])
@pytest.mark.parametrize("tolerance", [1e-5, 1e-3])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_error_estimate_is_honest(name, tolerance, seed):
    """Never below the error, and not far above it, whatever the signs."""
    result = forces(name, tolerance=tolerance, seed=seed)
    assert 1 <= result.info["error_estimate"] / difference(result, name) <= 1000
    assert result.info["error_estimate"] <= 1.5 * tolerance


def test_the_error_estimate_sees_a_single_bad_site():
    """A weak link between two sites of one colour: one pair of errors among 400 sites, away from the pilot sites' levels."""
    errors, estimates = [], []
    for level in (0.0, 0.6, 1.2):
        q = 2.0 * (1 - 2 * (torch.arange(20)[:, None] + torch.arange(20)).remainder(2).double())[..., None, None]
        q[3, 2:12] = level + 0.02 * torch.arange(10, dtype=torch.float64)[:, None, None]
        wanted = build(exact, (20, 20))(State.at_rest(q)).force
        result = build(kpm, (20, 20), tolerance=1e-3)(State.at_rest(q))
        errors.append(float((result.force - wanted).abs().max()))
        estimates.append(result.info["error_estimate"])
    assert all(error <= estimate for error, estimate in zip(errors, estimates, strict=True))
    assert max(errors) <= 1e-3


def test_probing_is_at_work():
    """Fewer vectors than sites, and fewer for a blunter tolerance: what the tests of the tolerance rest on."""
    sharp, blunt = forces("20"), forces("20", tolerance=1e-3)
    assert blunt.info["colours"] < sharp.info["colours"] < 400
    assert blunt.info["order"] < sharp.info["order"]


def test_hot_state_on_a_lattice_that_no_spacing_divides():
    result = forces("hot", tolerance=1e-4)
    assert difference(result, "hot") <= 1e-4
    assert result.info["colours"] < 720


@pytest.mark.parametrize("name", ["0", "4", "20"])
def test_single_precision(name):
    result = forces(name, dtype=torch.float32)
    assert result.force.dtype == torch.float32
    assert difference(result, name) <= 2e-4


@pytest.mark.parametrize(
    "ensemble",
    [
        Ensemble("grand-canonical", 0.1, chemical_potential=0.7),
        Ensemble("canonical", 0.1, filling=0.37),
        Ensemble("canonical", 0.5),
    ],
    ids=["grand-canonical", "doped", "warm"],
)
def test_ensembles(ensemble):
    result, wanted = forces("4", ensemble), reference("4", ensemble)
    assert difference(result, "4", ensemble) <= 1e-6
    assert float(result.chemical_potential) == pytest.approx(float(wanted.chemical_potential), abs=1e-4)
    free_energy = [float(one.grand_potential + ensemble.filling * 400 * one.chemical_potential) for one in (result, wanted)]
    if ensemble.kind == "grand-canonical":
        free_energy = [float(result.grand_potential), float(wanted.grand_potential)]
    assert free_energy[0] == pytest.approx(free_energy[1], abs=1e-5)


def test_force_is_the_derivative_of_the_grand_potential():
    """g n_i = -dOmega/dQ_i at fixed mu, by central differences of KPM's own Omega."""
    ensemble = Ensemble("grand-canonical", 0.1, chemical_potential=-0.4)
    provider = build(kpm, (8, 8), ensemble)
    q = torch.randn(8, 8, 1, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    density = provider(State.at_rest(q)).density
    for site in ((0, 0), (3, 5)):
        ends = []
        for step in (1e-3, -1e-3):
            moved = q.clone()
            moved[site] += step
            ends.append(float(provider(State.at_rest(moved)).grand_potential))
        assert -(ends[0] - ends[1]) / 2e-3 == pytest.approx(3.5 * float(density[site]), abs=1e-4)


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_agree_with_one(size, monkeypatch):
    """Coloured and random probes on tiles that cut through the colours, to round-off."""
    q = state("20")
    monkeypatch.setattr(_kernel_fused, "WORTH_A_MESSAGE", 1)  # two groups of vectors, one under way
    for options in ({"tolerance": 1e-3}, {"probing": "random", "vectors": 20, "tolerance": 1e-3}):
        serial = build(kpm, (20, 20), **options)(State.at_rest(q))

        def body(transport, options=options):
            provider = build(kpm, (20, 20), transport=transport, **options)
            tile = tuple(slice(*span) for span in provider.domain.owned)
            return tile, provider(State.at_rest(q[tile].contiguous()))

        for tile, result in run_in_process(size, body):
            assert torch.allclose(result.force, serial.force[tile], atol=1e-10, rtol=0)
            assert result.info["colours"] == serial.info["colours"]
            assert result.info["error_estimate"] == pytest.approx(serial.info["error_estimate"], rel=1e-3)
            assert float(result.grand_potential) == pytest.approx(float(serial.grand_potential), abs=1e-8)


def test_warm_start_gives_the_same_forces():
    """To the tolerance: the pilot looks at the states next to another mu, so the colours may differ."""
    q = state("4")
    provider = build(kpm, (20, 20), tolerance=1e-4)
    cold = provider(State.at_rest(q))
    warm = provider(State(q=q, velocity=q, forces=cold))
    assert torch.allclose(warm.force, cold.force, atol=1e-4, rtol=0)
    assert difference(warm, "4") <= 1e-4
    assert float(warm.chemical_potential) == pytest.approx(float(cold.chemical_potential), abs=1e-3)


def test_a_bad_guess_of_mu_costs_a_sweep_and_no_accuracy():
    q = state("20")
    provider = build(kpm, (20, 20), tolerance=1e-4)
    cold = provider(State.at_rest(q))
    misled = State(q=q + 1.0, velocity=q, forces=cold)  # mu moves by -g
    result = provider(misled)
    assert result.info["vector_moments"] > 1.5 * cold.info["vector_moments"]
    wanted = build(exact, (20, 20))(misled).force
    assert float((result.force - wanted).abs().max()) <= 1e-4


def test_random_probes_err_as_their_error_bar_says():
    """Within the error bar, which falls as the square root of the number of vectors; no tolerance is promised."""
    few, many = (forces("4", probing="random", vectors=vectors, tolerance=1e-3) for vectors in (8, 128))
    assert build(kpm, (4, 4), probing="random").tolerance is None
    assert 2 < few.info["error_estimate"] / many.info["error_estimate"] < 8
    assert 0.1 < difference(many, "4") / many.info["error_estimate"] < 1
    assert float(many.density.mean()) == pytest.approx(0.5, abs=1e-12)


def test_random_error_bars_have_the_right_size():
    """The rms of the errors over sites and seeds is the standard error; at fixed mu no site moves all the others."""
    ensemble = Ensemble("grand-canonical", 0.1)
    squares, bars = [], []
    for seed in range(10):
        result = forces("4", ensemble, probing="random", vectors=16, seed=seed, tolerance=1e-3)
        squares.append(float((result.force - reference("4", ensemble).force).square().mean()))
        bars.append(result.info["standard_error"] ** 2)
        assert difference(result, "4", ensemble) < 1.3 * result.info["error_estimate"]
    assert sum(squares) / sum(bars) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sampled_sites_have_no_probing_error(dtype):
    """At the mu of exact diagonalization, in both ensembles; the sites are those of every other kind of force."""
    q, wanted = state("4"), reference("4")
    grand = Ensemble("grand-canonical", 0.1, chemical_potential=float(wanted.chemical_potential))
    chosen = chosen_sites(square.build((20, 20)), 12, seed=5)
    for ensemble, start in ((grand, State.at_rest(q.to(dtype))), (CANONICAL, State(q.to(dtype), q.to(dtype), forces=wanted))):
        result = build(kpm, (20, 20), ensemble, sites=12, seed=5)(start)
        assert torch.equal(torch.nonzero(~result.force.reshape(-1).isnan())[:, 0], chosen)
        error = (result.force.double() - wanted.force).reshape(-1)[chosen].abs().max()
        assert error <= result.info["error_estimate"] <= (1e-7 if dtype == torch.float64 else 1e-4)
        assert result.grand_potential is None
        assert result.info["colours"] == 12


def test_sampled_sites_of_a_canonical_ensemble_need_mu():
    with pytest.raises(ConfigError, match="chemical potential"):
        build(kpm, (20, 20), sites=3)(State.at_rest(state("4")))


def test_block_of_vectors_does_not_matter():
    q = state("20")
    one, other = (build(kpm, (20, 20), tolerance=1e-3, block=block)(State.at_rest(q)) for block in (7, 0))
    assert torch.allclose(one.force, other.force, atol=1e-11, rtol=0)


@pytest.mark.parametrize(("ranks", "threads"), [(1, 2), (2, 1)])
@pytest.mark.parametrize(
    ("name", "extent", "periodic"),
    [
        ("chain", (300,), (True,)),
        ("chain", (40,), (False,)),
        ("honeycomb", (13, 12), (True, True)),
        ("honeycomb", (9, 8), (False, True)),
        ("triangular", (12, 15), (True, True)),
        ("kagome", (9, 9), (True, True)),
        ("cubic", (7, 6, 8), (True, True, True)),
        ("cubic", (4, 5, 6), (True, False, False)),
    ],
)
def test_any_lattice(name, extent, periodic, threads, ranks):
    lattice = import_module(f"hpc_holstein.lattice.{name}").build(extent, periodic)
    hamiltonian = holstein.build(holstein.Options(), lattice)
    q = 3 * torch.randn(*extent, len(lattice.basis), 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    wanted = exact.build(exact.Options(), hamiltonian, CartesianDomain(lattice, SerialTransport()), CANONICAL)(State.at_rest(q))

    def body(transport):
        domain = CartesianDomain(lattice, transport)
        tile = tuple(slice(*span) for span in domain.owned)
        provider = kpm.build(kpm.Options(tolerance=1e-4), hamiltonian, domain, CANONICAL)
        return tile, provider(State.at_rest(q[tile].contiguous()))

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        results = run_in_process(ranks, body)
    finally:
        torch.set_num_threads(before)
    for tile, result in results:
        assert float((result.force - wanted.force[tile]).abs().max()) <= result.info["error_estimate"] <= 1e-4
        assert float(result.chemical_potential) == pytest.approx(float(wanted.chemical_potential), abs=1e-4)
