"""The default network: what the conformance suite cannot know about it."""

import pytest
import torch

from hpc_holstein.errors import ConfigError
from hpc_holstein.lattice import square
from hpc_holstein.network.layers import box_offsets
from hpc_holstein.network.models import enn

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


def test_weights_are_shared_over_the_group():
    model = small()
    dense = sum(layer.kernel().numel() for layer in model.layers)
    free = sum(layer.weight.numel() for layer in model.layers)
    assert dense == 16 * free


def test_box_keeps_whole_orbits():
    assert len(box_offsets(1, LATTICE.point_group)) == 9
    assert len(box_offsets(2, LATTICE.point_group)) == 25


@pytest.mark.parametrize("changes", [{"radii": ()}, {"radii": (-1,)}, {"scales": (1.0, 0.0)}, {"levels": 0}, {"kT": 0.0}])
def test_options_without_a_network_are_refused(changes):
    with pytest.raises(ConfigError):
        enn.build(enn.Options(**changes), LATTICE)
