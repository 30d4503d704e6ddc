"""Densities of states and grand potential of one state from Chebyshev moments (KPM), on any number of ranks.

    rho(E)   = 1/N sum_k delta(E - e_k) = (g_0 mu_0 + 2 sum_m g_m mu_m T_m(x)) / (pi b sqrt(1 - x^2)),   x = (E - a) / b
    rho_i(E) = the same of mu_m = <i|T_m|i>;         rho(E) of mu_m = Tr T_m / N, a mean over random vectors z = +-1
    n(mu)    = int rho(E) f(E - mu) dE,              Omega(mu)/N = -kT int rho(E) ln(1 + exp(-(E - mu)/kT)) dE

    Jackson  g_m = [(M - m + 1) cos(pi m / (M + 1)) + sin(pi m / (M + 1)) cot(pi / (M + 1))] / (M + 1)
    Lorentz  g_m = sinh(lambda (1 - m/M)) / sinh(lambda)

Without the kernel ``g_m`` the series of a delta function oscillates.  That of Jackson makes it a positive peak close to a
Gaussian, that of Lorentz close to a Lorentzian, as a finite lifetime does; ``g_0 = 1``, so sum rules hold.  It is left out of
``n`` and ``Omega``, whose series converge by themselves.
Random vectors are functions of (seed, global site), so nothing but round-off depends on the ranks.  Energies in ``t_nn``.
Source: Weisse et al., Rev. Mod. Phys. 78, 275 (2006), arXiv cond-mat/0504627.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_holstein.errors import ConfigError, SpectrumError
from hpc_holstein.forces._canonical import require_filling
from hpc_holstein.forces._chebyshev import DensityOfStates, Interval, fermi_order
from hpc_holstein.forces._elements import electron_domain
from hpc_holstein.forces._kpm import KPMForces
from hpc_holstein.forces._probing import Sites, site_signs
from hpc_holstein.forces._stencil import Stencil, signs
from hpc_holstein.interfaces import Domain, Ensemble, Hamiltonian, State
from hpc_holstein.output.spectrum_options import SpectrumOptions

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]
"""``progress(done, total)`` moments of all vectors, called on every rank."""

KERNELS = ("jackson", "lorentz")
_MOST_ORDER = 100_000
_TRUNCATION = 1e-7  # of the Fermi function: far below what random vectors tell
_SIDE = 3  # standard errors of the filling about which mu is looked for
_NUMBERS = {"cpu": 1 << 18, "cuda": 1 << 26}  # in a block of vectors
_FEWEST = 8  # vectors in a block, which keeps messages few
_TABLE = 1 << 23  # numbers in a table of Chebyshev polynomials


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    error: float


class Curve(NamedTuple):
    """A function of the energy and its standard error, ``[energies]`` each."""

    value: Array
    error: Array


@dataclass(frozen=True)
class Thermodynamics:
    """Thermodynamics of a spectrum in an ensemble; energies in ``t_nn``, extensive ones per state.

    ``free_energy = grand_potential + chemical_potential * filling`` is the electronic energy whose derivatives at fixed
    filling are the forces; an error of ``mu`` enters it in second order only, and ``grand_potential`` in first.
    """

    chemical_potential: Estimate
    filling: Estimate
    grand_potential: Estimate
    free_energy: Estimate


@dataclass(frozen=True)
class Spectrum:
    """Chebyshev moments of one state, the same on all ranks; made by :func:`spectrum`.

    total    ``[vectors, terms]``, ``<z|T_m|z> / N`` of each random vector
    local    ``[chosen states, terms]``, ``<i|T_m|i>``
    damping  ``[orders]`` with ``orders <= terms``, factors ``g_m`` of the kernel
    """

    interval: Interval
    states: int
    resolution: float
    damping: Array
    total: Array
    local: Array

    def energies(self) -> Array:
        """Middles of equal steps over the whole spectrum, four in a ``resolution``: all structure that the kernel leaves."""
        width = 2 * self.interval.half_width
        steps = math.ceil(4 * width / self.resolution)
        return np.asarray(self.interval.low + (np.arange(steps) + 0.5) * (width / steps))

    def density_of_states(self, energies: Array) -> Curve:
        """``rho(E)`` [1 / (state t_nn)] at ``energies`` inside the interval; integrates to 1."""
        return Curve(*_mean_of(self._series(self.total, energies)))

    def integrated(self, energies: Array) -> Curve:
        """``int_{-inf}^E rho(E') dE'`` [states / site] with the same kernel, at ``energies`` inside the interval."""
        return Curve(*_mean_of(self._integral(self.total, energies)))

    def local_density_of_states(self, energies: Array) -> Array:
        """``rho_i(E)`` [1 / (state t_nn)] of the chosen states, ``[chosen states, energies]``; exact but for the kernel."""
        return self._series(self.local, energies)

    def thermodynamics(self, ensemble: Ensemble) -> Thermodynamics:
        """Chemical potential, electrons, grand potential and free energy with the standard errors of the random vectors.

        Raises :class:`SpectrumError` for kT = 0 or a filling outside (0, 1).
        """
        _require_temperature(ensemble)
        each = [DensityOfStates(self.interval, one, ensemble.kT) for one in self.total]
        mean = DensityOfStates(self.interval, self.total.mean(axis=0), ensemble.kT)
        canonical = ensemble.kind == "canonical"
        mu = Estimate(ensemble.chemical_potential, 0.0)
        if canonical:
            mu = _chemical_potential(mean, each, ensemble.filling)
        fillings = np.array([ensemble.filling if canonical else one.filling(mu.value) for one in each])
        omegas = np.array([one.grand_potential(mu.value) for one in each])
        filling, omega, free = (_number(samples) for samples in (fillings, omegas, omegas + mu.value * fillings))
        return Thermodynamics(mu, filling, Estimate(omega.value, math.hypot(omega.error, filling.value * mu.error)), free)

    def _scaled(self, energies: Array) -> Array:
        """``theta = arccos((E - a) / b)``."""
        x = (np.asarray(energies, dtype=np.float64) - self.interval.centre) / self.interval.half_width
        if not (np.abs(x) < 1).all():
            raise ConfigError(
                f"energies {np.min(energies):.6g} to {np.max(energies):.6g} leave the interval of the expansion: "
                f"stay between {self.interval.low:.6g} and {self.interval.high:.6g}, which hold the whole spectrum"
            )
        return np.arccos(x)

    def _series(self, moments: Array, energies: Array) -> Array:
        """``(g_0 mu_0 + 2 sum_m g_m mu_m cos(m theta)) / (pi b sin(theta))``."""
        theta = self._scaled(energies)
        weights = moments[:, : len(self.damping)] * self.damping
        weights[:, 1:] *= 2
        return _summed(weights, theta, np.cos) / (math.pi * self.interval.half_width * np.sin(theta))

    def _integral(self, moments: Array, energies: Array) -> Array:
        """``((pi - theta) g_0 mu_0 - 2 sum_m g_m mu_m sin(m theta) / m) / pi``."""
        theta = self._scaled(energies)
        weights = moments[:, : len(self.damping)] * self.damping
        weights[:, 1:] *= 2 / np.arange(1, len(self.damping))
        first, weights[:, 0] = weights[:, 0].copy(), 0
        return ((math.pi - theta) * first[:, None] - _summed(weights, theta, np.sin)) / math.pi


@torch.no_grad()
def spectrum(
    hamiltonian: Hamiltonian,
    domain: Domain,
    q: Tensor,
    options: SpectrumOptions,
    kT: float,
    at: Sequence[int] = (),
    progress: Progress | None = None,
) -> Spectrum:
    """Moments of ``H(q)``, in float64, for ``q [*owned cells, basis, components]``; collective.

    ``at``: global numbers (cell * states + state of the cell) of states whose local density of states is wanted.  ``kT`` > 0
    adds the orders that electron number and grand potential need.  Raises :class:`ConfigError` for options out of range,
    :class:`SpectrumError` where ``q`` holds NaN.
    """
    domain = electron_domain(hamiltonian, domain)
    _check(options, domain, at)
    domain.require_halo(hamiltonian.reach)
    stencil = Stencil(hamiltonian, domain, q.double())
    interval = Interval.enclosing(*stencil.bounds())
    orders = kernel_order(options.kernel, interval.half_width, options.resolution, options.lorentz_lambda)
    damping = jackson(orders) if options.kernel == "jackson" else lorentz(orders, options.lorentz_lambda)
    terms = max(orders, fermi_order(interval, kT, _TRUNCATION)) if kT > 0 else orders
    number = Sites.of(domain, stencil.owned_cells()).number.reshape(-1)
    block = _vectors_at_once(domain, hamiltonian.reach)

    def starts() -> Iterator[Tensor]:
        for first in range(0, options.vectors, block):
            some = range(first, min(first + block, options.vectors))
            yield torch.stack([site_signs(options.seed, number, vector + 1) for vector in some], dim=-1)
        for first in range(0, len(at), block):
            yield (number[:, None] == torch.tensor(at[first : first + block], device=number.device)).double()

    moments = _moments(stencil, interval, terms, starts(), _counted(progress, terms * (options.vectors + len(at))))
    states = domain.lattice.sites
    return Spectrum(
        interval, states, options.resolution, damping, moments[: options.vectors] / states, moments[options.vectors :]
    )


def jackson(terms: int) -> Array:
    """Factors ``g_m``, ``[terms]``, of a peak of standard deviation ``pi / terms`` in the middle of [-1, 1]."""
    m, step = np.arange(terms), math.pi / (terms + 1)
    return ((terms - m + 1) * np.cos(m * step) + np.sin(m * step) / math.tan(step)) / (terms + 1)


def lorentz(terms: int, decay: float) -> Array:
    """Factors ``g_m``, ``[terms]``, of a peak of half width at half maximum ``decay / terms`` in the middle of [-1, 1]."""
    return np.sinh(decay * (1 - np.arange(terms) / terms)) / math.sinh(decay)


def kernel_order(kernel: str, half_width: float, resolution: float, decay: float) -> int:
    """Terms for a peak of width ``resolution`` in the middle of a spectrum of ``half_width``, both energies.

    Raises :class:`ConfigError` where they exceed 100,000.
    """
    width = (math.pi if kernel == "jackson" else decay) * half_width
    if width > _MOST_ORDER * resolution:
        raise ConfigError(
            f"resolution = {resolution:g} on a spectrum of half width {half_width:.3g} needs more than {_MOST_ORDER} moments: "
            f"give {width / _MOST_ORDER:.2g} t_nn or more"
        )
    return max(4, math.ceil(width / resolution))


def probed(forces: KPMForces, q: Tensor) -> Thermodynamics:
    """The same without random errors, from the coloured probe vectors of ``forces``, at the cost of one force; collective.

    The error of the free energy per state [t_nn], and of the grand potential at the ``mu`` that is returned, stays below that
    of the force, which is the error that is given; that of ``mu`` itself is not known, as in a gap many give the same forces.
    """
    result = forces(State.at_rest(q.double()))
    assert result.grand_potential is not None
    mu, sites = float(result.chemical_potential), forces.domain.lattice.sites
    filling = float(forces.domain.allsum(result.density.sum().cpu())) / sites
    omega, error = float(result.grand_potential) / sites, result.info["error_estimate"]
    canonical = forces.ensemble.kind == "canonical"
    return Thermodynamics(
        chemical_potential=Estimate(mu, math.nan if canonical else 0.0),
        filling=Estimate(filling, 0.0 if canonical else error),
        grand_potential=Estimate(omega, error),
        free_energy=Estimate(omega + mu * filling, error),
    )


def _moments(stencil: Stencil, interval: Interval, terms: int, starts: Iterator[Tensor], step: Callable[[int], None]) -> Array:
    """``<z|T_m|z>`` of the whole lattice, ``[vectors, terms]``, from blocks ``z [owned sites, vectors]``."""
    domain, rows = stencil.domain, Sites.of(stencil.domain, stencil.owned_cells()).ghosted.reshape(-1)
    tables = []
    for z in starts:
        ghosted = z.new_zeros((stencil.sites, z.shape[1]))
        ghosted[rows] = z
        table = z.new_empty((terms, z.shape[1]))
        for m, block in enumerate(stencil.recurrence(ghosted, interval.centre, interval.half_width, terms)):
            owned = domain.crop(block.view(*stencil.cells, stencil.basis, -1), stencil.width)
            torch.sum(owned.reshape(z.shape) * z, dim=0, out=table[m])
            step(z.shape[1])
        tables.append(table)
    moments = (domain.allsum(torch.cat(tables, dim=1).cpu()) * signs(terms)[:, None]).T.numpy()
    if not (np.abs(moments).max(axis=1) <= 1.01 * moments[:, 0] + 1e-6).all():  # NaN as well
        raise SpectrumError(
            f"the Chebyshev moments grow to {np.abs(moments).max():.1e} on [{interval.low:.4g}, {interval.high:.4g}], which "
            "the spectrum leaves: check that the parameters of the Hamiltonian are finite"
        )
    return np.ascontiguousarray(moments)


def _chemical_potential(mean: DensityOfStates, each: Sequence[DensityOfStates], filling: float) -> Estimate:
    """``mu`` half way between those at which the filling is three standard errors off: the middle of a gap."""
    there = mean.chemical_potential(filling, _TRUNCATION)
    noise = _number(np.array([one.filling(there) for one in each])).error + _TRUNCATION
    low, high = (
        mean.chemical_potential(min(max(filling + side * noise, 0.1 * filling), 1 - 0.1 * (1 - filling)), _TRUNCATION)
        for side in (-_SIDE, _SIDE)
    )
    return Estimate(0.5 * (low + high), (high - low) / (2 * _SIDE))


def _mean_of(samples: Array) -> tuple[Array, Array]:
    """Mean over the first axis and its standard error."""
    return samples.mean(axis=0), np.sqrt(samples.var(axis=0, ddof=1) / len(samples))


def _number(samples: Array) -> Estimate:
    mean, error = _mean_of(samples)
    return Estimate(float(mean), float(error))


def _summed(weights: Array, theta: Array, wave: Callable[[Array], Array]) -> Array:
    """``sum_m w_m wave(m theta)``, ``[vectors, energies]``, by tables that fit the memory."""
    orders = np.arange(weights.shape[1])
    parts = np.array_split(theta, max(1, math.ceil(theta.size * orders.size / _TABLE)))
    return np.concatenate([weights @ wave(orders[:, None] * part) for part in parts], axis=1)


def _counted(progress: Progress | None, total: int) -> Callable[[int], None]:
    """``step(n)`` that tells ``progress`` the sum so far."""
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    return step


def _vectors_at_once(domain: Domain, halo: int) -> int:
    """Vectors of a block, from the largest tile, so that all ranks choose alike."""
    tile = math.prod(-(-cells // parts) + 2 * halo for cells, parts in zip(domain.lattice.extent, domain.grid, strict=True))
    return max(_FEWEST, _NUMBERS[domain.device.type] // (tile * len(domain.lattice.basis)))


def _check(options: SpectrumOptions, domain: Domain, at: Sequence[int]) -> None:
    if options.kernel not in KERNELS:
        raise ConfigError(f"kernel = '{options.kernel}' is not known: use 'jackson' or 'lorentz'")
    if not 0 < options.resolution < math.inf:
        raise ConfigError(f"resolution = {options.resolution} is not an energy width: give t_nn above 0, such as 0.1")
    if not 0 < options.lorentz_lambda <= 100:
        raise ConfigError(f"lorentz_lambda = {options.lorentz_lambda} is out of range: give a number up to 100, such as 4")
    if options.vectors < 2:
        raise ConfigError(f"vectors = {options.vectors} random vectors have no error bar: give 2 or more")
    if not 0 <= options.seed < 1 << 64:
        raise ConfigError(f"seed = {options.seed} is not an unsigned 64-bit number: give an integer from 0 to 2^64 - 1")
    outside = [site for site in at if not 0 <= site < domain.lattice.sites]
    if outside:
        raise ConfigError(f"site {outside[0]} is not on the lattice: give a number from 0 to {domain.lattice.sites - 1}")


def _require_temperature(ensemble: Ensemble) -> None:
    require_filling(ensemble)
    if ensemble.kT == 0:
        raise SpectrumError("kT = 0 leaves mu and Omega to single levels, which moments do not tell: use force kind 'exact'")
