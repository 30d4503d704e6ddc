"""Training epochs: the ``[model]`` and ``[training]`` of a configuration on random states with labels of the atomic limit.

What an epoch costs does not depend on the labels.  The validation after each epoch is a part of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hpc_holstein.bench.timing import spread
from hpc_holstein.config import Config, fit_options
from hpc_holstein.config.builders import System, build_network, build_system
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, Transport
from hpc_holstein.forces import atomic
from hpc_holstein.interfaces import State
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.fit import fit

BATCHES = 8
"""In an epoch."""


def measure_epochs(config: Config, transport: Transport, device: str, batch: int, epochs: int, warm_up: int) -> dict[str, Any]:
    """``setting`` and ``result`` of a record: ``epochs`` of 8 batches of ``batch`` snapshots after ``warm_up``.  Collective."""
    system = build_system(config)
    data = _snapshots(system, config.initial.q_std or 1.0, batch * BATCHES)
    module, _ = build_network(config, system)
    options = replace(
        fit_options(config),
        epochs=warm_up + epochs,
        batch=batch,
        validation=0.1,
        test=0.0,
        validate_every=1,
        time_limit_s=0.0,
        electron_number=0.0,
        device=device,
        threads=torch.get_num_threads(),
    )
    found = fit(module, data, system.hamiltonian, system.ensemble, options, transport)
    elapsed = [row["elapsed_s"] for row in found.history]
    seconds = [float(after - before) for before, after in zip(elapsed[warm_up - 1 :], elapsed[warm_up:], strict=False)]
    trained = len(found.sets["training"])
    sites = trained * system.lattice.sites
    setting = {
        "of": "training",
        "grid": [transport.size],
        "lattice": list(system.lattice.extent),
        "lattice_per_rank": list(system.lattice.extent),
        "sites": sites,
        "batch": batch,
        "snapshots": trained,
        "network": config.model.kind,
        "network_options": config.model.option_values,
    }
    result = {
        "unit": "epoch",
        "seconds": spread(seconds),
        "parts": {},
        "site_steps_per_second": spread([sites / value for value in seconds]),
    }
    return {"setting": setting, "result": result}


def _snapshots(system: System, width: float, count: int) -> Snapshots:
    """Random states ``N(0, width^2)``, the same on all ranks."""
    domain = CartesianDomain(system.lattice, SerialTransport())
    generator = torch.Generator().manual_seed(0)
    shape = (count, *system.lattice.extent, 1, system.hamiltonian.components)
    q = width * torch.randn(shape, generator=generator, dtype=torch.float64)
    found = atomic.build(atomic.Options(), system.hamiltonian, domain, system.ensemble)(State.at_rest(q))
    arrays = [tensor.reshape(count, *system.lattice.extent).numpy() for tensor in (q, found.force, found.density)]
    return Snapshots.of(
        arrays[0],
        np.arange(count),
        force=arrays[1],
        density=arrays[2],
        chemical_potential=found.chemical_potential.numpy(),
    )
