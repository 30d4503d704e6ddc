"""Networks that the package is compared with and does not ship; no group convolution in any of them.

All but E-FNN read the shifted field and end in the read-out of ``enn`` (effective levels that start in the atomic limit), so
what differs is the body alone.  ``forward``: ghosted field ``[batch, Y + 2 reach, X + 2 reach]`` -> density ``[batch, Y, X]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hpc_holstein.interfaces import Lattice
from hpc_holstein.network.models import efnn, enn
from hpc_holstein.network.models._efnn import EFNN
from hpc_holstein.network.models._enn import Enn

COUPLING, TEMPERATURE, LEVELS = 3.5, 0.1, 8
SCALES = enn.Options().scales


class LevelReadOut(nn.Module):
    """``n = sum_j a_j f(e_j)``, with weights ``a_j`` and energies ``e_j`` relative to ``-g Q'`` from ``2 LEVELS`` channels."""

    field = "shifted"
    predicts = "density"
    sharpness = 100.0
    reach: int

    def _density(self, channels: Tensor, field: Tensor) -> Tensor:
        logit, level = channels.movedim(1, -1).chunk(2, dim=-1)
        edge = self.reach
        centre = COUPLING * field[:, edge : field.shape[1] - edge, edge : field.shape[2] - edge]
        occupied = torch.sigmoid((centre[..., None] + level) / TEMPERATURE)
        return (F.softmax(logit, dim=-1) * occupied).sum(dim=-1)


class PlainCNN(LevelReadOut):
    """The layers of ``enn`` as ordinary convolutions: neither point group nor particle-hole symmetry is built in."""

    def __init__(self, width: int, radii: tuple[int, ...] = (2, 1, 1, 0)) -> None:
        super().__init__()
        self.reach = sum(radii)
        sizes = [len(SCALES), *(width for _ in radii)]
        self.body = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 2 * r + 1), nn.SiLU())
                for a, b, r in zip(sizes[:-1], sizes[1:], radii, strict=True)
            ),
            nn.Conv2d(width, 2 * LEVELS, 1),
        )
        self.register_buffer("_scales", torch.tensor(SCALES), persistent=False)

    def forward(self, ghosted_field: Tensor) -> Tensor:
        """Density of the interior."""
        scales = cast(Tensor, self._scales).view(-1, 1, 1)
        x = torch.tanh(COUPLING * ghosted_field[:, None] / scales)
        return self._density(self.body(x.contiguous(memory_format=torch.channels_last)), ghosted_field)


class DescriptorMLP(LevelReadOut):
    """A perceptron on the values at the 45 sites with ``r^2 <= 13``, for each site alone; no symmetry."""

    def __init__(self, widths: tuple[int, ...] = (160, 160, 64)) -> None:
        super().__init__()
        self.reach = 3
        offsets = torch.arange(-3, 4)
        inside = (offsets[:, None] ** 2 + offsets**2 <= 13).flatten()
        self.sites = int(inside.sum())
        taps = torch.zeros(self.sites, 1, 49)
        taps[torch.arange(self.sites), 0, inside.nonzero()[:, 0]] = 0.2  # fields are about 5
        self.register_buffer("_gather", taps.view(self.sites, 1, 7, 7), persistent=False)
        sizes = [self.sites, *widths]
        self.body = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(a, b, 1), nn.SiLU()) for a, b in pairwise(sizes)),
            nn.Conv2d(widths[-1], 2 * LEVELS, 1),
        )

    def forward(self, ghosted_field: Tensor) -> Tensor:
        """Density of the interior."""
        x = F.conv2d(ghosted_field[:, None], cast(Tensor, self._gather))
        return self._density(self.body(x.contiguous(memory_format=torch.channels_last)), ghosted_field)


