"""Every network of ``hpc_holstein/network/models``: equivariance with weights away from their start, reach, shapes.

Those that read the matrix elements of ``H`` have the same tests, on every lattice, in ``test_matrix_networks.py``.
"""

import pytest
import torch
from conformance.cases import MODELS, build_lattice, build_model, load, moved, wrapped

from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble
from hpc_holstein.network import models
from hpc_holstein.network.checkpoint import load_model, make_card, save_model

LATTICE = build_lattice("square", 10)
OF_A_FIELD = [name for name in MODELS if build_model(name, LATTICE).field != "matrix"]
each_model = pytest.mark.parametrize("name", OF_A_FIELD)
each_precision = pytest.mark.parametrize(("dtype", "round_off"), [(torch.float64, 1e-11), (torch.float32, 2e-3)])


def on_torus(network, field):
    with torch.no_grad():
        return network(wrapped(field, network.reach))


def sample(*shape, dtype=torch.float64, std=1.0):
    return std * torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(3))


@each_model
@each_precision
def test_equivariance(name, dtype, round_off):
    """Every element of the point group, and translations; the output does vary from site to site."""
    network, field = build_model(name, LATTICE, dtype), sample(2, 10, 10, dtype=dtype)
    out = on_torus(network, field)
    scale = float(out.abs().max())
    assert float(out.std()) > 1e-3 * scale
    for matrix in LATTICE.point_group.matrices:
        difference = on_torus(network, moved(field, matrix, 1)) - moved(out, matrix, 1)
        assert float(difference.abs().max()) <= round_off * scale
    for shift in ((1, 0), (0, 1), (4, 7)):
        difference = on_torus(network, field.roll(shift, (1, 2))) - out.roll(shift, (1, 2))
        assert float(difference.abs().max()) <= round_off * scale


@each_model
def test_a_wrong_rotation_is_noticed(name):
    """The equivariance test can fail: a field that is not the rotated one gives another output."""
    network, field = build_model(name, LATTICE), sample(1, 10, 10)
    rotation = next(m for m in LATTICE.point_group.matrices if m == ((0, 1), (-1, 0)))
    assert not torch.allclose(on_torus(network, field), moved(on_torus(network, field), rotation, 1), atol=1e-3)


@each_model
def test_reach_is_honest(name):
    """The output of a site depends on sites up to ``reach`` away along an axis, and on none beyond."""
    network = build_model(name, LATTICE)
    reach = network.reach
    width = 2 * (reach + 2) + 1 + 2 * reach
    field = sample(1, width, width, std=0.3).requires_grad_()
    out = network(field)
    centre = out.shape[1] // 2
    (gradient,) = torch.autograd.grad(out[0, centre, centre], field)
    away = (torch.arange(width) - width // 2).abs()
    distance = torch.maximum(away[:, None], away[None])
    assert (gradient[0][distance > reach] == 0).all()
    assert (gradient[0][distance == reach] != 0).any()


@each_model
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 7), (4, 6, 2)])
def test_shape_contract(name, shape):
    """``[B, Y + 2 reach, X + 2 reach] -> [B, Y, X]``, and a site does not depend on the tile it is in."""
    network = build_model(name, LATTICE)
    reach = network.reach
    field = sample(shape[0], shape[1] + 2 * reach, shape[2] + 2 * reach)
    with torch.no_grad():
        out = network(field)
        corner = network(field[:1, -2 * reach - 1 :, -2 * reach - 1 :])
    assert out.shape == shape
    assert torch.allclose(out[0, -1, -1], corner[0, 0, 0], atol=1e-11)


@each_model
@each_precision
def test_special_fields_are_finite(name, dtype, round_off):
    """Zero, uniform, perfectly ordered and huge fields, and their gradients by the weights."""
    network = build_model(name, LATTICE, dtype)
    checkerboard = 1 - 2 * (torch.arange(10)[:, None] + torch.arange(10)).remainder(2).to(dtype)
    for field in (0 * checkerboard, 0 * checkerboard + 2.0, 2 * checkerboard, 30 * checkerboard):
        out = network(wrapped(field[None], network.reach))
        assert torch.isfinite(out).all()
        gradients = torch.autograd.grad(out.sum(), list(network.parameters()), allow_unused=True)
        assert all(torch.isfinite(g).all() for g in gradients if g is not None)


@each_model
def test_facts(name):
    network = build_model(name, LATTICE)
    assert isinstance(network.reach, int)
    assert network.reach > 0
    assert network.field in ("shifted", "plain")
    assert network.predicts in ("density", "grand_potential", "force")


@each_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_model_file_round_trip(name, dtype, tmp_path):
    """The same bits from the file, on a lattice of another size."""
    network, options = build_model(name, LATTICE, dtype), load(models, name).Options()
    system = holstein.build(holstein.Options(), LATTICE)
    card = make_card(
        network, name, options, system, LATTICE, Ensemble("canonical", 0.1), data_hash="", seed=1, metrics={"force_mse": 1e-3}
    )
    save_model(tmp_path / "m.safetensors", network, card)
    back, told = load_model(tmp_path / "m.safetensors", build_lattice("square", 24))
    assert told == card
    field = sample(2, 10, 10, dtype=dtype)
    assert torch.equal(on_torus(back, field), on_torus(network, field))
