"""Networks through recordings; a recorder of the CPU stands in for CUDA graphs."""

import pytest
import torch

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import ConfigError
from hpc_holstein.forces import neural
from hpc_holstein.forces._graphs import Recording, Replayed
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square
from hpc_holstein.network.checkpoint import load_model
from hpc_holstein.network.packaged import default_model_path

CANONICAL = Ensemble("canonical", 0.1)


class Recorder:
    """What a CUDA graph does: fixed places for input and outputs, and no Python of the network after the recording."""

    def __init__(self):
        self.recorded = []

    def __call__(self, function, network, field):
        self.recorded.append((function, tuple(field.shape)))
        seen = field.clone()
        outputs = tuple(output.clone() for output in function(network, seen))

        def replay():
            for place, output in zip(outputs, function(network, seen), strict=True):
                place.copy_(output)

        return Recording(seen, replay, outputs)


def providers(extent):
    lattice = square.build(extent)
    hamiltonian, domain = holstein.build(holstein.Options(), lattice), CartesianDomain(lattice, SerialTransport())
    recorder, module = Recorder(), load_model(default_model_path(), lattice)[0]
    through = NeuralForces(
        module, hamiltonian, domain, CANONICAL, precision="float32", following=1e-4, replayed=Replayed(recorder)
    )
    return through, neural.build(neural.Options(precision="float32"), hamiltonian, domain, CANONICAL), recorder


@pytest.mark.parametrize("extent", [(20, 24), (100, 150)])
def test_the_same_bits_along_a_path_from_one_recording_of_each_function(extent):
    through, plain, recorder = providers(extent)
    generator = torch.Generator().manual_seed(1)
    q, velocity = (2 * torch.randn(*extent, 1, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    one, other = None, None
    for step in range(4):
        here = State(q=q + 0.01 * step * velocity, velocity=velocity)
        one, other = through(here.moved(forces=one)), plain(here.moved(forces=other))
        assert torch.equal(one.force, other.force)
        assert torch.equal(one.chemical_potential, other.chemical_potential)
    assert len(recorder.recorded) == len(set(recorder.recorded)) == 2  # solving for mu, following it


def test_batches_of_another_size_have_their_own_recording():
    through, plain, recorder = providers((16, 16))
    q = 2 * torch.randn(3, 16, 16, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for states in (q, q[:1], q):
        assert torch.equal(through(State.at_rest(states)).force, plain(State.at_rest(states)).force)
    assert {shape[0] for _, shape in recorder.recorded} >= {1, 3}


def test_there_are_no_graphs_on_a_cpu():
    lattice = square.build((10, 10))
    hamiltonian, domain = holstein.build(holstein.Options(), lattice), CartesianDomain(lattice, SerialTransport())
    with pytest.raises(ConfigError, match=r"cuda_graphs = true on the device cpu.*set it to false"):
        neural.build(neural.Options(cuda_graphs=True), hamiltonian, domain, CANONICAL)