class GraphNetwork(LevelReadOut):
    """Message passing on the lattice: ``m_ij = silu(A h_i + B h_j + b)`` over nearest and over diagonal neighbours.

    ``h_i <- h_i + V silu(U [h_i, C sum_nn m_ij, D sum_nnn m_ij])``, ``rounds`` times: each reaches one cell further.
    Messages do not know the direction of a bond, which makes it invariant under the point group.
    """

    _SHELLS = (((0, 1), (0, -1), (1, 0), (-1, 0)), ((1, 1), (1, -1), (-1, 1), (-1, -1)))

    def __init__(self, width: int = 16, rounds: int = 4) -> None:
        super().__init__()
        self.reach = rounds
        self.embed = nn.Conv2d(len(SCALES), width, 1)
        self.own = nn.ModuleList(nn.Conv2d(width, 2 * width, 1) for _ in range(rounds))
        self.other = nn.ModuleList(nn.Conv2d(width, 2 * width, 1, bias=False) for _ in range(rounds))
        self.gathered = nn.ModuleList(nn.Conv2d(2 * width, 2 * width, 1, groups=2, bias=False) for _ in range(rounds))
        self.update = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3 * width, width, 1), nn.SiLU(), nn.Conv2d(width, width, 1)) for _ in range(rounds)
        )
        self.head = nn.Sequential(nn.Conv2d(width, width, 1), nn.SiLU(), nn.Conv2d(width, 2 * LEVELS, 1))
        self.register_buffer("_scales", torch.tensor(SCALES), persistent=False)

    def forward(self, ghosted_field: Tensor) -> Tensor:
        """Density of the interior."""
        scales = cast(Tensor, self._scales).view(-1, 1, 1)
        x = torch.tanh(COUPLING * ghosted_field[:, None] / scales).contiguous(memory_format=torch.channels_last)
        h = F.silu(self.embed(x))
        for own, other, gathered, update in zip(self.own, self.other, self.gathered, self.update, strict=True):
            inside = h[:, :, 1:-1, 1:-1]
            receivers, senders = own(inside).chunk(2, dim=1), other(h).chunk(2, dim=1)
            sums = [self._messages(r, s, shell) for r, s, shell in zip(receivers, senders, self._SHELLS, strict=True)]
            h = inside + update(torch.cat([inside, gathered(torch.cat(sums, dim=1))], dim=1))
        return self._density(self.head(h), ghosted_field)

    @staticmethod
    def _messages(receiver: Tensor, sender: Tensor, shell: tuple[tuple[int, int], ...]) -> Tensor:
        rows, columns = receiver.shape[2:]
        parts = [F.silu(receiver + sender[:, :, 1 + dy : 1 + dy + rows, 1 + dx : 1 + dx + columns]) for dy, dx in shell]
        return torch.stack(parts).sum(dim=0)


def multiply_adds(network: Any) -> int:
    """Multiplications of weights with features in one evaluation of a site."""
    if isinstance(network, EFNN):
        return network.multiply_adds
    if isinstance(network, Enn):
        with torch.no_grad():
            lifting, *rest = network._kernels(network.kT)
        return lifting.odd.numel() + sum(layer.even.numel() + layer.odd.numel() for layer in rest)
    return sum(module.weight.numel() for module in network.modules() if isinstance(module, nn.Conv2d))


def networks(lattice: Lattice) -> dict[str, Callable[[], nn.Module]]:
    """Constructors of all that are compared, by name."""
    shapes = {"enn copies 4": (4, (2, 1, 1, 0)), "enn copies 2": (2, (2, 1, 1, 0)), "enn copies 8": (8, (2, 1, 1, 0))}
    reaches = {"enn reach 1": (4, (1, 0, 0, 0)), "enn reach 2": (4, (1, 1, 0, 0)), "enn reach 3": (4, (1, 1, 1, 0))}
    reaches |= {"enn reach 5": (4, (2, 1, 1, 1))}

    def group(copies: int, radii: tuple[int, ...]) -> Callable[[], nn.Module]:
        return lambda: enn.build(enn.Options(copies=copies, radii=radii), lattice)

    plain = {"CNN": lambda: PlainCNN(44), "CNN augmented": lambda: PlainCNN(44), "MLP": DescriptorMLP}
    found: dict[str, Callable[[], nn.Module]] = {name: group(*shape) for name, shape in shapes.items()}
    found |= plain | {name: group(*shape) for name, shape in reaches.items()}
    return found | {"graph": GraphNetwork, "E-FNN": lambda: efnn.build(efnn.Options(), lattice)}


