"""Probes of what computes forces: the network that comes with the package, KPM and PETSc."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from hpc_holstein.cli.probes_machine import Finding, Place, Probe, require
from hpc_holstein.config.builders import build_integrator, build_system
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.forces import exact, kpm, neural, petsc
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, ForceResult, State
from hpc_holstein.lattice import square

_ENSEMBLE = Ensemble("grand-canonical", kT=0.1)
_EXTENT = (6, 8)
_TOLERANCE = 1e-4
_WIDE = (128, 128)


def _state(extent: tuple[int, int], device: str = "cpu") -> State:
    """Coordinates of a hot state."""
    generator = torch.Generator().manual_seed(0)
    return State.at_rest((3 * torch.randn(*extent, 1, 1, generator=generator, dtype=torch.float64)).to(device))


def _forces(module: ModuleType, options: object) -> ForceResult:
    """Forces of :func:`_state` on this rank alone."""
    lattice = square.build(_EXTENT)
    domain = CartesianDomain(lattice, SerialTransport())
    provider = module.build(options, holstein.build(holstein.Options(), lattice), domain, _ENSEMBLE)
    result: ForceResult = provider(_state(_EXTENT))
    return result


@cache
def _reference() -> Tensor:
    return _forces(exact, exact.Options()).force


def _network(place: Place) -> Finding:
    """Forces of the packaged network: odd under exchange of particles and holes, and how fast."""
    lattice = square.build(_WIDE)
    domain = CartesianDomain(lattice, SerialTransport(), device=place.device)
    provider = neural.build(neural.Options(precision="float32"), holstein.build(holstein.Options(), lattice), domain, _ENSEMBLE)
    state = _state(_WIDE, place.device)
    n, other = provider(state).density, provider(replace(state, q=-state.q)).density
    error = float((n + other - 1).abs().max())
    require(error < 1e-5, f"densities of a state and of its mirror image do not add up to 1: off by {error:.1e}")
    start = time.perf_counter()
    float(provider(state).density.sum())
    rate = lattice.sites / (time.perf_counter() - start)
    facts = f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    return Finding("ok", f"{rate:.3g} sites/s a rank on {place.device} in float32; {facts}")


def _time_step(place: Place) -> Finding:
    """``dt`` against the stiffest lattice mode."""
    system = build_system(place.config)
    integrator = build_integrator(place.config, system)  # refuses what is unstable
    told = integrator.time_step_in_words(system.hamiltonian.stiffness[1])
    require(integrator.is_safe(system.hamiltonian.stiffness[1]), told)
    return Finding("ok", told)


def _kpm(place: Place) -> Finding:
    _require_forces(_forces(kpm, kpm.Options(tolerance=_TOLERANCE)))
    return Finding("ok", f"forces agree with diagonalization; numba {version('numba')}")


def _petsc(place: Place) -> Finding:
    if find_spec("petsc4py") is None:
        return Finding(
            "absent", "petsc4py is not installed, so there is no force kind petsc", "pip install 'hpc_holstein[petsc]'"
        )
    _require_forces(_forces(petsc, petsc.Options(tolerance=_TOLERANCE)))
    try:
        number = version("petsc4py")
    except PackageNotFoundError:  # of a module system
        number = "of unknown version"
    return Finding("ok", f"petsc4py {number}, real double precision; forces agree with diagonalization")


def _require_forces(found: ForceResult) -> None:
    error = float((found.force - _reference()).abs().max())
    require(error <= _TOLERANCE, f"forces differ from those of diagonalization by {error:.1e}")


PROBES = (
    Probe("time step", _time_step, "set dynamics.dt as told"),
    Probe("network", _network, "reinstall the package, or give --device cpu"),
    Probe("KPM", _kpm, "reinstall numba, or use force kind neural, exact or local"),
    Probe("PETSc", _petsc, "install petsc4py against the MPI library of mpi4py, or use another force kind"),
)
