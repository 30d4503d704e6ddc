"""Compiled networks of levels on every lattice of one and two dimensions: what PyTorch computes, the same bits anywhere."""

from itertools import product

import pytest
import torch
from conformance.cases import LATTICES, build_lattice, load

from hpc_holstein.compiled.instructions import LONGEST, VECTOR_BYTES
from hpc_holstein.network import _fused_levels, models

pytestmark = pytest.mark.skipif(not VECTOR_BYTES, reason="no compiled network for this processor")

FLAT = [name for name in LATTICES if len(build_lattice(name, 1).extent) < 3]
SHAPES = {
    "plain": {"copies": 2, "radii": (1, 1, 0)},
    "wide": {"copies": 4, "radii": (2, 0, 1), "scales": (3.0,), "levels": 11},
    "odd": {"copies": 3, "radii": (0, 2), "scales": (6.0, 3.0, 1.0, 0.4, 0.2), "levels": 1},
    "kT": {"copies": 1, "radii": (1, 1), "kT_range": (0.1, 0.4)},
}
OF_MATRIX = {"plain": {"outputs": 2}, "wide": {"outputs": 1, "pair_scales": (0.3, 1.0, 2.0)}, "odd": {"outputs": 0}, "kT": {}}
CELLS = {1: (37,), 2: (13, 21)}

EVERYWHERE = ("plain", "kT")
SOME = [("chain", "enn"), ("triangular", "enn"), ("honeycomb", "enn"), ("square", "enn_matrix"), ("kagome", "enn_matrix")]
each = pytest.mark.parametrize(
    ("name", "model", "shape"),
    [*product(FLAT, ("enn", "enn_matrix"), EVERYWHERE), *((*one, shape) for one, shape in product(SOME, ("wide", "odd")))],
)
one = pytest.mark.parametrize(("name", "model"), list(product(FLAT, ("enn", "enn_matrix"))))


def built(name, model, shape="plain", dtype=torch.float64):
    """A network all of whose weights are in use."""
    lattice, source = build_lattice(name, 16), load(models, model)
    options = {
        "kT": 0.2,
        "levels": 3,
        "scales": (6.4, 1.0),
        **SHAPES[shape],
        **(OF_MATRIX[shape] if model == "enn_matrix" else {}),
    }
    torch.manual_seed(0)
    network = source.build(source.Options(**options), lattice).to(dtype)
    for weights in network.parameters():
        torch.nn.init.normal_(weights, std=0.15)
    if network.takes_kT:
        network.at(1.0, 0.17)
    return network.eval()


def field_of(network, cells, batch=2, seed=1):
    """With a halo."""
    basis = len(network._lattice.basis)
    numbers = (len(network.elements),) if network.field == "matrix" else (basis,) if basis > 1 else ()
    edges = [count + 2 * network.reach for count in cells]
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(batch, *edges, *numbers, generator=generator, dtype=torch.float64).to(
        next(network.parameters()).dtype
    )


def by_pytorch(network, field):
    return [part.detach() for part in network.response(field)]  # gradients are recorded


def by_compiled_code(network, field):
    assert network.is_fused(field.device)
    with torch.no_grad():
        found = network.response(field)
        assert torch.equal(network(field), found[0])
    return found


@each
def test_what_pytorch_computes(name, model, shape):
    network = built(name, model, shape)
    field = field_of(network, CELLS[len(network._lattice.extent)])
    found, expected = by_compiled_code(network, field), by_pytorch(network, field)
    for part in range(2):
        torch.testing.assert_close(found[part], expected[part], rtol=0, atol=1e-12)
    assert float(found[0].std()) > 0.01


@one
def test_single_precision(name, model):
    network = built(name, model, dtype=torch.float32)
    field = field_of(network, CELLS[len(network._lattice.extent)])
    found, expected = by_compiled_code(network, field), by_pytorch(network, field)
    exact = by_pytorch(network.double(), field.double())
    for part in range(2):
        rounding = float((expected[part] - exact[part]).square().mean().sqrt())
        assert float((found[part] - exact[part]).square().mean().sqrt()) < 1.5 * rounding + 3e-8
        torch.testing.assert_close(found[part], expected[part], rtol=0, atol=2e-5)


@one
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_bits_wherever_a_cell_lies(name, model, dtype):
    """In windows of any shape and place, with any number of threads, in any batch; wider ones than are evaluated at once."""
    network = built(name, model, dtype=dtype)
    axes, halo = len(network._lattice.extent), 2 * network.reach
    field = field_of(network, (LONGEST + 30,) if axes == 1 else (40, LONGEST + 30), batch=1)
    whole, threads = by_compiled_code(network, field), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        parallel = by_compiled_code(network, torch.cat([field, field.flip(1)]))
    finally:
        torch.set_num_threads(threads)
    for part in range(2):
        assert torch.equal(parallel[part][:1], whole[part])
    for start in product((0, 1, 5), repeat=axes):
        cut = [slice(first, first + count + halo) for first, count in zip(start, (33, 250)[-axes:], strict=True)]
        found = by_compiled_code(network, field[(slice(None), *cut)])
        inside = [slice(along.start, along.stop - halo) for along in cut]
        for part in range(2):
            assert torch.equal(found[part], whole[part][(slice(None), *inside)])


@one
def test_weights_that_change_in_place(name, model):
    network = built(name, model)
    field = field_of(network, CELLS[len(network._lattice.extent)])
    before = by_compiled_code(network, field)
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(1.1)
    after = by_compiled_code(network, field)
    assert float((after[0] - before[0]).abs().max()) > 1e-6
    torch.testing.assert_close(after[0], by_pytorch(network, field)[0], rtol=0, atol=1e-12)


def test_a_network_of_another_kind_is_evaluated_by_pytorch(monkeypatch):
    monkeypatch.setattr(_fused_levels.FusedLevels, "__call__", None)
    lattice, source = build_lattice("square", 16), load(models, "enn_energy")
    network = source.build(source.Options(copies=2, radii=(1, 0)), lattice).double()
    assert not network.is_fused(torch.device("cpu"))
    with torch.no_grad():
        assert network(torch.randn(1, 12, 12, dtype=torch.float64)).isfinite().all()
