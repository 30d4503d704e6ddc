"""When a run is not physics any more: values that are not finite, runaway heating, electrons that are lost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from hpc_holstein.errors import SpectrumError
from hpc_holstein.interfaces import Domain, Ensemble, ForceProvider, ForceResult, State
from hpc_holstein.simulation.ledger import Ledger

LARGEST = 1e6
"""|Q| beyond this is a run that has blown up: physical values stay below 100."""

RUNAWAY = 100.0
"""Kinetic temperature and energy that no run reaches, in units of ``t_nn + kT`` + kinetic + classical energy at the start."""


def require_sane(state: State, domain: Domain, dt: float) -> None:
    """SpectrumError, on all ranks alike, where ``q`` holds NaN or has left every physical range."""
    lost = (~(state.q.abs() < LARGEST)).sum()  # NaN compares false
    count = int(domain.allsum(lost.to(torch.float64).cpu()))
    if count:
        raise SpectrumError(
            f"the run diverged after step {state.step}: q is NaN or beyond {LARGEST:g} on {count} site(s); "
            f"use a time step smaller than dt = {dt:g}, or check the force provider with `hpc-holstein validate`"
        )


class GuardedForces(ForceProvider):
    """A force provider that refuses a state that has blown up, in one sentence on all ranks, and measures its time."""

    def __init__(self, forces: ForceProvider, domain: Domain, dt: float, ledger: Ledger) -> None:
        self._forces, self._domain, self._dt, self._ledger = forces, domain, dt, ledger
        self.reach, self.tolerance = forces.reach, forces.tolerance

    def __call__(self, state: State) -> ForceResult:
        """Forces of ``state``; SpectrumError where ``q`` holds NaN or has left every physical range."""
        with self._ledger.spend("force"):
            require_sane(state, self._domain, self._dt)
            result = self._forces(state)
            if result.force.is_cuda:
                torch.cuda.synchronize(result.force.device)
        self._ledger.force_calls += 1
        # in one layout, as after a restart: the order of a sum over the sites depends on it
        return replace(result, force=result.force.contiguous(), density=result.density.contiguous())


@dataclass
class Health:
    """Limits of the scalars of a run; ``None``: :data:`RUNAWAY` in units of the energy scale of the start.

    max_temperature, max_energy  kinetic temperature, and kinetic + classical energy per site [t_nn]
    max_electron_drift           of a canonical run whose forces keep the electron number [electrons/site]

    ``start``: scale and electron number of the first step, and the drift since; a checkpoint carries it on.
    """

    ensemble: Ensemble
    dt: float
    max_temperature: float | None = None
    max_energy: float | None = None
    max_electron_drift: float = 1e-4

    def __post_init__(self) -> None:
        self.start: dict[str, float] = {}

    @property
    def electron_drift(self) -> float:
        """Largest change of the electron number per site since the start."""
        return self.start.get("electron_drift", 0.0)

    def require(self, step: int, values: Mapping[str, float]) -> None:
        """Raise SpectrumError where the scalars of a step, the same on all ranks, are beyond a limit or NaN."""
        kinetic, classical = values["kinetic_energy"], values["classical_energy"]
        electrons = values["electron_number"]
        if not math.isfinite(electrons):  # of forces that are NaN, which reach q in the step after
            raise SpectrumError(
                f"the run diverged by step {step}: the forces are not finite; check the force provider with "
                "`hpc-holstein validate`"
            )
        if not self.start:
            scale = 1.0 + self.ensemble.kT + abs(kinetic) + abs(classical)
            self.start = {"energy_scale": scale, "electron_number": electrons, "electron_drift": 0.0}
        drift = abs(electrons - self.start["electron_number"])
        self.start["electron_drift"] = max(self.electron_drift, drift)
        runaway = RUNAWAY * self.start["energy_scale"]
        checks = [
            ("kinetic temperature", values["kinetic_temperature"], "max_temperature", self.max_temperature or runaway, "t_nn"),
            ("kinetic and classical energy", kinetic + classical, "max_energy", self.max_energy or runaway, "t_nn per site"),
        ]
        if self.ensemble.kind == "canonical" and math.isfinite(values["mu"]):  # forces without a mu keep no electron number
            checks.append(
                ("drift of the electron number", drift, "max_electron_drift", self.max_electron_drift, "electrons per site")
            )
        for name, value, key, limit, unit in checks:
            if not abs(value) <= limit:
                raise SpectrumError(
                    f"the run diverged by step {step}: {name} {value:.3g} {unit} is beyond {limit:.3g} (health.{key}); use a "
                    f"time step smaller than dt = {self.dt:g}, check the forces with `hpc-holstein validate`, or set the limit"
                )