class NaiveEFNN:
    """E-FNN with all pair products formed, sorted by irrep, concatenated to the features and stored, as published."""

    def __init__(self, lattice: Lattice) -> None:
        self.network = efnn.build(efnn.Options(), lattice).eval()
        offsets = np.arange(-3, 4)
        inside = offsets[:, None] ** 2 + offsets**2 <= 13
        self.basis = self.network.filters[:, 0].double().numpy()[:, inside]  # [component, 45]

    def __call__(self, ghosted_field: Tensor) -> Tensor:
        """Force of all sites at once."""
        return self.on(self.network._project(ghosted_field).flatten(1)).reshape(
            len(ghosted_field), ghosted_field.shape[1] - 6, ghosted_field.shape[2] - 6
        )

    def on(self, components: Tensor) -> Tensor:
        """Force of sites from their ``components [component, sites]``."""
        net = self.network
        means, scales = (v[:, None, None].split(net.copies) for v in (net.input_mean, net.input_scale))
        features = [(x - m) / s for x, m, s in zip(net._sorted(components), means, scales, strict=True)]
        for layer, activation in zip(net.layers, [*net.activations, None], strict=True):
            columns = [[x] for x in features]
            for (a, b), targets in layer.paths.items():
                for c, _, name in targets:
                    products = torch.einsum("klm,iks,jls->ijms", layer.get_buffer(name), features[a], features[b])
                    i, j = torch.triu_indices(len(features[a]), len(features[b]), 1) if a == b else (None, None)
                    columns[c].append(products.flatten(0, 1) if i is None else products[i, j])
            joined = [torch.cat(parts) for parts in columns]
            features = [(w @ x.flatten(1)).view(-1, *x.shape[1:]) for w, x in zip(layer.weights, joined, strict=True)]
            if activation is not None:
                features = activation(features)
        return features[0][0, 0]


def gathered(field: NDArray[np.float64], rows: Iterable[int], columns: Iterable[int], basis: NDArray[np.float64]) -> Tensor:
    """Components of the neighbourhoods ``[component, sites]``, gathered site by site in Python."""
    height, width = field.shape
    offsets = [(dy, dx) for dy in range(-3, 4) for dx in range(-3, 4) if dy * dy + dx * dx <= 13]
    found = []
    for y in rows:
        for x in columns:
            values = [field[(y + dy) % height, (x + dx) % width] for dy, dx in offsets]
            found.append(basis @ np.array(values))
    return torch.from_numpy(np.stack(found, axis=1)).float()


class RegularNetwork:
    """An ``enn`` written with one dense kernel a layer between regular representations of point group x particle-hole.

    Channel ``(copy, g)`` stands for ``f[g]``, then ``(copy, g)`` again for ``f[g s]``; no parts of definite parity.
    """

    def __init__(self, network: Enn) -> None:
        self._network, (lifting, *layers) = network, network._kernels(network.kT)
        self._lift = torch.cat([lifting.odd, -lifting.odd]), lifting.bias.repeat(2)
        self._layers, head = [], layers.pop()
        for even, odd, bias in layers:  # features from even = f[g] + f[g s], odd = f[g] - f[g s]
            kernel = torch.cat([torch.cat([even + odd, even - odd], dim=1), torch.cat([even - odd, even + odd], dim=1)])
            self._layers.append((kernel, bias.repeat(2)))
        even = torch.cat([head.even, head.even], dim=1)
        self._head = torch.cat([even, torch.cat([head.odd, -head.odd], dim=1)]), torch.cat([head.bias, torch.zeros(LEVELS)])

    @property
    def multiply_adds(self) -> int:
        """Multiplications of weights with features, a site."""
        return sum(kernel.numel() for kernel, _ in (self._lift, *self._layers, self._head))

    def __call__(self, ghosted_field: Tensor) -> Tensor:
        """Density of the interior."""
        net = self._network
        energy = net.g * ghosted_field
        x = torch.tanh(energy[:, None] / net._scales.view(-1, 1, 1))
        for kernel, bias in (self._lift, *self._layers):
            x = F.silu(F.conv2d(x, kernel, bias))
        logit, level = F.conv2d(x, *self._head).split(LEVELS, dim=1)
        edge = net.reach
        level = energy[:, None, edge : energy.shape[1] - edge, edge : energy.shape[2] - edge] + level
        return (F.softmax(logit, dim=1) * torch.sigmoid(level / net.kT)).sum(dim=1)
