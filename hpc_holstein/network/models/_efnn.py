"""The layers of the published network, :mod:`hpc_holstein.network.models.efnn`."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from hpc_holstein.interfaces import Lattice
from hpc_holstein.network.layers_efnn import ConstantsModule, Features, ProductLinear, SigmoidNorm
from hpc_holstein.network.models.efnn import Options
from hpc_holstein.symmetry.irreps import real_irreps, symmetry_adapted_basis
from hpc_holstein.symmetry.shells import neighbour_shells

_SITES_PER_CHUNK = {"cpu": 1024, "cuda": 32768}  # fits the caches; fills the device


class EFNN(ConstantsModule):
    """Force on a site from the field around it, decomposed into irreps of the point group.

    Input features: components of the neighbourhood on its symmetry-adapted basis (on the square lattice 45 sites are
    9 A1 + 3 A2 + 6 B1 + 5 B2 + 11 E).  Each hidden layer maps the features and all their pairwise products linearly within
    each irrep (:class:`ProductLinear`), then applies ``y/|y| sigmoid(|y| + b)`` (:class:`SigmoidNorm`, whose 0/0 at vanishing
    doublets is cured).  The output is one A1, from features and products again: the total force.  142,914 weights and 220
    biases, 185,442 multiply-adds and 20,722 features and product features (by component) per site with the default options.

    The published input normalisation is kept inside the model as the buffers ``input_mean`` (zero but for A1) and
    ``input_scale``, one per copy, set by :meth:`calibrate`.  Source: arXiv:2601.04104.  Use ``enn`` instead for
    production: it is more accurate and faster.
    """

    field = "plain"
    predicts = "force"
    filters: Tensor
    input_mean: Tensor
    input_scale: Tensor

    def __init__(self, options: Options, lattice: Lattice) -> None:
        super().__init__()
        irreps = real_irreps(lattice.point_group)
        vectors = np.asarray(lattice.vectors)
        offsets = np.concatenate(neighbour_shells(vectors @ vectors.T, options.radius_squared))
        self.reach = int(np.abs(offsets).max())
        bases = [symmetry_adapted_basis(lattice.point_group.site_permutations(offsets), irrep) for irrep in irreps]
        self.copies = tuple(len(basis) for basis in bases)
        self.dimensions = tuple(irrep.dimension for irrep in irreps)
        self._register_input(np.concatenate([basis.reshape(-1, len(offsets)) for basis in bases]), offsets)
        counts = [self.copies, *((width,) * len(irreps) for width in options.widths)]
        output = tuple(int(k == 0) for k in range(len(irreps)))  # the trivial irrep comes first
        self.maps = nn.ModuleList(ProductLinear(irreps, n, m) for n, m in zip(counts, [*counts[1:], output], strict=True))
        self.activations = nn.ModuleList(SigmoidNorm(n) for n in counts[1:])

    def _register_input(self, basis: NDArray[np.float64], offsets: NDArray[np.int64]) -> None:
        """Filters ``[component, 1, *window]`` that project a neighbourhood on its basis; normalisation per copy."""
        window = (2 * self.reach + 1,) * offsets.shape[1]
        filters = np.zeros((len(basis), 1, *window))
        filters[:, 0, *(offsets + self.reach).T] = basis
        self.register_constant("filters", filters)
        self.register_buffer("input_mean", torch.zeros(sum(self.copies)))
        self.register_buffer("input_scale", torch.ones(sum(self.copies)))

    @property
    def layers(self) -> list[ProductLinear]:
        """The linear maps, from the input on."""
        return cast(list[ProductLinear], list(self.maps))

    @property
    def multiply_adds(self) -> int:
        """Multiplications of weights with features, per site."""
        return sum(layer.multiply_adds(self.dimensions) for layer in self.layers)

    def forward(self, ghosted_field: Tensor) -> Tensor:
        """Force ``[B, Y, X]`` of the field ``[B, Y + 2 reach, X + 2 reach]``, in chunks of sites that bound the memory."""
        components = self._project(ghosted_field)
        forms = [layer.bilinear_forms() for layer in self.layers]
        chunks = components.flatten(1).split(_SITES_PER_CHUNK.get(components.device.type, _SITES_PER_CHUNK["cpu"]), dim=1)
        return torch.cat([self._force(chunk, forms) for chunk in chunks]).reshape(components.shape[1:])

    @torch.no_grad()
    def calibrate(self, ghosted_field: Tensor) -> None:
        """Set the input normalisation from sample fields ``[B, Y + 2 reach, X + 2 reach]``, once before training.

        Mean and standard deviation of each A1 copy; of every other copy the rms of a component, as symmetry makes its mean 0.
        """
        features = self._sorted(self._project(ghosted_field).flatten(1))
        means, scales = [], []
        for k, feature in enumerate(features):
            mean = feature.mean(dim=(1, 2)) if k == 0 else feature.new_zeros(len(feature))
            means.append(mean)
            scales.append((feature - mean[:, None, None]).square().mean(dim=(1, 2)).sqrt())
        self.input_mean.copy_(torch.cat(means))
        scale = torch.cat(scales)
        self.input_scale.copy_(torch.where(scale > 0, scale, 1.0))

    def _project(self, ghosted_field: Tensor) -> Tensor:
        """Components on the symmetry-adapted basis, ``[component, B, *cells]``."""
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[self.filters.ndim - 3]
        return convolve(ghosted_field[:, None], self.filters).transpose(0, 1)

    def _sorted(self, components: Tensor) -> Features:
        """Components ``[component, sites]`` as features ``[copies, d, sites]``, one tensor per irrep."""
        parts = components.split([n * d for n, d in zip(self.copies, self.dimensions, strict=True)])
        return [part.reshape(-1, d, part.shape[1]) for part, d in zip(parts, self.dimensions, strict=True)]

    def _force(self, components: Tensor, forms: list[dict[tuple[int, int], Tensor]]) -> Tensor:
        means, scales = (v[:, None, None].split(self.copies) for v in (self.input_mean, self.input_scale))
        features = [(x - mean) / scale for x, mean, scale in zip(self._sorted(components), means, scales, strict=True)]
        for layer, activation, form in zip(self.layers, self.activations, forms, strict=False):  # the last map stands alone
            features = activation(layer(features, form))
        return self.maps[-1](features, forms[-1])[0][0, 0]
