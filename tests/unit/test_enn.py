"""The default network: what the conformance suite cannot know about it."""

from itertools import product

import pytest
import torch
from torch.nn import functional as F

from hpc_holstein.errors import ConfigError
from hpc_holstein.lattice import square
from hpc_holstein.network.layers import box_offsets
from hpc_holstein.network.models import enn
from hpc_holstein.symmetry.internal import ParticleHoleGroup

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
        offsets = box_offsets(layer.radius, points)
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
    assert len(box_offsets(1, LATTICE.point_group)) == 9
    assert len(box_offsets(2, LATTICE.point_group)) == 25


@pytest.mark.parametrize("changes", [{"radii": ()}, {"radii": (-1,)}, {"scales": (1.0, 0.0)}, {"levels": 0}, {"kT": 0.0}])
def test_options_without_a_network_are_refused(changes):
    with pytest.raises(ConfigError):
        enn.build(enn.Options(**changes), LATTICE)
