"""The default network: what the conformance suite cannot know about it."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hpc_holstein.compiled.instructions import LONGEST, VECTOR_BYTES
from hpc_holstein.errors import ConfigError
from hpc_holstein.lattice import cubic, square, triangular
from hpc_holstein.network import _fused_levels, _fused_square
from hpc_holstein.network.layers import GroupConv
from hpc_holstein.network.models import enn
from hpc_holstein.symmetry.internal import ParticleHoleGroup
from hpc_holstein.symmetry.pairs import Pairs

LATTICE = square.build((8, 8))


def small(**changes):
    torch.manual_seed(0)
    return enn.build(enn.Options(copies=1, **changes), LATTICE).double()


def test_untrained_single_level_without_correction_is_the_atomic_limit():
    model = small(levels=1)
    torch.nn.init.zeros_(model.head.weight)
    field = torch.randn(1, 16, 16, dtype=torch.float64)
    expected = torch.sigmoid(3.5 * field[:, 4:-4, 4:-4] / 0.1)
    torch.testing.assert_close(model(field), expected, rtol=0, atol=1e-12)


def test_density_stays_between_zero_and_one():
    density = small()(20 * torch.randn(1, 30, 30, dtype=torch.float64))
    assert density.min() >= 0
    assert density.max() <= 1 + 1e-14


def test_inference_kernels_follow_the_weights():
    model = small()
    field = torch.randn(1, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        before = model(field)
        model.layers[1].weight.mul_(1.5)
        after = model(field)
    assert (before - after).abs().max() > 1e-6
    torch.testing.assert_close(after, model(field).detach(), rtol=0, atol=1e-14)


def test_inference_kernels_follow_a_fused_optimiser():
    model = small()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    field = torch.randn(1, 16, 16, dtype=torch.float64)
    for _ in range(2):
        model.train()
        model(field).square().sum().backward()
        optimiser.step()
        model.eval()
        with torch.no_grad():
            evaluated = model(field)
        torch.testing.assert_close(evaluated, model(field).detach(), rtol=0, atol=1e-14)


def dense_feature_maps(model):
    """Kernels ``W[(o, x), (i, y), d] = w[o, i, x^-1 y, x^-1 d]`` by loops over the whole group, without the parity trick."""
    group = ParticleHoleGroup(LATTICE.point_group)
    points, table, inverse = LATTICE.point_group, group.product_table, group.inverse
    kernels = []
    for number, layer in enumerate(model.layers):
        offsets = Pairs.within(LATTICE, layer.radius).offsets
        back = points.site_permutations(offsets)[points.inverse]
        inputs = layer.weight.shape[1] * (1 if number == 0 else 16)
        kernel = torch.zeros(16 * layer.weight.shape[0], inputs, len(offsets), dtype=torch.float64)
        for o, x, i, d in product(range(layer.weight.shape[0]), range(16), range(layer.weight.shape[1]), range(len(offsets))):
            if number == 0:
                kernel[o * 16 + x, i, d] = int(group.parity[x]) * layer.weight[o, i, back[x % 8, d]]
                continue
            for y in range(16):
                element = table[inverse[x], y] * len(offsets) + back[x % 8, d]
                kernel[o * 16 + x, i * 16 + y, d] = layer.weight[o, i, element]
        edge = 2 * layer.radius + 1
        kernels.append((kernel.view(*kernel.shape[:2], edge, edge), layer.bias.repeat_interleave(16)))
    return kernels


def test_parity_blocks_are_the_group_convolution():
    model = small(radii=(1, 1, 0), levels=3)
    for layer in model.layers:
        torch.nn.init.normal_(layer.bias)
    field = torch.randn(2, 12, 11, dtype=torch.float64)
    with torch.no_grad():
        x = torch.tanh(3.5 * field.unsqueeze(1) / torch.tensor(model.options.scales).double().view(-1, 1, 1))
        for kernel, bias in dense_feature_maps(model):
            x = F.silu(F.conv2d(x, kernel, bias))
        plain, exchanged = x.unflatten(1, (-1, 2, 8)).sum(dim=3).unbind(2)
        weight = model.head.weight
        even = torch.einsum("lc,bcyx->blyx", weight[:3], plain + exchanged) + model.head.bias.view(-1, 1, 1)
        odd = torch.einsum("lc,bcyx->blyx", weight[3:], plain - exchanged)
        energy = 3.5 * field[:, None, 2:-2, 2:-2] + odd
        expected = (torch.softmax(even, 1) * torch.sigmoid(energy / 0.1)).sum(1)
        torch.testing.assert_close(model(field), expected, rtol=0, atol=1e-12)


def test_box_keeps_whole_orbits():
    assert [len(Pairs.within(LATTICE, radius)) for radius in (1, 2)] == [9, 25]
    assert [len(Pairs.within(triangular.build((8, 8)), radius)) for radius in (1, 2)] == [7, 19]


def test_a_smaller_set_of_pairs_keeps_the_window_of_its_radius():
    """What a layer consumes of the halo follows from the radius that was asked for."""
    few = replace(Pairs.on_site(LATTICE), radius=2)
    assert GroupConv(few, 1, 1, True).kernels()[0].shape == (8, 8, 5, 5)


@pytest.mark.parametrize("changes", [{"radii": ()}, {"radii": (-1,)}, {"scales": (1.0, 0.0)}, {"levels": 0}, {"kT": 0.0}])
def test_options_without_a_network_are_refused(changes):
    with pytest.raises(ConfigError):
        enn.build(enn.Options(**changes), LATTICE)


def varied(dtype=torch.float64, **changes):
    """A network whose parameters are all in use, which compiled code exists for."""
    torch.manual_seed(0)
    model = enn.build(enn.Options(**{"copies": 4, **changes}), LATTICE).to(dtype)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


compiled = pytest.mark.skipif(not VECTOR_BYTES, reason="no compiled network for this processor")
SHAPES = [
    {},
    {"radii": (2, 0, 1), "copies": 8, "levels": 3},
    {"radii": (2,), "scales": (3.0,)},
    {"radii": (1, 3, 0), "copies": 3, "levels": 40},
    {"kT_range": (0.05, 0.2), "radii": (2, 1)},
]


def by_pytorch(model, field):
    return torch.stack([part.detach() for part in model.response(field)])  # gradients are recorded


def by_compiled_code(model, field):
    with torch.no_grad():
        assert model.is_fused(field.device)
        found = torch.stack(model.response(field))
        assert torch.equal(model(field), found[0])
    return found


@compiled
@pytest.mark.parametrize("changes", SHAPES)
def test_compiled_code_does_what_pytorch_does(changes):
    model, field = varied(**changes), 5 * torch.randn(2, 23, 31, dtype=torch.float64)
    if model.takes_kT:
        model.at(3.0, 0.17)
    difference = (by_compiled_code(model, field) - by_pytorch(model, field)).abs()
    assert difference[0].max() < 2e-13
    assert difference[1].max() < 2e-12  # levels of a size of 10 are rounded, and their derivative is sharper by 1 / kT


@compiled
@pytest.mark.parametrize("changes", SHAPES)
def test_compiled_code_rounds_no_worse_than_pytorch(changes):
    model, field = varied(torch.float32, **changes), 5 * torch.randn(2, 40, 40)
    found, expected = by_compiled_code(model, field), by_pytorch(model, field)
    exact = by_pytorch(model.double(), field.double())
    for part in range(2):
        rounding = (expected[part] - exact[part]).square().mean().sqrt()
        one_more = torch.finfo(torch.float32).eps / 4  # of a number near 1
        assert (found[part] - exact[part]).square().mean().sqrt() < 1.5 * rounding + one_more
        assert rounding < 1e-5


@compiled
def test_compiled_code_takes_wide_fields_and_threads():
    model, threads = varied(radii=(2, 0)), torch.get_num_threads()
    field = 5 * torch.randn(1, 60, LONGEST + 30, dtype=torch.float64)
    expected = by_pytorch(model, field)
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            torch.testing.assert_close(by_compiled_code(model, field), expected, rtol=0, atol=2e-12)
    finally:
        torch.set_num_threads(threads)


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_compiled_code_gives_the_same_bits_wherever_a_site_lies(dtype):
    model, field = varied(dtype), 5 * torch.randn(1, 40, 60, dtype=dtype)
    whole = model(field)
    for y, x in product((0, 1, 5), (0, 1, 3, 17)):
        torch.testing.assert_close(model(field[:, y : y + 30, x : x + 37]), whole[:, y : y + 22, x : x + 29], rtol=0, atol=0)


@compiled
@torch.no_grad()
def test_compiled_code_has_the_symmetries():
    model, field = varied(), 5 * torch.randn(1, 24, 24, dtype=torch.float64)
    density = model(field)
    torch.testing.assert_close(model(-field), 1 - density, rtol=0, atol=1e-14)
    torch.testing.assert_close(model(field.rot90(1, (1, 2))), density.rot90(1, (1, 2)), rtol=0, atol=1e-13)
    torch.testing.assert_close(model(field.flip(1)), density.flip(1), rtol=0, atol=1e-13)


@compiled
@torch.no_grad()
def test_compiled_code_lets_nothing_undefined_pass():
    model, field = varied(torch.float32), 5 * torch.randn(1, 30, 30)
    field[0, 15, 15] = float("nan")
    density = model(field)
    assert density[0, 11, 11].isnan()
    assert density[0, :5].isfinite().all()
    field[0, 15, 15] = 1e30
    assert model(field).isfinite().all()


@compiled
@torch.no_grad()
def test_compiled_code_follows_the_weights():
    model, field = varied(), torch.randn(1, 16, 16, dtype=torch.float64)
    before = model(field)
    model.layers[1].weight.mul_(1.5)
    assert (before - model(field)).abs().max() > 1e-6
    with torch.enable_grad():
        expected = model(field).detach()
    torch.testing.assert_close(model(field), expected, rtol=0, atol=1e-13)


@compiled
@torch.no_grad()
def test_what_is_evaluated_by_pytorch(monkeypatch):
    for kind in (_fused_levels.FusedLevels, _fused_square.FusedSquare):
        monkeypatch.setattr(kind, "__call__", None)
    field = torch.randn(1, 16, 16, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert varied(torch.float32)(field.float()).isfinite().all()
    with torch.enable_grad():
        assert varied()(field).isfinite().all()
    solid = enn.build(enn.Options(copies=2, radii=(1, 0)), cubic.build((8, 8, 8))).double()
    assert not solid.is_fused(field.device)
    assert solid(torch.randn(1, 5, 5, 5, dtype=torch.float64)).isfinite().all()
    with pytest.raises(TypeError):
        varied()(field)
