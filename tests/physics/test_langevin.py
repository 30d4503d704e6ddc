"""Langevin schemes on independent harmonic oscillators, where everything is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hpc_holstein import dynamics
from hpc_holstein.dynamics._langevin import SAFE
from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import ForceResult, State

MASS, STIFFNESS, KT = 5.0, 1.3, 0.1
SCHEMES = tuple(dynamics.schemes())


class Well:
    """``F = -k q``: independent oscillators; counts its calls."""

    reach = 0
    tolerance = 0.0

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, state: State) -> ForceResult:
        self.calls += 1
        return ForceResult(-STIFFNESS * state.q, state.q[..., 0], torch.tensor(0.0))


def normal(step: int, shape: tuple[int, ...] = (4, 6, 1, 1)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def silent(step: int) -> Tensor:
    return torch.zeros((), dtype=torch.float64)


def forbidden(step: int) -> Tensor:
    raise AssertionError("gamma = 0 must not draw noise")


def started(integrator, well, seed: int = 7) -> State:
    return integrator.init(State(q=normal(seed), velocity=normal(seed + 1)), well)


def energy(state: State) -> Tensor:
    return (0.5 * MASS * state.velocity.square() + 0.5 * STIFFNESS * state.q.square()).sum()


def run(scheme: str, gamma: float, dt: float, time: float, noise=silent) -> State:
    well = Well()
    integrator = dynamics.build(scheme, MASS, gamma, dt, KT)
    state = started(integrator, well)
    for _ in range(round(time / dt)):
        state = integrator.step(state, well, noise)
    return state


def test_verlet_ou_step_is_the_published_formula():
    dt, gamma = 0.05, 0.2
    well = Well()
    integrator = dynamics.build("verlet-ou", MASS, gamma, dt, KT)
    start = started(integrator, well).moved(step=41)
    after = integrator.step(start, well, normal)
    q = start.q + start.velocity * dt - STIFFNESS * start.q * dt * dt / (2 * MASS)
    v = start.velocity - STIFFNESS * (start.q + q) * dt / (2 * MASS)
    a = math.exp(-gamma * dt)
    v = a * v + math.sqrt((1 - a * a) * KT / MASS) * normal(41)
    torch.testing.assert_close(after.q, q, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(after.velocity, v, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(after.forces.force, -STIFFNESS * q, rtol=1e-14, atol=1e-15)
    assert after.step == 42


def test_baoab_step_is_its_formula():
    dt, gamma = 0.3, 0.4
    well = Well()
    integrator = dynamics.build("baoab", MASS, gamma, dt, KT)
    start = started(integrator, well)
    after = integrator.step(start, well, normal)
    a = math.exp(-gamma * dt)
    v = start.velocity - dt * STIFFNESS * start.q / (2 * MASS)
    q = start.q + dt * v / 2
    v = a * v + math.sqrt((1 - a * a) * KT / MASS) * normal(0)
    q = q + dt * v / 2
    v = v - dt * STIFFNESS * q / (2 * MASS)
    torch.testing.assert_close(after.q, q, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(after.velocity, v, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_force_call_a_step_and_none_when_the_state_has_forces(scheme):
    well = Well()
    integrator = dynamics.build(scheme, MASS, 0.2, 0.05, KT)
    state = started(integrator, well)
    assert well.calls == 1
    state = integrator.init(state, well)
    assert well.calls == 1
    integrator.step(state, well, normal)
    assert well.calls == 1 + integrator.force_calls


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nve_energy_error_scales_with_dt_squared(scheme):
    def worst(dt: float) -> float:
        well = Well()
        integrator = dynamics.build(scheme, MASS, 0.0, dt, KT)
        state = started(integrator, well)
        start, largest = energy(state), 0.0
        for _ in range(round(20 / dt)):
            state = integrator.step(state, well, forbidden)
            largest = max(largest, float(abs(energy(state) - start)))
        return largest

    errors = [worst(dt) for dt in (0.2, 0.1, 0.05)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nve_is_time_reversible(scheme):
    well = Well()
    integrator = dynamics.build(scheme, MASS, 0.0, 0.1, KT)
    start = state = started(integrator, well)
    for _ in range(200):
        state = integrator.step(state, well, forbidden)
    state = state.moved(velocity=-state.velocity)
    for _ in range(200):
        state = integrator.step(state, well, forbidden)
    torch.testing.assert_close(state.q, start.q, rtol=0, atol=1e-12)
    torch.testing.assert_close(-state.velocity, start.velocity, rtol=0, atol=1e-12)


def exact_mean(time: float, gamma: float) -> Tensor:
    """Mean of the damped oscillator from the matrix exponential of its drift."""
    drift = torch.tensor([[0.0, 1.0], [-STIFFNESS / MASS, -gamma]], dtype=torch.float64)
    return torch.einsum("ij,j...->i...", torch.linalg.matrix_exp(drift * time), torch.stack([normal(7), normal(8)]))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_mean_converges_with_the_stated_weak_order(scheme):
    gamma, time = 0.7, 4.0
    exact = exact_mean(time, gamma)

    def error(dt: float) -> float:
        state = run(scheme, gamma, dt, time)
        return float((torch.stack([state.q, state.velocity]) - exact).abs().max())

    order = math.log2(error(0.1) / error(0.05))
    assert order == pytest.approx(dynamics.build(scheme, MASS, gamma, 0.1, KT).weak_order, abs=0.15)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_equipartition(scheme):
    """``m <v^2> = k <q^2> = kT`` on 1e5 oscillators, in five standard errors; the bias at this dt is far below them."""
    count, dt, gamma = 100_000, 0.1, 1.0
    generator = torch.Generator().manual_seed(3)
    well = Well()
    integrator = dynamics.build(scheme, MASS, gamma, dt, KT)
    q = torch.zeros(250, 400, 1, 1, dtype=torch.float64)
    state = integrator.init(State.at_rest(q), well)
    for _ in range(600):  # 30 relaxation times of the overdamped side
        state = integrator.step(state, well, lambda step: torch.randn(q.shape, generator=generator, dtype=torch.float64))
    five_errors = 5 * math.sqrt(2 / count)
    assert float(MASS * state.velocity.square().mean()) / KT == pytest.approx(1, abs=five_errors)
    assert float(STIFFNESS * state.q.square().mean()) / KT == pytest.approx(1, abs=five_errors)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_large_time_step_makes_the_stated_average_wrong_by_the_stated_part(scheme):
    """In closed form at any gamma, on 1e5 oscillators in five standard errors; the other average stays right."""
    count, dt, gamma = 100_000, 1.5, 0.2
    generator = torch.Generator().manual_seed(4)
    well = Well()
    integrator = dynamics.build(scheme, MASS, gamma, dt, KT)
    q = torch.zeros(250, 400, 1, 1, dtype=torch.float64)
    state = integrator.init(State.at_rest(q), well)
    for _ in range(100):  # 30 relaxation times
        state = integrator.step(state, well, lambda step: torch.randn(q.shape, generator=generator, dtype=torch.float64))
    found = {
        "<Q^2>": float(STIFFNESS * state.q.square().mean()) / KT,
        "the kinetic temperature": float(MASS * state.velocity.square().mean()) / KT,
    }
    five_errors = 5 * math.sqrt(2 / count) * 1.2
    assert abs(integrator.bias(STIFFNESS)) > 5 * five_errors
    assert found[integrator.biased] == pytest.approx(1 + integrator.bias(STIFFNESS), abs=five_errors)
    assert found[integrator.exact] == pytest.approx(1, abs=five_errors)
    told = integrator.time_step_in_words(STIFFNESS)
    assert f"{integrator.biased} of the stiffest lattice mode is {100 * abs(integrator.bias(STIFFNESS)):.3g} % too" in told
    assert "warning" in told


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_bounds_of_the_time_step_are_sharp(scheme):
    """Just below ``2/omega`` a mode stays where it is, just above it grows; at the safe step the bias is one percent."""
    limit = dynamics.build(scheme, MASS, 0.0, 0.05, KT).unstable_step(STIFFNESS)
    assert float(energy(run(scheme, 0.0, 0.999 * limit, 1000 * limit))) < 1e6
    assert float(energy(run(scheme, 0.0, 1.001 * limit, 1000 * limit))) > 1e12
    dynamics.build(scheme, MASS, 0.2, 0.999 * limit, KT).require_stable(STIFFNESS)
    with pytest.raises(ConfigError, match=r"is unstable.*needs dt < 2/omega"):
        dynamics.build(scheme, MASS, 0.2, 1.001 * limit, KT).require_stable(STIFFNESS)
    safe = dynamics.build(scheme, MASS, 0.2, 0.05, KT).safe_step(STIFFNESS)
    assert abs(dynamics.build(scheme, MASS, 0.2, safe, KT).bias(STIFFNESS)) == pytest.approx(SAFE)
    assert "is safe" in dynamics.build(scheme, MASS, 0.2, 0.999 * safe, KT).time_step_in_words(STIFFNESS)
    assert "warning" in dynamics.build(scheme, MASS, 0.2, 1.001 * safe, KT).time_step_in_words(STIFFNESS)


def test_zero_temperature_only_damps():
    state = run("verlet-ou", 0.5, 0.1, 100.0)
    assert float(energy(state)) < 1e-8


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"scheme": "verlet_ou"}, "verlet-ou"),
        ({"dt": 0.0}, "dt = 0.0"),
        ({"dt": math.nan}, "dt = nan"),
        ({"mass": -1.0}, "mass = -1.0"),
        ({"gamma": -0.1}, "gamma = -0.1"),
        ({"kT": -0.1}, "kT = -0.1"),
    ],
)
def test_parameters_that_cannot_be_integrated_are_named(changed, words):
    valid = {"scheme": "baoab", "mass": 1.0, "gamma": 0.1, "dt": 0.1, "kT": 0.1}
    with pytest.raises(ConfigError, match=words):
        dynamics.build(**(valid | changed))
