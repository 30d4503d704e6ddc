"""Divide and conquer: a plain-loop reference, lattices that the clusters cover, decomposition, blocks, refusals."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import expit

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.errors import ConfigError, DomainError, SpectrumError
from hpc_holstein.forces import _local, atomic, exact, local
from hpc_holstein.forces._sampled import chosen_sites
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, ForceResult, State
from hpc_holstein.lattice import chain, honeycomb, square

G, KT = 3.5, 0.1
HALF = Ensemble("canonical", KT)
AT_MU = Ensemble("grand-canonical", KT, chemical_potential=0.4)
BOUNDARIES = [(True, True), (False, True), (False, False)]


def provider(lattice, ensemble, transport=None, grid=None, kind=local, **options):
    domain = CartesianDomain(lattice, transport or SerialTransport(), grid=grid)
    return kind.build(kind.Options(**options), holstein.build(holstein.Options(), lattice), domain, ensemble)


def forces(q, ensemble, periodic=(True, True), kind=local, **options) -> ForceResult:
    return provider(square.build(tuple(q.shape[-4:-2]), periodic), ensemble, kind=kind, **options)(State.at_rest(q))


def random_q(*cells, seed=0, std=1.5, basis=1):
    generator = torch.Generator().manual_seed(seed)
    return std * torch.randn(*cells, basis, 1, generator=generator, dtype=torch.float64)


# --- an independent route -----------------------------------------------------------------------------------------------


def plain_levels(Q, y, x, reach, core, periodic):
    """Levels of the cluster of site (y, x) and their weights at that site, by loops over sites."""
    rows, columns = Q.shape
    top, left = y // core * core, x // core * core
    sites = []
    for yy in range(top - reach, top + core + reach):
        for xx in range(left - reach, left + core + reach):
            if (periodic[0] or 0 <= yy < rows) and (periodic[1] or 0 <= xx < columns):
                sites.append((yy, xx))
    H = np.zeros((len(sites), len(sites)))
    for i, (yy, xx) in enumerate(sites):
        H[i, i] = -G * Q[yy % rows, xx % columns]
        for j, (y2, x2) in enumerate(sites):
            if abs(yy - y2) + abs(xx - x2) == 1:
                H[i, j] = -1.0
    energies, states = np.linalg.eigh(H)
    return energies, states[sites.index((y, x))] ** 2


@pytest.mark.parametrize("periodic", BOUNDARIES)
@pytest.mark.parametrize(("reach", "core"), [(1, 1), (2, 1), (1, 2), (1, 4)])
@pytest.mark.parametrize("filling", [None, 0.4])
def test_plain_loop_reference(periodic, reach, core, filling):
    """7 x 9 sites: blocks do not divide the lattice, and those at the end wrap or leave it."""
    q = random_q(7, 9)
    Q = q[..., 0, 0].numpy()
    levels = [[plain_levels(Q, y, x, reach, core, periodic) for x in range(9)] for y in range(7)]

    def density(mu):
        return np.array([[w @ expit((mu - e) / KT) for e, w in row] for row in levels])

    ensemble = AT_MU if filling is None else Ensemble("canonical", KT, filling=filling)
    result = forces(q, ensemble, periodic, reach=reach, core=core)
    mu = 0.4 if filling is None else brentq(lambda m: density(m).mean() - filling, -30, 30, xtol=1e-14, rtol=1e-15)
    assert float(result.chemical_potential) == pytest.approx(mu, abs=1e-10)
    np.testing.assert_allclose(result.density[..., 0], density(mu), atol=1e-11)
    omega = -KT * sum(w @ np.logaddexp(0, (mu - e) / KT) for row in levels for e, w in row)
    assert float(result.grand_potential) == pytest.approx(omega, abs=1e-8)
    if filling is not None:
        assert abs(float(result.density.mean()) - filling) < 1e-14


def test_force_is_that_of_the_density():
    q = random_q(8, 9)
    result = forces(q, AT_MU, reach=2)
    Q, n = q[..., 0, 0], result.density[..., 0]
    neighbours = sum(Q.roll(s, d) for s in (1, -1) for d in (0, 1))
    assert torch.allclose(result.force[..., 0, 0], G * (n - 0.5) - Q - 0.18 * neighbours, atol=1e-12)
    assert result.info["clusters"] == 72


# --- clusters that hold the whole lattice -------------------------------------------------------------------------------


COVERED = [  # extent, periodic, reach
    ((4, 5), (False, False), 4),
    ((4, 6), (True, False), 5),
    ((5, 7), (True, True), 3),
    ((6, 4), (True, True), 3),
    ((3, 3), (True, True), 9),  # shorter than the reach
    ((1, 6), (True, True), 3),  # a site bonded to itself
    ((2, 2), (True, True), 1),  # two bonds between the same sites
    ((1, 2), (False, True), 1),
]


@pytest.mark.parametrize(("extent", "periodic", "reach"), COVERED)
@pytest.mark.parametrize("core", [1, 2, 7])
@pytest.mark.parametrize(
    "ensemble",
    [HALF, AT_MU, Ensemble("canonical", KT, filling=0.29), Ensemble("grand-canonical", 0.0, chemical_potential=0.4)],
    ids=["half", "at-mu", "doped", "cold"],
)
def test_exact_where_a_cluster_holds_the_lattice(extent, periodic, reach, core, ensemble):
    q = random_q(*extent)
    here, there = forces(q, ensemble, periodic, reach=reach, core=core), forces(q, ensemble, periodic, kind=exact)
    assert torch.allclose(here.force, there.force, atol=1e-10, rtol=0)
    electrons = (
        ensemble.filling * q.numel() if ensemble.kind == "canonical" else 0.0
    )  # mu is free in a gap, Omega + mu N is not
    free = [r.grand_potential + electrons * r.chemical_potential for r in (here, there)]
    assert float(free[0]) == pytest.approx(float(free[1]), abs=1e-9)


@pytest.mark.parametrize("filling", [0.5, 0.25, 0.3, 0.47])  # whole and broken numbers of electrons
@pytest.mark.parametrize("core", [1, 2])
def test_zero_temperature_shares_the_last_level(filling, core):
    """The level at mu belongs to 20 clusters, to round-off: all of them must fill it to the same part."""
    q = random_q(4, 5)
    ensemble = Ensemble("canonical", 0.0, filling=filling)
    here, there = forces(q, ensemble, reach=2, core=core), forces(q, ensemble, kind=exact)
    assert torch.allclose(here.density, there.density, atol=1e-10, rtol=0)
    assert float(here.density.sum()) == pytest.approx(20 * filling, abs=1e-10)


@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_zero_temperature_free_electrons(mu):
    """A degenerate level at mu is half filled, whichever sign round-off gives the difference."""
    q = torch.full((4, 4, 1, 1), -mu / G, dtype=torch.float64)
    result = forces(q, Ensemble("grand-canonical", 0.0, chemical_potential=mu), reach=2)
    assert torch.allclose(result.density, torch.full_like(result.density, 0.5), atol=1e-12)


def test_no_neighbours_is_the_atomic_limit():
    q = random_q(5, 6)
    here, there = forces(q, HALF, reach=0), forces(q, HALF, kind=atomic)
    assert torch.allclose(here.force, there.force, atol=1e-11)
    assert torch.allclose(here.grand_potential, there.grand_potential, atol=1e-9)


CHAIN = chain.build((9,), (True,))
HONEYCOMB = honeycomb.build((4, 3), (True, False))


@pytest.mark.parametrize("lattice", [CHAIN, HONEYCOMB], ids=lambda lattice: lattice.name)
@pytest.mark.parametrize("core", [1, 2])
def test_any_lattice(lattice, core):
    """Covered by its clusters it is exact; with smaller ones, close to it and not the same."""
    q = random_q(*lattice.extent, basis=len(lattice.basis), std=3.0)
    there = provider(lattice, HALF, kind=exact)(State.at_rest(q))
    covered = provider(lattice, HALF, reach=4, core=core)(State.at_rest(q))
    assert torch.allclose(covered.force, there.force, atol=1e-10, rtol=0)
    error = (provider(lattice, HALF, reach=1, core=1)(State.at_rest(q)).force - there.force).abs().max()
    assert 1e-8 < error < 0.5


# --- decomposition, chunks, blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("periodic", BOUNDARIES)
@pytest.mark.parametrize("core", [1, 3])
@pytest.mark.parametrize(("size", "grid"), [(2, (2, 1)), (3, (1, 3)), (4, (2, 2))])
def test_ranks_agree_with_one(periodic, core, size, grid):
    """13 x 17 sites: no tile holds a whole number of blocks."""
    lattice = square.build((13, 17), periodic)
    q = random_q(13, 17)
    serial = provider(lattice, HALF, reach=2, core=core)(State.at_rest(q))

    def body(transport):
        part = provider(lattice, HALF, transport, grid, reach=2, core=core)
        tile = tuple(slice(*span) for span in part.domain.owned)
        return tile, part(State.at_rest(q[tile].contiguous()))

    for tile, result in run_in_process(size, body):
        assert torch.allclose(result.force, serial.force[tile], atol=1e-11, rtol=0)
        assert torch.allclose(result.chemical_potential, serial.chemical_potential, atol=1e-11, rtol=0)
        assert torch.allclose(result.grand_potential, serial.grand_potential, atol=1e-9, rtol=0)


def test_a_closed_axis_on_two_ranks():
    """Seven rows are one cluster of reach 3, although no rank holds more than four."""
    lattice = square.build((7, 7))
    q = random_q(7, 7)
    whole = forces(q, AT_MU, kind=exact)

    def body(transport):
        part = provider(lattice, AT_MU, transport, (2, 1), reach=3)
        return part.domain.owned, part(State.at_rest(q[slice(*part.domain.owned[0])].contiguous()))

    for (rows, _), result in run_in_process(2, body):
        assert torch.allclose(result.force, whole.force[slice(*rows)], atol=1e-10, rtol=0)


@pytest.mark.parametrize("core", [1, 3])
def test_chunks_change_nothing(monkeypatch, core):
    q = random_q(2, 7, 8)
    whole = forces(q, HALF, reach=2, core=core)
    for size in (1, 10**5):
        monkeypatch.setattr(_local, "_CHUNK_BYTES", {"cpu": size})
        assert torch.allclose(forces(q, HALF, reach=2, core=core).force, whole.force, atol=1e-12, rtol=0)


@pytest.mark.parametrize("core", [1, 3])
def test_reach_of_blocks_is_honest(core):
    """Blocks reach ``reach + core - 1`` cells, no less and no more."""
    forces_of = provider(square.build((18, 18)), AT_MU, reach=2, core=core)
    assert forces_of.reach == 1 + core
    q = random_q(18, 18, std=0.3)
    before = forces_of(State.at_rest(q)).force
    furthest = 0
    for site in range(core):
        changed = q.clone()
        changed[9 + site, 9] += 1.0
        difference = (forces_of(State.at_rest(changed)).force - before).abs()[..., 0, 0] > 1e-12
        away = (torch.arange(18) - 9 - site).abs()
        furthest = max(furthest, int(away[difference.any(dim=1)].max()))
    assert furthest == forces_of.reach


def test_result_depends_on_the_coordinates_alone():
    q = random_q(8, 8)
    forces_of = provider(square.build((8, 8)), HALF, reach=2)
    cold = forces_of(State.at_rest(q))
    wrong = dataclasses.replace(cold, chemical_potential=cold.chemical_potential + 20)
    assert torch.equal(forces_of(State(q=q, velocity=q, forces=wrong)).force, cold.force)


# --- a sample of the sites ----------------------------------------------------------------------------------------------


def told(q, mu) -> State:
    """A state that knows its chemical potential."""
    unknown = torch.full_like(q, math.nan)
    return State(q=q, velocity=q, forces=ForceResult(unknown, unknown[..., 0], torch.as_tensor(mu, dtype=torch.float64)))


@pytest.mark.parametrize("core", [1, 3])
@pytest.mark.parametrize("ensemble", [HALF, AT_MU], ids=["canonical", "grand-canonical"])
def test_sampled_sites_are_those_of_all_sites(core, ensemble):
    """At the mu of the whole lattice the same numbers, NaN at all other sites, and no more clusters than sites."""
    lattice = square.build((13, 17))
    q = random_q(2, 13, 17)
    whole = provider(lattice, ensemble, reach=2, core=core)(State.at_rest(q))
    forces_of = provider(lattice, ensemble, reach=2, core=core, sites=9, seed=4)
    part = forces_of(told(q, whole.chemical_potential))
    sites = chosen_sites(lattice, 9, 4)
    kept = torch.isfinite(part.force[..., 0, 0]).reshape(2, -1)
    assert torch.equal(kept[0].nonzero()[:, 0], sites)
    assert torch.equal(kept[0], kept[1])
    assert torch.equal(torch.isfinite(part.density), torch.isfinite(part.force[..., 0]))
    for name in ("force", "density"):
        there, here = (getattr(r, name).reshape(2, -1)[:, sites] for r in (whole, part))
        assert torch.allclose(here, there, atol=1e-12, rtol=0)
    assert torch.equal(part.chemical_potential, whole.chemical_potential)
    assert part.grand_potential is None
    assert part.info["clusters"] <= 9


@pytest.mark.parametrize(("size", "grid"), [(2, (1, 2)), (4, (2, 2))])
def test_sampled_sites_do_not_depend_on_the_ranks(size, grid):
    """Three sites on four ranks: some have none."""
    lattice = square.build((13, 17))
    q = random_q(13, 17)
    serial = provider(lattice, HALF, reach=2, sites=3)(told(q, 0.2))

    def body(transport):
        forces_of = provider(lattice, HALF, transport, grid, reach=2, sites=3)
        tile = tuple(slice(*span) for span in forces_of.domain.owned)
        return tile, forces_of(told(q[tile].contiguous(), 0.2))

    for tile, result in run_in_process(size, body):
        assert torch.allclose(result.force, serial.force[tile], atol=1e-12, rtol=0, equal_nan=True)
        assert result.info == serial.info


# --- refusals -----------------------------------------------------------------------------------------------------------


def test_refusals(monkeypatch):
    q = random_q(6, 6)
    with pytest.raises(ConfigError, match="reach = -1"):
        forces(q, HALF, reach=-1)
    with pytest.raises(ConfigError, match="core = 0"):
        forces(q, HALF, core=0)
    with pytest.raises(ConfigError, match="sites = -1"):
        forces(q, HALF, sites=-1)
    with pytest.raises(ConfigError, match="sites = 37 cannot be chosen from a lattice of 36"):
        forces(q, HALF, sites=37)
    with pytest.raises(ConfigError, match="chemical potential of the whole lattice"):
        forces(q, HALF, sites=3)
    with pytest.raises(SpectrumError, match=r"filling = 1\.5"):
        forces(q, Ensemble("canonical", KT, filling=1.5))
    with pytest.raises(SpectrumError, match=r"kT = -0\.1"):
        forces(q, Ensemble("canonical", -KT))
    monkeypatch.setattr(_local, "usable_bytes", lambda device: 10.0**4)
    with pytest.raises(ConfigError, match=r"36 sites .* smaller reach"):
        forces(q, HALF)


def test_refusals_of_one_rank_are_raised_by_all():
    lattice = square.build((12, 12))
    q = random_q(12, 12)
    q[0, 0] = torch.nan

    def body(transport):
        with pytest.raises(DomainError, match="halo of 7 cells"):
            provider(lattice, HALF, transport, (2, 1), reach=3, core=5)
        part = provider(lattice, HALF, transport, (2, 1), reach=3)
        with pytest.raises(SpectrumError, match="1 coordinates at step 0 are NaN"):
            part(State.at_rest(q[slice(*part.domain.owned[0])].contiguous()))

    run_in_process(2, body)
