"""The published network: its counts, its symmetry for every element and translation, and a plain-loop reference."""

import dataclasses

import numpy as np
import pytest
import torch
from named_groups import named_group

from hpc_holstein.errors import ConfigError
from hpc_holstein.lattice import square
from hpc_holstein.network.layers_efnn import ProductLinear, SigmoidNorm
from hpc_holstein.network.models import _efnn, efnn
from hpc_holstein.symmetry.clebsch_gordan import clebsch_gordan
from hpc_holstein.symmetry.irreps import real_irreps

SIZE = 7
LATTICE = square.build((SIZE, SIZE))


def network(dtype=torch.float64, perturbed=False, **options):
    torch.manual_seed(3)
    model = efnn.build(efnn.Options(**options), LATTICE)
    if perturbed:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
    return model.to(dtype)


def evaluate(model, field):
    """Force of periodic fields ``[B, SIZE, SIZE]``."""
    index = torch.arange(-model.reach, SIZE + model.reach) % SIZE
    with torch.no_grad():
        return model(field[:, index][:, :, index])


def moved(field, matrix):
    """``f'(M r) = f(r)`` on the periodic lattice."""
    rows, columns = np.indices((SIZE, SIZE))
    target = np.einsum("ij,jyx->iyx", np.array(matrix), np.stack([rows, columns])) % SIZE
    result = torch.empty_like(field)
    result[:, target[0], target[1]] = field
    return result


def random_field(dtype=torch.float64, batch=1):
    return 5 * torch.randn(batch, SIZE, SIZE, dtype=dtype, generator=torch.Generator().manual_seed(1))


def checkerboard(dtype, even=1.7, odd=-1.3):
    parity = torch.arange(9)[:, None] + torch.arange(9)
    return torch.where(parity % 2 == 0, even, odd).to(dtype)[None]


def test_published_counts():
    model = network()
    weights = [w.numel() for layer in model.layers for w in layer.weights]
    assert model.copies == (9, 3, 6, 5, 11)
    assert model.reach == 3
    assert (model.field, model.predicts) == ("plain", "force")
    assert sum(weights) == 142_914
    assert sum(p.numel() for p in model.parameters()) == 142_914 + 5 * (32 + 8 + 4)
    assert model.multiply_adds == 185_442
    inputs = [sum(n * d for n, d in zip(layer.columns, model.dimensions, strict=True)) for layer in model.layers[:-1]]
    assert [layer.columns for layer in model.layers[:1]] == [(128, 115, 130, 123, 264)]
    assert sum(inputs) + model.layers[-1].columns[0] == 20_722


@pytest.mark.parametrize("perturbed", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-4)])
def test_equivariance(dtype, tolerance, perturbed):
    model, field = network(dtype, perturbed), random_field(dtype)
    model.calibrate(torch.randn(1, 30, 30, dtype=dtype) * 5)
    force = evaluate(model, field)
    assert force.std() > 0.01
    for matrix in LATTICE.point_group.matrices:
        error = (evaluate(model, moved(field, matrix)) - moved(force, matrix)).abs()
        # The activation jumps at 0: in float32 a feature may round to either side of it, at a few sites.
        assert torch.quantile(error, 0.9 if dtype == torch.float32 else 1.0) < tolerance


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_translation(dtype):
    model, field = network(dtype, perturbed=True), random_field(dtype)
    shifts = [(dy, dx) for dy in range(SIZE) for dx in range(SIZE)]
    batch = torch.cat([field.roll(shift, dims=(1, 2)) for shift in shifts])
    force = evaluate(model, field)
    expected = torch.cat([force.roll(shift, dims=(1, 2)) for shift in shifts])
    error = (evaluate(model, batch) - expected).abs()
    assert torch.quantile(error, 0.95 if dtype == torch.float32 else 1.0) < (1e-11 if dtype == torch.float64 else 2e-4)


