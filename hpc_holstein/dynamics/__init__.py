"""One time step of the lattice: each ``scheme`` is a file, ``_`` for ``-`` in its name, with ``build(mass, gamma, dt, kT)``."""

from __future__ import annotations

import difflib
import math
import pkgutil
from importlib import import_module

from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import Integrator


def schemes() -> list[str]:
    """Names of the schemes: the public files of this folder."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [name.replace("_", "-") for name in names if not name.startswith("_")]


def build(scheme: str, mass: float, gamma: float, dt: float, kT: float) -> Integrator:
    """The integrator ``scheme``; raises ConfigError for a name or a parameter that cannot be run."""
    if scheme not in schemes():
        nearest = difflib.get_close_matches(scheme, schemes(), n=1, cutoff=0.0)[0]
        raise ConfigError(f'scheme = "{scheme}" is not known: use one of {", ".join(schemes())} (nearest: "{nearest}")')
    for name, value in (("mass", mass), ("dt", dt)):
        if not 0 < value < math.inf:
            raise ConfigError(f"{name} = {value} cannot be integrated: give a positive number")
    for name, value in (("gamma", gamma), ("kT", kT)):
        if not 0 <= value < math.inf:
            raise ConfigError(f"{name} = {value} cannot be integrated: give zero or a positive number")
    made: Integrator = import_module(f"{__name__}.{scheme.replace('-', '_')}").build(mass, gamma, dt, kT)
    return made
