"""The trajectory that a run of a configuration would write, in a folder that is thrown away."""

from __future__ import annotations

from pathlib import Path

from hpc_holstein.config import Config
from hpc_holstein.domain.transport import agreed
from hpc_holstein.output.records import Storage
from hpc_holstein.output.writers import Kind, Writer, new_writer, writer_kind
from hpc_holstein.simulation import Simulation


def kind_of(config: Config, simulation: Simulation) -> Kind:
    """Who writes; ConfigError, on all ranks, where this machine cannot."""
    domain = simulation.domain
    with agreed(simulation.transport):
        kind = writer_kind(config.output.writer, None, 0, domain.lattice.sites, domain.size)
    return kind


def scratch_writer(kind: Kind, config: Config, simulation: Simulation, folder: Path) -> Writer:
    """A new ``trajectory.h5`` in ``folder``, which is there; collective."""
    output = config.output
    storage = Storage(output.compression, output.locking != "off")
    run = (folder / "trajectory.h5", simulation.domain, simulation.transport, simulation.dt, config.parallel.torch_dtype)
    with agreed(simulation.transport):
        writer = new_writer(kind, *run, {}, storage)
    return writer
