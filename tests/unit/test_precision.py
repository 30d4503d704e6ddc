"""The arithmetic of networks: coarser products where they are asked for, and only there."""

from __future__ import annotations

import pytest
import torch

from hpc_holstein.config import load_config
from hpc_holstein.config.builders import build_simulation
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.noise import NoiseField, Stream
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import ConfigError
from hpc_holstein.forces import neural
from hpc_holstein.forces._precision import arithmetic
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square

CPU = torch.device("cpu")


def force(precision: str) -> torch.Tensor:
    lattice = square.build((16, 16))
    domain = CartesianDomain(lattice, SerialTransport())
    hamiltonian = holstein.build(holstein.Options(), lattice)
    forces = neural.build(neural.Options(precision=precision), hamiltonian, domain, Ensemble("canonical", 0.1))
    return forces(State.at_rest(3 * NoiseField(0, Stream.INITIAL_Q, domain)(0))).force


def test_coarser_products_cost_accuracy_and_nothing_else():
    exact = force("state")
    assert exact.dtype == torch.float64
    errors = {name: float((force(name) - exact).square().mean().sqrt()) for name in ("float32", "tf32", "bfloat16")}
    assert errors["float32"] < 1e-6
    assert errors["tf32"] == errors["float32"]  # units that a CPU does not have
    assert 1e-4 < errors["bfloat16"] < 2e-2


@pytest.mark.parametrize("before", [True, False])
def test_the_choice_of_units_is_restored(before):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = before
    with arithmetic("tf32", CPU):
        assert torch.backends.cudnn.allow_tf32
        with arithmetic("float32", CPU):
            assert not torch.backends.cudnn.allow_tf32
            assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == before


@pytest.mark.parametrize(("given", "used"), [({}, "float32"), ({"force.precision": "bfloat16"}, "bfloat16")])
def test_mixed_runs_take_float32_unless_told_otherwise(given, used):
    config = load_config(None, "paper-2601.04104", {"lattice.extent": [16, 16], **given})
    assert build_simulation(config, SerialTransport(), "cpu").forces._precision == used


def test_another_precision_is_refused():
    with pytest.raises(ConfigError, match="half"):
        build_simulation(load_config(None, "paper-2601.04104", {"force.precision": "half"}), SerialTransport(), "cpu")
