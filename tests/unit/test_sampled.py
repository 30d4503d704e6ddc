"""The sample of sites: distinct, pure, spread evenly, the same on any ranks; NaN elsewhere; mu must be known."""

from __future__ import annotations

import pytest
import torch

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import run_in_process
from hpc_holstein.errors import ConfigError
from hpc_holstein.forces._sampled import chosen_sites, known_potential, lowest_sites, owned_sites, sampled
from hpc_holstein.interfaces import Ensemble, ForceResult, State
from hpc_holstein.lattice import square


@pytest.mark.parametrize("count", [1, 64, 900, 1023, 1024])
def test_sites_are_distinct_sorted_and_on_the_lattice(count):
    sites = chosen_sites(square.build((32, 32)), count, seed=3)
    assert len(sites) == count
    assert sites.dtype == torch.int64
    assert (sites.diff() > 0).all()
    assert 0 <= int(sites[0]) <= int(sites[-1]) < 1024


def test_sample_is_a_function_of_seed_and_lattice():
    lattice = square.build((100, 100))
    first = chosen_sites(lattice, 64, seed=0)
    assert torch.equal(first, chosen_sites(lattice, 64, seed=0))
    assert not torch.equal(first, chosen_sites(lattice, 64, seed=1))
    assert set(first.tolist()) < set(chosen_sites(lattice, 200, seed=0).tolist())  # a larger sample holds the smaller one


def test_sites_are_spread_evenly():
    """Each of 16 stripes of the lattice holds its share, within five standard deviations, over many seeds."""
    lattice = square.build((64, 64))
    drawn = torch.cat([chosen_sites(lattice, 64, seed) for seed in range(100)])
    share = torch.bincount(drawn // 256, minlength=16).double() / len(drawn)
    assert (share - 1 / 16).abs().max() < 5 * (1 / 16 / len(drawn)) ** 0.5


@pytest.mark.parametrize(
    ("count", "seed", "named"),
    [(0, 0, "sites = 0"), (17, 0, "sites = 17.*1 to 16"), (1, -1, "seed = -1"), (1, 1 << 64, "seed = ")],
)
def test_what_cannot_be_chosen(count, seed, named):
    with pytest.raises(ConfigError, match=named):
        chosen_sites(square.build((4, 4)), count, seed)


def test_the_sampled_result_keeps_the_sites_alone():
    """On four ranks: each site that was chosen is kept by its owner, with its own value."""
    lattice = square.build((6, 8))
    sites = chosen_sites(lattice, 11, seed=5)

    def body(transport):
        domain = CartesianDomain(lattice, transport)
        number = owned_sites(domain).double()
        two = torch.stack([number, -number])
        whole = ForceResult(two.unsqueeze(-1), two, torch.zeros(2), torch.zeros(2), {"residual": 1.0})
        return sampled(whole, domain, sites)

    parts = run_in_process(4, body)
    for part in parts:
        assert part.grand_potential is None
        assert part.info == {"residual": 1.0}
        assert part.force.shape == (*part.density.shape, 1)
        assert torch.equal(torch.isnan(part.force[..., 0]), torch.isnan(part.density))
    kept = torch.cat([part.density[0].reshape(-1) for part in parts])
    assert torch.equal(kept[~torch.isnan(kept)].sort().values.long(), sites)
    mirrored = torch.cat([part.force[1].reshape(-1) for part in parts])
    assert torch.equal(torch.nan_to_num(mirrored), -torch.nan_to_num(kept))


def test_known_potential():
    state = State.at_rest(torch.zeros(2, 4, 4, 1, 1))
    grand, canonical = Ensemble("grand-canonical", 0.1, chemical_potential=0.7), Ensemble("canonical", 0.1)
    assert known_potential(state, grand, 2).tolist() == [0.7, 0.7]
    forces = ForceResult(state.q, state.q[..., 0], torch.tensor([0.1, -0.2], dtype=torch.float64))
    assert known_potential(state.moved(forces=forces), canonical, 2).tolist() == [0.1, -0.2]
    unknown = ForceResult(state.q, state.q[..., 0], torch.full((2,), torch.nan))
    for silent in (state, state.moved(forces=unknown)):
        with pytest.raises(ConfigError, match="grand-canonical ensemble, set sites to 0"):
            known_potential(silent, canonical, 2)


@pytest.mark.parametrize("count", [1, 7, 48, 60])
def test_lowest_sites_of_the_whole_lattice(count):
    """Equal values by number, the same list on every rank; on four ranks one tile may hold all of them, or none."""
    lattice = square.build((6, 8))
    value = torch.randint(0, 9, (6, 8, 1), generator=torch.Generator().manual_seed(1)).double()
    wanted = torch.argsort(value.reshape(-1), stable=True)[:count]

    def body(transport):
        domain = CartesianDomain(lattice, transport)
        tile = tuple(slice(*span) for span in domain.owned)
        return lowest_sites(value[tile], domain, count)

    assert all(torch.equal(found, wanted) for found in run_in_process(4, body))
