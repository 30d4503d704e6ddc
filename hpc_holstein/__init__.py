"""Adiabatic dynamics of the Holstein model on large lattices with equivariant neural network forces.

The names below are what scripts need; each is loaded when it is first used.  Lattices, Hamiltonians, force providers and
networks are files of their folders, each with ``build``.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "BravaisLattice": "lattice",
    "LatticeHamiltonian": "hamiltonian",
    "Field": "fields",
    "Ensemble": "interfaces",
    "ForceResult": "interfaces",
    "State": "interfaces",
    "HolsteinError": "errors",
    "PointGroup": "symmetry.point_group",
    "real_irreps": "symmetry.irreps",
    "CartesianDomain": "domain.halo",
    "NoiseField": "domain.noise",
    "MPITransport": "domain.transport",
    "SerialTransport": "domain.transport",
    "run_in_process": "domain.transport",
    "load_model": "network.checkpoint",
    "save_model": "network.checkpoint",
    "open_trajectory": "storage.trajectory",
    "SpectrumOptions": "output.spectrum_options",
    "spectrum": "output.spectrum",
    "Snapshots": "training.dataset",
    "FitOptions": "training.fit_options",
    "fit": "training.fit",
    "ForceSource": "training.validation",
    "compare": "training.validation",
    "Simulation": "simulation",
    "load_config": "config",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'hpc_holstein' has no attribute '{name}'")
    return getattr(import_module(f"hpc_holstein.{_PUBLIC[name]}"), name)
