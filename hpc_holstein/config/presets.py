"""Named settings that a configuration starts from."""

from __future__ import annotations

import copy
import math
from typing import Any

# Fan and Chern, arXiv 2601.04104: thermal quench of the half-filled Holstein model, production lattice
_PAPER_2601_04104: dict[str, dict[str, Any]] = {
    "lattice": {"kind": "square", "extent": [200, 200]},
    "hamiltonian": {"kind": "holstein", "t": 1.0, "g": 3.5, "k": 1.0, "kappa": 0.18},
    "ensemble": {"kind": "canonical", "kT": 0.1},  # half filling is the default of a canonical ensemble
    "dynamics": {"scheme": "verlet-ou", "mass": 5.0, "gamma": 0.2, "dt": 0.05, "steps": 25000},
    "initial": {"q_std": math.sqrt(5 / 0.18), "velocity_std": 1.0},  # variances 5 / 0.18 and 5 / m
    "force": {"kind": "neural", "model": "default"},
    "output": {"snapshot_every": 50},
}

# arXiv 2510.20659: thermal quench of the half-filled Peierls model, whose unit of energy, t_nn here, is free.  It starts from
# the elastic system at kT = 0.025, of which these are the standard deviations; neighbours, which it correlates, start without.
_PAPER_2510_20659: dict[str, dict[str, Any]] = {
    "lattice": {"kind": "square", "extent": [50, 50]},
    "hamiltonian": {"kind": "peierls", "t0": 2.5, "t2": 0.5, "alpha": 4.0, "k0": 30.0, "kappa": 4.0},
    "ensemble": {"kind": "canonical", "kT": 1e-3},
    "dynamics": {"scheme": "verlet-ou", "mass": 1.0, "gamma": 1.0, "dt": 0.01, "steps": 3000},
    "initial": {"q_std": 0.03, "velocity_std": math.sqrt(0.025)},
    "force": {"kind": "neural", "model": "default"},
    "output": {"snapshot_every": 40},
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper-2601.04104": _PAPER_2601_04104,
    "paper-2510.20659": _PAPER_2510_20659,
}
"""Name of a preset -> its sections."""

TRAINING_EXTENT = {"paper-2601.04104": (40, 40), "paper-2510.20659": (50, 50)}
"""Lattice that the labelled snapshots of a preset live on; its ``lattice.extent`` is the production lattice."""


def preset(name: str) -> dict[str, dict[str, Any]]:
    """A copy of the sections of preset ``name``, which must be one of :data:`PRESETS`."""
    return copy.deepcopy(PRESETS[name])
