"""Network forces: the chemical potential, halos, chunks, precision and restarts."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.errors import ModelError, SpectrumError
from hpc_holstein.forces import _neural, atomic, neural
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square

G, KT = 3.5, 0.1
CANONICAL = Ensemble("canonical", kT=KT)


class StandIn(nn.Module):
    """A smooth density of the shifted field that rises with mu: atomic sites at two scales, a field from neighbours."""

    field, predicts, reach = "shifted", "density", 2

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(0.1 * torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(1)))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        around = torch.tanh(nn.functional.conv2d(x[:, None], self.kernel)[:, 0])
        return 0.8 * torch.sigmoid(G * x[:, 2:-2, 2:-2] / KT + around) + 0.2 * torch.sigmoid(G * x[:, 2:-2, 2:-2] / 2)


class PlainForce(nn.Module):
    """A network as published: total force from the plain field."""

    field, predicts, reach = "plain", "force", 1

    def forward(self, x):
        return -x[:, 1:-1, 1:-1] + 0.1 * x[:, :-2, 1:-1].tanh()


def setup(extent=(12, 10), ensemble=CANONICAL, module=None, transport=None, grid=None, periodic=(True, True)):
    lattice = square.build(extent, periodic)
    domain = CartesianDomain(lattice, transport or SerialTransport(), grid=grid)
    hamiltonian = holstein.build(holstein.Options(), lattice)
    return NeuralForces(module or StandIn(), hamiltonian, domain, ensemble)


def random_q(extent=(12, 10), batch=(), seed=0, dtype=torch.float64, std=5.27):
    generator = torch.Generator().manual_seed(seed)
    return (std * torch.randn(*batch, *extent, 1, 1, generator=generator, dtype=torch.float64)).to(dtype)


def plain_density(module, q, mu):
    """One evaluation with periodic padding by torch, no domain."""
    field = nn.functional.pad(q[None, None, ..., 0, 0] + mu / G, (2, 2, 2, 2), mode="circular")[:, 0]
    return module.double()(field)[0]


@pytest.mark.parametrize("filling", [0.5, 0.3, 0.9])
def test_canonical_conserves_the_electrons(filling):
    q = random_q()
    result = setup(ensemble=Ensemble("canonical", KT, filling=filling))(State.at_rest(q))
    assert abs(float(result.density.mean()) - filling) <= 1e-10
    assert result.info["residual"] <= 1e-10
    with torch.no_grad():
        expected = plain_density(StandIn(), q, result.chemical_potential)
    assert torch.allclose(result.density[..., 0], expected, atol=1e-5)
    assert result.density.shape == q.shape[:-1]
    assert result.force.shape == q.shape


def test_force_is_that_of_the_density():
    q = random_q()
    result = setup(ensemble=Ensemble("grand-canonical", KT, chemical_potential=0.4))(State.at_rest(q))
    Q, n = q[..., 0, 0], result.density[..., 0]
    neighbours = sum(Q.roll(s, d) for s in (1, -1) for d in (0, 1))
    assert torch.allclose(result.force[..., 0, 0], G * (n - 0.5) - Q - 0.18 * neighbours, atol=1e-12)
    assert result.info["evaluations"] == 1
    with torch.no_grad():
        assert torch.allclose(n, plain_density(StandIn(), q, 0.4), atol=1e-13)
    assert float(result.chemical_potential) == 0.4


def test_a_step_costs_two_evaluations():
    provider = setup((64, 64))
    q = random_q((64, 64))
    velocity = random_q((64, 64), seed=1, std=0.5)
    state, spent = State.at_rest(q), []
    for _ in range(30):
        forces = provider(state)
        spent.append(forces.info["evaluations"])
        assert forces.info["residual"] <= 1e-10
        state = State(q=state.q + 0.05 * velocity, velocity=velocity, forces=forces)
    assert spent[0] <= 8  # a cold start
    assert sum(spent[2:]) / len(spent[2:]) <= 2.4


@pytest.mark.parametrize("extent", [(12, 10), (64, 64)])
def test_following_mu_is_as_exact_as_it_says(extent):
    """Along a path: rms error of the density below the option, electrons to round-off, fewer evaluations, no history."""
    lattice = square.build(extent)
    hamiltonian, domain = holstein.build(holstein.Options(), lattice), CartesianDomain(lattice, SerialTransport())
    follow, solve = (neural.build(neural.Options(following=f), hamiltonian, domain, CANONICAL) for f in (1e-3, 0.0))
    q, velocity = random_q(extent, std=2.0), random_q(extent, seed=1, std=0.2)
    state, spent = State.at_rest(q), {follow: 0.0, solve: 0.0}
    for _ in range(12):
        followed, solved = follow(state), solve(state)
        assert (followed.density - solved.density).square().mean().sqrt() <= 1e-3
        assert followed.info["residual"] <= 1e-14
        assert abs(float(followed.density.mean()) - 0.5) <= 1e-14
        for provider, forces in ((follow, followed), (solve, solved)):
            spent[provider] += forces.info["evaluations"]
        again = neural.build(neural.Options(following=1e-3), hamiltonian, domain, CANONICAL)(state)
        assert torch.equal(again.force, followed.force)
        state = State(q=state.q + 0.05 * velocity, velocity=velocity, forces=followed)
    assert spent[follow] < 0.8 * spent[solve]


@pytest.mark.parametrize(("size", "grid"), [(2, (2, 1)), (3, (1, 3)), (4, (2, 2))])
def test_deterministic_forces_have_the_same_bits_on_any_ranks(size, grid):
    """Cold, and from a warm start, in float64 with a float32 network, on uneven tiles."""
    lattice = square.build((50, 46))
    hamiltonian = holstein.build(holstein.Options(), lattice)
    options = neural.Options(precision="float32", deterministic=True)
    q = random_q((50, 46), std=2.0)

    def two_steps(domain, owned):
        forces_of = neural.build(options, hamiltonian, domain, CANONICAL)
        cold = forces_of(State.at_rest(owned))
        return cold, forces_of(State(q=owned + 0.003, velocity=owned, forces=cold))

    serial = two_steps(CartesianDomain(lattice, SerialTransport()), q)

    def body(transport):
        domain = CartesianDomain(lattice, transport, grid=grid)
        (top, bottom), (left, right) = domain.owned
        tile = (slice(top, bottom), slice(left, right))
        return tile, two_steps(domain, q[tile].contiguous())

    for tile, results in run_in_process(size, body):
        for alone, together in zip(serial, results, strict=True):
            assert torch.equal(together.density, alone.density[tile])
            assert torch.equal(together.force, alone.force[tile])
            assert torch.equal(together.chemical_potential, alone.chemical_potential)


@pytest.mark.parametrize("batch", [(), (2,)])
def test_windows_without_ghosts_are_evaluated_while_these_travel(monkeypatch, batch):
    """On four ranks with tiles of 3 x 3 windows: the middle one comes before the ghosts, and sees none of them."""
    monkeypatch.setitem(_neural._LONGEST, "cpu", 5)
    ensemble = Ensemble("grand-canonical", kT=KT)
    whole_q = random_q((30, 30), batch)
    expected = setup((30, 30), ensemble)(State.at_rest(whole_q)).force

    def body(transport):
        provider = setup((30, 30), ensemble, transport=transport, grid=(2, 2))
        domain, seen = provider.domain, []
        real_start, real_apply = domain.exchange_start, StandIn.forward

        def start(ghosted, widths):
            inner = domain.crop(ghosted, widths[0]).clone()
            ghosted.fill_(math.nan)
            domain.crop(ghosted, widths[0]).copy_(inner)
            finish = real_start(ghosted, widths)

            def told():
                seen.append("ghosts")
                return finish()

            return told

        def forward(self, x):
            seen.append(bool(torch.isfinite(x).all()))
            return real_apply(self, x)

        domain.exchange_start = start
        provider._module.forward = forward.__get__(provider._module)
        (top, bottom), (left, right) = domain.owned
        force = provider(State.at_rest(whole_q[..., top:bottom, left:right, :, :].contiguous())).force
        assert torch.equal(force, expected[..., top:bottom, left:right, :, :])
        return seen

    for seen in run_in_process(4, body):
        assert all(seen)  # no NaN went in
        assert seen.count("ghosts") == 1
        assert seen.index("ghosts") == max(1, math.prod(batch))
        assert len(seen) == 1 + 9 * max(1, math.prod(batch))


def test_following_batches_state_by_state():
    provider = setup()
    provider = neural.build(neural.Options(following=1e-3), provider.hamiltonian, provider.domain, CANONICAL)
    q = random_q(batch=(2,), std=2.0)
    cold = provider(State.at_rest(q))
    together = provider(State(q=q + 0.003, velocity=q, forces=cold))
    strict = dataclasses.replace(cold, info={})
    for index in range(2):
        one = dataclasses.replace(strict, chemical_potential=cold.chemical_potential[index])
        alone = provider(State(q=q[index] + 0.003, velocity=q[index], forces=one))
        assert torch.allclose(together.density[index], alone.density, atol=1e-12)


def test_network_in_float32_keeps_the_electrons_of_a_float64_state():
    q = random_q()
    provider = setup()
    mixed = NeuralForces(StandIn(), provider.hamiltonian, provider.domain, CANONICAL, precision="float32")
    full, rounded = provider(State.at_rest(q)), mixed(State.at_rest(q))
    assert rounded.density.dtype == torch.float64
    assert abs(float(rounded.density.mean()) - 0.5) <= 1e-10
    assert 0 < (rounded.density - full.density).abs().max() < 1e-4


def test_result_depends_on_the_state_alone():
    """A second provider that is given the previous forces continues bit by bit."""
    first = setup()
    warm = first(State.at_rest(random_q()))
    later = State(q=random_q() + 0.01, velocity=random_q(), forces=warm)
    for _ in range(3):
        first(State.at_rest(random_q(seed=5)))
    copied = dataclasses.replace(warm, info=dict(warm.info), chemical_potential=warm.chemical_potential.clone())
    a, b = first(later), setup()(dataclasses.replace(later, forces=copied))
    assert torch.equal(a.force, b.force)
    assert a.info == b.info


@pytest.mark.parametrize("start", [-60.0, 40.0, math.nan])
def test_any_warm_start_leads_to_the_solution(start):
    q = random_q()
    provider = setup()
    cold = provider(State.at_rest(q))
    wrong = dataclasses.replace(cold, chemical_potential=torch.tensor(start, dtype=torch.float64))
    again = provider(State(q=q, velocity=q, forces=wrong))
    assert torch.allclose(again.density, cold.density, atol=2e-5)
    assert again.info["residual"] <= 1e-10


def test_ordered_state_with_a_gap():
    """A checkerboard fills no level near mu: any mu in the gap will do, and 1 or 2 evaluations find one."""
    sign = 1 - 2 * (torch.arange(12)[:, None] + torch.arange(10)[None]).remainder(2).double()
    q = (1.9 * sign)[..., None, None] + random_q(std=0.05)
    provider = setup()
    cold = provider(State.at_rest(q))
    warm = provider(State(q=q + 1e-3, velocity=q, forces=cold))
    assert max(cold.info["residual"], warm.info["residual"]) <= 1e-10
    assert warm.info["evaluations"] <= 3


def test_batch_equals_loop():
    q = random_q(batch=(2, 3))
    provider = setup()
    together = provider(State.at_rest(q))
    assert together.chemical_potential.shape == (2, 3)
    for index in ((0, 0), (1, 2)):
        alone = provider(State.at_rest(q[index]))
        assert torch.allclose(together.force[index], alone.force, atol=1e-10)
    warm = provider(State(q=q + 0.01, velocity=q, forces=together))
    assert torch.allclose(warm.density.mean(dim=(-3, -2)), torch.full((2, 3, 1), 0.5).double(), atol=1e-10)


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("edge", [1, 5, 11])
def test_windows_change_nothing(monkeypatch, batch, edge):
    q = random_q(batch=batch)
    whole = setup()(State.at_rest(q))
    monkeypatch.setattr(_neural, "_LONGEST", {"cpu": edge})
    module = StandIn()
    parts = setup(module=module)(State.at_rest(q))
    assert torch.allclose(parts.force, whole.force, atol=1e-12)


def test_windows_bound_what_the_network_sees(monkeypatch):
    seen = []

    class Watching(StandIn):
        def forward(self, x):
            seen.append(x.numel())
            return super().forward(x)

    monkeypatch.setattr(_neural, "_LONGEST", {"cpu": 6})
    setup(module=Watching())(State.at_rest(random_q(batch=(4,))))
    assert max(seen) == (6 + 4) * (5 + 4)  # 12x10 sites in windows of 6x5, and the halo


def test_single_precision():
    q = random_q()
    double = setup()(State.at_rest(q))
    module = StandIn()
    provider = setup(module=module)
    single = provider(State.at_rest(q.float()))
    assert single.force.dtype == torch.float32
    assert single.chemical_potential.dtype == torch.float64
    assert single.info["residual"] <= 1e-7
    assert torch.allclose(single.density.double(), double.density, atol=1e-3)  # the step is kT / g = 0.03 wide
    assert torch.equal(provider(State.at_rest(q)).force, double.force)  # one provider, both precisions
    assert module.kernel.dtype == torch.float32  # the module that was given is left alone


@pytest.mark.parametrize(("size", "grid"), [(2, (1, 2)), (4, (2, 2)), (4, (4, 1))])
def test_ranks_agree_with_one(size, grid):
    q = random_q()
    serial = setup()(State.at_rest(q))

    def body(transport):
        provider = setup(transport=transport, grid=grid)
        (top, bottom), (left, right) = provider.domain.owned
        return provider.domain.owned, provider(State.at_rest(q[top:bottom, left:right].contiguous()))

    for ((top, bottom), (left, right)), result in run_in_process(size, body):
        assert torch.allclose(result.force, serial.force[top:bottom, left:right], atol=1e-11)
        assert torch.allclose(result.chemical_potential, serial.chemical_potential, atol=1e-11)


def test_network_without_neighbours():
    """A reach shorter than that of the classical force: the halo is that of the latter."""

    class OneSite(StandIn):
        reach = 0

        def forward(self, x):
            return torch.sigmoid(G * x / KT)

    q = random_q()
    provider = setup(module=OneSite())
    limit = atomic.build(atomic.Options(), provider.hamiltonian, provider.domain, CANONICAL)
    assert torch.allclose(provider(State.at_rest(q)).force, limit(State.at_rest(q)).force, atol=1e-4)


def test_plain_force_network():
    q = random_q()
    result = setup(module=PlainForce())(State.at_rest(q))
    Q = q[..., 0, 0]
    assert torch.allclose(result.force[..., 0, 0], -Q + 0.1 * Q.roll(1, 0).tanh(), atol=1e-12)
    neighbours = sum(Q.roll(s, d) for s in (1, -1) for d in (0, 1))
    density = (result.force[..., 0, 0] + Q + 0.18 * neighbours) / G + 0.5
    assert torch.allclose(result.density[..., 0], density, atol=1e-12)
    assert torch.isnan(result.chemical_potential)


def test_plain_density_network():
    class PlainDensity(StandIn):
        field = "plain"

    q = random_q()
    result = setup(module=PlainDensity())(State.at_rest(q))
    with torch.no_grad():
        assert torch.allclose(result.density[..., 0], plain_density(StandIn(), q, 0.0), atol=1e-13)
    assert torch.isnan(result.chemical_potential)


def test_refusals():
    with pytest.raises(ModelError, match="open edges"):
        setup(periodic=(True, False))
    with pytest.raises(ModelError, match="half filling"):
        setup(module=PlainForce(), ensemble=Ensemble("grand-canonical", KT))
    with pytest.raises(ModelError, match=r"filling = 0\.4"):
        setup(module=PlainForce(), ensemble=Ensemble("canonical", KT, filling=0.4))
    odd = PlainForce()
    odd.field = "shifted"
    with pytest.raises(ModelError, match="not defined"):
        setup(module=odd)
    with pytest.raises(SpectrumError, match=r"filling = 1\.5"):
        setup(ensemble=Ensemble("canonical", KT, filling=1.5))
    q = random_q()
    q[3, 4] = torch.nan
    with pytest.raises(SpectrumError, match="NaN"):
        setup()(State.at_rest(q))
    with pytest.raises(ModelError, match="does not exist"):
        neural.build(neural.Options(model="nowhere"), setup().hamiltonian, setup().domain, CANONICAL)


def test_tiles_thinner_than_the_reach_agree_with_one_rank():
    """Ghosts from ranks beyond the next, and from the other side of the lattice."""
    q = random_q((12, 8))
    serial = setup((12, 8))(State.at_rest(q))

    def body(transport):
        provider = setup((12, 8), transport=transport, grid=(1, 8))
        assert provider.reach > provider.domain.local_extent[1]
        left, right = provider.domain.owned[1]
        return provider.domain.owned[1], provider(State.at_rest(q[:, left:right].contiguous()))

    for (left, right), result in run_in_process(8, body):
        assert torch.allclose(result.force, serial.force[:, left:right], atol=1e-11)


def test_network_that_never_reaches_the_filling():
    class Half(StandIn):
        def forward(self, x):
            return 0.4 * super().forward(x)

    with pytest.raises(SpectrumError, match=r"filling 0\.5"):
        setup(module=Half())(State.at_rest(random_q()))
