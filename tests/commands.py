"""Commands on a given transport, in this process, so that one test runs them alone and on the ranks of MPI."""

from __future__ import annotations

from pathlib import Path

import torch

from hpc_holstein.cli import parser
from hpc_holstein.cli.execution import command
from hpc_holstein.cli.session import Session
from hpc_holstein.domain.transport import Transport
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble
from hpc_holstein.lattice import square
from hpc_holstein.network.checkpoint import make_card, save_model
from hpc_holstein.network.models import enn

LEARN = """
preset = "paper-2601.04104"
[dynamics]
steps = 12
seed = 4
[output]
observables_every = 3
snapshot_every = 12
[force]
kind = "neural"
model = "start/model.safetensors"
[model]
kind = "enn"
copies = 1
radii = [1, 1]
levels = 2
[training]
epochs = 20
validate_every = 10
test = 0.0
[trust]
max_deviation = 1e-4
action = "collect"
collect_at_most = 2
collect_distance = 6
[learn]
data = "data.h5"
rounds = 1
runs = 1
members = 1
labeller = "exact"
"""
"""Of ``learn``, from ``data.h5`` and ``start``, at a tiny size."""


def execute(transport: Transport, *arguments: object) -> None:
    """``hpc-holstein ARGUMENTS``; user errors are raised."""
    args = parser().parse_args([str(argument) for argument in arguments])
    command(args.command).execute(args, Session.of(transport))


def write_small_network(path: Path, seed: int = 7) -> None:
    """A compiled network of reach 3 for the preset, in float64, whose weights are all away from their initial values."""
    lattice = square.build((24, 24))
    options = enn.Options(copies=4, radii=(2, 1, 0), levels=4)
    torch.manual_seed(seed)
    network = enn.build(options, lattice)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    network.double()
    system, ensemble = holstein.build(holstein.Options(), lattice), Ensemble("canonical", kT=0.1)
    save_model(
        path, network, make_card(network, "enn", options, system, lattice, ensemble, data_hash="", seed=seed, metrics={})
    )
