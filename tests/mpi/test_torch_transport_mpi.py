"""torch.distributed between the ranks of MPI: the same checks as of every transport, and a run of the same bits."""

from __future__ import annotations

from typing import Any

import domain_checks
import pytest
import torch

from hpc_holstein.config import load_config
from hpc_holstein.config.builders import build_simulation, initial_state
from hpc_holstein.domain.torch_transport import TorchTransport
from hpc_holstein.domain.transport import MPITransport, Transport
from hpc_holstein.simulation import Recorder

pytestmark = pytest.mark.mpi


@pytest.fixture(scope="module")
def by_torch(transport: MPITransport) -> TorchTransport:
    return TorchTransport(transport, "cpu", "gloo")


@pytest.mark.parametrize("check", domain_checks.ALL, ids=lambda check: check.__name__)
def test_on_ranks(check: Any, by_torch: TorchTransport) -> None:
    check(by_torch)


def test_a_run_has_the_bits_of_mpi(transport: MPITransport, by_torch: TorchTransport) -> None:
    def last(carried: Transport) -> torch.Tensor:
        given = {"lattice.extent": [12, 12], "dynamics.steps": 5, "force.kind": "atomic"}
        config = load_config(preset_name="paper-2601.04104", overrides=given)
        simulation = build_simulation(config, carried, "cpu")
        return simulation.run(initial_state(config, simulation), 5, Recorder(5, simulation), [])[0].q

    assert torch.equal(last(transport), last(by_torch))
