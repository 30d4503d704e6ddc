"""The chemical potential that a fixed electron number asks for: one scalar equation, ``mean_i n_i(mu) = filling``.

A safeguarded secant iteration on ``r(mu) = mean_i n_i(mu) - filling``, all states of a batch at once.  The last secant
step is taken on the density itself, which is linear in ``mu`` to second order: with ``theta`` the secant point in units
of the last step,

    n* = n_1 + theta (n_1 - n_0),    |n* - n(mu*)| <= max|n''| / 2 |mu* - mu_1| |mu* - mu_0|,    max|f''| < 0.1 / kT^2,

so the electron number is conserved to round-off and one evaluation of the density is saved.  The outcome is a function
of the arguments alone, and every decision follows from sums over all ranks, so all ranks decide alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hpc_holstein.domain.reduction import global_sum
from hpc_holstein.errors import SpectrumError
from hpc_holstein.interfaces import Domain, Ensemble

Density = Callable[[Tensor, Tensor], Tensor]
"""``density(mu, rows)``: chemical potentials ``[m]`` of the states ``rows [m]`` of the batch -> ``n [m, *cells, basis]``."""

_MOST_EVALUATIONS = 200
_FIRST_STEP = 1.0  # longest first step in mu, units of t_nn; doubles until the solution is bracketed
_SECANT_ONLY = 6  # evaluations after which every other step halves the bracket
_FERMI_CURVATURE = 0.1  # largest |f''| of a Fermi function, times kT^2
_NOISE = 10.0  # round-off of a mean density, in units of the machine epsilon


@dataclass(frozen=True)
class CanonicalDensity:
    """Solution of ``mean n(mu) = filling`` for each state of the batch.

    density             ``[batch, *cells, basis]``
    chemical_potential  ``[batch]``, float64
    slope               ``[batch]``, ``d(mean n)/d(mu)``: with ``chemical_potential`` the warm start of the next step
    residual            largest ``|mean n - filling|``
    evaluations         density evaluations per state of the batch
    """

    density: Tensor
    chemical_potential: Tensor
    slope: Tensor
    residual: float
    evaluations: float


def require_filling(ensemble: Ensemble) -> None:
    """Raise :class:`SpectrumError` for an ensemble that has no electrons to place or no temperature."""
    if ensemble.kind == "canonical" and not 0 < ensemble.filling < 1:
        raise SpectrumError(
            f"filling = {ensemble.filling} leaves the chemical potential undefined: give electrons per site between 0 and 1"
        )
    if not ensemble.kT >= 0:
        raise SpectrumError(f"kT = {ensemble.kT} is not a temperature: give kT >= 0")


def site_mean(density: Tensor, domain: Domain) -> Tensor:
    """Mean over all sites of the whole lattice, the same bits on any ranks: ``[m, *cells, basis]`` -> ``[m]`` on the CPU."""
    return global_sum(density, domain) / domain.lattice.sites


def occupation(energies: Tensor, chemical_potential: Tensor, kT: float | Tensor) -> Tensor:
    """Fermi function ``f(e - mu)`` of ``energies [m, ...]`` for ``mu [m]``; at ``kT = 0`` a level at ``mu`` is half filled.

    ``kT`` may be a width of each level.
    """
    mu = chemical_potential.to(energies).view(-1, *(1,) * (energies.ndim - 1))
    if not isinstance(kT, Tensor) and kT == 0:
        return torch.heaviside(mu - energies, energies.new_tensor(0.5))
    return 1 / (1 + torch.exp((energies - mu) / kT))  # torch.sigmoid gives other bits to the last few elements of an array


def grand_potential(energies: Tensor, chemical_potential: Tensor, kT: float) -> Tensor:
    """``-kT ln(1 + exp((mu - e) / kT))`` of levels ``energies [m, ...]`` for ``mu [m]``; the limit of it at ``kT = 0``."""
    below = chemical_potential.to(energies).view(-1, *(1,) * (energies.ndim - 1)) - energies
    filled = -below.clamp_min(0)
    if kT == 0:
        return filled
    return filled - kT * torch.log1p(torch.exp(-below.abs() / kT))  # softplus has other bits at the end of an array too


def solve_chemical_potential(
    density: Density,
    mean: Callable[[Tensor], Tensor],
    filling: float,
    kT: float,
    guess: Tensor,
    slope: Tensor,
    density_tolerance: float,
    sharpness: float = 1.0,
) -> CanonicalDensity:
    """Solve ``mean n(mu) = filling`` from ``guess [batch]`` and an estimate ``slope [batch]`` of ``d(mean n)/d(mu)``.

    It stops at ``|mean n - filling| <= 1e-10`` (float32: ``1e-7``; with ``density_tolerance = 0`` at round-off), or when
    the last secant step can be taken on the density with an error bound of at most ``density_tolerance`` on every ``n_i``,
    which may curve with ``mu`` up to ``sharpness`` times as much as a Fermi function.
    Raises :class:`SpectrumError` when ``n`` is not finite or no ``mu`` gives the filling.
    """
    curvature = sharpness * _FERMI_CURVATURE / kT**2 if kT else torch.inf
    search = _Search(filling, curvature, density_tolerance, guess.double().cpu().clone(), slope.double().cpu().clone())
    rows = torch.arange(len(guess))
    for _ in range(_MOST_EVALUATIONS):
        n = density(search.trial[rows], rows)
        rows = search.advance(rows, n, mean(n))
        if not len(rows):
            return search.result(density, mean)
    raise SpectrumError(
        f"no chemical potential near {search.trial[rows[0]]:.6g} gives filling {filling} "
        f"(off by {search.r1[rows[0]]:.1e} after {_MOST_EVALUATIONS} evaluations): check q and the model"
    )


@dataclass
class _Search:
    """State of the iteration, each member ``[batch]``: the last two points, the bracket, the next trial."""

    filling: float
    curvature: float
    density_tolerance: float
    trial: Tensor
    slope: Tensor
    evaluations: int = 0
    rounds: int = 0
    n0: Tensor = field(init=False)
    n1: Tensor = field(init=False)

    def __post_init__(self) -> None:
        nan = torch.full_like(self.trial, torch.nan)
        self.mu0, self.r0, self.mu1, self.r1 = nan.clone(), nan.clone(), nan.clone(), nan.clone()
        self.low, self.high = torch.full_like(nan, -torch.inf), torch.full_like(nan, torch.inf)
        self.limit = torch.full_like(nan, _FIRST_STEP)
        self.theta = torch.zeros_like(nan)
        self.closed = torch.zeros_like(nan, dtype=torch.bool)

    def advance(self, rows: Tensor, n: Tensor, mean: Tensor) -> Tensor:
        """Take in the density at ``trial[rows]``; returns the rows that are not solved yet, with a new trial each."""
        r = mean - self.filling
        if not torch.isfinite(r).all():
            worst = self.trial[rows[~torch.isfinite(r)][0]]
            raise SpectrumError(f"the density at mu = {worst:.6g} is not finite: check that q holds no NaN or infinity")
        self.rounds += 1
        self.evaluations += len(rows)
        self._keep(rows, n)
        mu = self.trial[rows]
        self.mu0[rows], self.r0[rows], self.mu1[rows], self.r1[rows] = self.mu1[rows], self.r1[rows], mu, r
        self.low[rows] = torch.where(r < 0, torch.maximum(self.low[rows], mu), self.low[rows])
        self.high[rows] = torch.where(r > 0, torch.minimum(self.high[rows], mu), self.high[rows])
        self._update_slope(rows, n.dtype)
        active = rows[~self._solved(rows, n.dtype)]
        self._propose(active)
        return active

    def _keep(self, rows: Tensor, n: Tensor) -> None:
        """The last two densities of each state."""
        if len(rows) < len(self.trial):
            index = rows.to(n.device)
            self.n0[index] = self.n1[index]
            self.n1[index] = n
        else:
            several = len(rows) > 1  # some of which may be replaced later, and not in what was made for inference
            self.n0 = self.n1 if self.rounds > 1 else n.clone() if several else n
            self.n1 = n.clone() if several else n

    def _update_slope(self, rows: Tensor, dtype: torch.dtype) -> None:
        """Secant slope; one that round-off hides, as in a gap, is taken for the largest that it can hide.

        The slope of an exact density is positive; where that of a network is not, its size still tells how far to go.
        A residual that is too large is never hidden: where it does not change, the next step is at least four times longer.
        """
        step = (self.mu1[rows] - self.mu0[rows]).abs()
        secant = (self.r1[rows] - self.r0[rows]).abs() / step
        hidden = min(_NOISE * torch.finfo(dtype).eps, 0.25 * self._enough(dtype)) / step
        measured = torch.maximum(secant, hidden)
        self.slope[rows] = torch.where(torch.isfinite(measured), measured, self.slope[rows])  # NaN: no previous point

    def _enough(self, dtype: torch.dtype) -> float:
        """Residual at which a state is solved."""
        if self.density_tolerance == 0:
            # the round-off of a mean over any lattice; in a wide gap less than this is the same at every mu
            round_off = 1e-14 if dtype == torch.float64 else _NOISE * torch.finfo(dtype).eps
            return round_off * min(self.filling, 1 - self.filling)
        return 1e-10 if dtype == torch.float64 else 1e-7

    def _solved(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        mu0, mu1, r0, r1 = self.mu0[rows], self.mu1[rows], self.r0[rows], self.r1[rows]
        round_off = torch.finfo(dtype).eps
        root = mu1 - r1 * (mu1 - mu0) / (r1 - r0)
        theta = (root - mu1) / (mu1 - mu0)
        bound = self.curvature * (root - mu1).abs() * (root - mu0).abs()
        # |theta| > 1 would amplify round-off; False where there is no previous point
        linear = (bound <= self.density_tolerance) & (theta.abs() <= 1) & (r1 != 0)
        exact = r1.abs() <= self._enough(dtype)
        self.theta[rows] = torch.where(linear & ~exact, theta, torch.zeros_like(theta))
        scale = mu1.abs().clamp_min(1.0)
        self.closed[rows] = (self.high[rows] - self.low[rows] <= 4 * round_off * scale) & ~exact & ~linear
        return exact | linear | self.closed[rows]

    def _propose(self, rows: Tensor) -> None:
        """Secant step, longer than round-off of ``mu``, below the limit, in the bracket; every other late one halves that."""
        mu, r, low, high, limit = (x[rows] for x in (self.mu1, self.r1, self.low, self.high, self.limit))
        shortest = 2 * torch.finfo(mu.dtype).eps * mu.abs().clamp_min(1.0)
        trial = mu - r.sign() * torch.clamp(r.abs() / self.slope[rows], shortest, limit)
        bracketed = torch.isfinite(low) & torch.isfinite(high)
        late = self.rounds >= _SECANT_ONLY and self.rounds % 2 == 0
        halve = bracketed & ((trial <= low) | (trial >= high) | late)
        self.trial[rows] = torch.where(halve, 0.5 * (low + high), trial)
        self.limit[rows] = torch.where(bracketed, limit, 2 * limit)

    def result(self, density: Density, mean: Callable[[Tensor], Tensor]) -> CanonicalDensity:
        """Densities after the last linear step, which also fills a level that ``n(mu)`` jumps across in part."""
        jumped = torch.nonzero(self.closed)[:, 0]
        if len(jumped):  # the bracket has closed on a jump: interpolate between its two sides
            index = jumped.to(self.n1.device)
            for n, mu, r, side in ((self.n0, self.mu0, self.r0, self.low), (self.n1, self.mu1, self.r1, self.high)):
                mu[jumped] = side[jumped]
                n[index] = density(side[jumped], jumped)
                r[jumped] = mean(n[index]) - self.filling
            self.theta[jumped] = -self.r1[jumped] / (self.r1[jumped] - self.r0[jumped])
            self.evaluations += 2 * len(jumped)
        n, mu, r = self.n1, self.mu1, self.r1
        moved = self.theta != 0
        if moved.any():
            weight = self.theta.to(n).view(-1, *(1,) * (n.ndim - 1))
            n = torch.where(weight != 0, n + weight * (n - self.n0), n)
            mu = torch.where(moved, mu + self.theta * (mu - self.mu0), mu)
            r = mean(n) - self.filling
        return CanonicalDensity(n, mu, self.slope, float(r.abs().max()), self.evaluations / len(mu))