def test_force_follows_its_neighbourhood_alone():
    model = network()
    window = torch.randn(1, 7, 7, dtype=torch.float64)
    offsets = torch.arange(-3, 4)
    outside = offsets[:, None] ** 2 + offsets**2 > 13
    with torch.no_grad():
        before = model(window)
        assert torch.equal(model(torch.where(outside, 100.0, window)), before)
        inside = window.clone()
        inside[0, 0, 1] += 1  # r^2 = 13
        assert not torch.allclose(model(inside), before, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("perturbed", [False, True])
def test_ordered_and_empty_states_are_finite(dtype, perturbed):
    model = network(dtype, perturbed)
    for field in (torch.zeros(1, 9, 9, dtype=dtype), checkerboard(dtype), torch.full((1, 9, 9), 0.7, dtype=dtype)):
        field.requires_grad_()
        force = model(field)
        force.sum().backward()
        assert torch.isfinite(force).all()
        assert torch.isfinite(field.grad).all()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
        for sublattice in (force[0, ::2, ::2], force[0, 1::2, 1::2]):  # the order's own symmetry survives round-off
            assert (sublattice - sublattice.flatten()[0]).abs().max() < (1e-11 if dtype == torch.float64 else 1e-4)


def test_activation_is_the_published_one():
    activation = SigmoidNorm((3, 3)).double()
    with torch.no_grad():
        for bias in activation.bias:
            bias.normal_()
    y = [torch.randn(3, 1, 5).double(), torch.randn(3, 2, 5).double()]
    single, double = activation(y)
    torch.testing.assert_close(single, y[0].sign() * torch.sigmoid(y[0].abs() + activation.bias[0][:, None, None]))
    norm = torch.hypot(y[1][:, 0], y[1][:, 1])[:, None]
    torch.testing.assert_close(double, y[1] / norm * torch.sigmoid(norm + activation.bias[1][:, None, None]))
    assert all((out == 0).all() for out in activation([torch.zeros_like(part) for part in y]))


@pytest.mark.parametrize("name", ["D4", "D6", "C4", "Oh"])
def test_products_against_plain_loops(name):
    irreps = real_irreps(named_group(name))
    torch.manual_seed(0)
    copies = [1 + k % 3 for k in range(len(irreps))]
    layer = ProductLinear(irreps, copies, [2] * len(irreps)).double()
    features = [torch.randn(n, irrep.dimension, 1).double() for n, irrep in zip(copies, irreps, strict=True)]
    sorted_features = [[x[i, :, 0].numpy() for i in range(len(x))] for x in features]
    for a in range(len(irreps)):
        for b in range(a, len(irreps)):
            for c in range(len(irreps)):
                for tensor in clebsch_gordan(irreps[a], irreps[b], irreps[c]):
                    for i in range(copies[a]):
                        for j in range(i + 1 if a == b else 0, copies[b]):
                            x, y = features[a][i, :, 0].numpy(), features[b][j, :, 0].numpy()
                            sorted_features[c].append(np.einsum("klm,k,l->m", tensor, x, y))
    with torch.no_grad():
        outputs = layer(features, layer.bilinear_forms())
    for c, weight in enumerate(layer.weights):
        assert weight.shape == (2, len(sorted_features[c]))
        np.testing.assert_allclose(outputs[c][:, :, 0], weight.detach().numpy() @ np.array(sorted_features[c]), atol=1e-12)


def test_chunks_do_not_matter(monkeypatch):
    model, field = network(), random_field(batch=3)
    whole = evaluate(model, field)
    monkeypatch.setattr(_efnn, "_SITES_PER_CHUNK", {"cpu": 10})
    torch.testing.assert_close(evaluate(model, field), whole, rtol=0, atol=1e-12)


def test_calibration_normalises_and_is_saved():
    model, samples = network(), 5 * torch.randn(2, 40, 40, dtype=torch.float64) + 1
    model.calibrate(samples)
    features = model._sorted(model._project(samples).flatten(1))
    start = 0
    for k, feature in enumerate(features):
        mean, scale = model.input_mean[start : start + len(feature)], model.input_scale[start : start + len(feature)]
        start += len(feature)
        normal = (feature - mean[:, None, None]) / scale[:, None, None]
        torch.testing.assert_close(normal.square().mean(dim=(1, 2)), torch.ones(len(feature), dtype=torch.float64))
        assert (mean == 0).all() == (k > 0)
    rescaled = network()
    rescaled.calibrate(2 * samples + 3)  # units and origin of the field drop out
    torch.testing.assert_close(evaluate(rescaled, 2 * random_field() + 3), evaluate(model, random_field()))
    other = network()
    other.load_state_dict(model.state_dict())
    assert torch.equal(evaluate(other, random_field()), evaluate(model, random_field()))


def test_constants_keep_their_precision():
    round_trip = network(torch.float64).float().double()
    assert torch.equal(round_trip.filters, network(torch.float64).filters)


def test_gradient_reaches_every_weight():
    model = network()
    model(random_field(batch=1)[:, :7, :7]).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for layer in model.layers[:-1] for p in layer.weights)
    assert model.layers[-1].weights[0].grad.abs().min() > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"widths": ()}, "widths"),
        ({"widths": (4, 0)}, "widths"),
        ({"radius_squared": 0.0}, "radius_squared"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ConfigError, match=words):
        efnn.build(efnn.Options(**options), LATTICE)


def test_several_sites_per_cell():
    with pytest.raises(ConfigError, match="2"):
        efnn.build(efnn.Options(), dataclasses.replace(LATTICE, basis=((0.0, 0.0), (0.5, 0.5))))
