"""Networks of levels on the square lattice that have compiled code of their own, :mod:`hpc_holstein.compiled.square_levels`.

It computes what the PyTorch code of ``models/enn.py`` does, to round-off, without gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hpc_holstein.compiled.instructions import LONGEST, PITCH
from hpc_holstein.compiled.square_basis import is_square_group, packed
from hpc_holstein.compiled.square_levels import TOGETHER, VECTOR_BYTES, evaluate
from hpc_holstein.network._fused_levels import Dense, aligned, shared_by_threads

_ELEMENTS = 8


def supported(matrices: NDArray[np.int64], copies: int, radii: Sequence[int], levels: int) -> bool:
    """True if there is compiled code for the point group and the shape of a network, on this processor."""
    stencils = radii[0] == 2 and all(radius <= 1 for radius in radii[1:]) and 2 * sum(radii) <= PITCH - LONGEST
    return bool(VECTOR_BYTES) and stencils and copies % 4 == 0 and levels <= 7 * copies and is_square_group(matrices)


class FusedSquare:
    """Density and ``dn/dmu`` at one temperature; ``layers``: lifting, convolutions, head."""

    def __init__(
        self, layers: Sequence[Dense], matrices: NDArray[np.int64], radii: Sequence[int], scales: Tensor, kT: float
    ) -> None:
        lifting, *_, head = layers
        self._dtype = lifting.bias.numpy().dtype
        self._reach, self._lanes = sum(radii), VECTOR_BYTES // self._dtype.itemsize
        self._copies = len(lifting.bias) // _ELEMENTS
        self._even_start = np.repeat(lifting.bias.numpy(), self._lanes)
        factors = (1 / scales.double()).numpy().astype(self._dtype)
        channels = [len(factors), *[2 * _ELEMENTS * self._copies] * len(radii)]
        sizes = [(2 * radius + 1) * count * PITCH for radius, count in zip([*radii, 0], channels, strict=True)]
        self._size = sum(sizes)
        places = np.cumsum([0, *sizes[:-1]])
        tables = self._tables(layers[:-1], matrices)
        head_tables = self._head(head, kT)
        self._constant = factors, np.array(radii, dtype=np.int64), self._copies, *tables, head_tables, places
        self._spaces: list[tuple[NDArray[np.floating], ...]] = []  # not in use

    def __call__(self, ghosted_field: Tensor, g: float = 1.0) -> tuple[Tensor, Tensor]:
        """``[batch, height, width, 1]`` each, from the shifted field with its halo."""
        field = ghosted_field[..., 0].detach().contiguous()
        shape = len(field), field.shape[1] - 2 * self._reach, field.shape[2] - 2 * self._reach
        density, slope = field.new_empty(shape), field.new_empty(shape)
        arrays = [tensor.numpy() for tensor in (field, density, slope)]

        def part(rows: tuple[int, int]) -> None:
            space = self._space()
            evaluate(*arrays, *rows, self._dtype.type(g), *self._constant, *space)
            self._spaces.append(space)

        shared_by_threads(part, shape[1])
        return density.unsqueeze(-1), slope.unsqueeze(-1)

    def _space(self) -> tuple[NDArray[np.floating], ...]:
        """``rings``, ``parts``, ``lifted`` and ``lines`` of :func:`compiled.square_levels.evaluate` for one thread."""
        try:
            return self._spaces.pop()
        except IndexError:  # all are in use
            half, beyond = len(self._even_start), 2 * self._reach + self._lanes  # read past a row, by sites that are not kept
            rings, parts, lifted = (aligned(n, self._dtype) for n in (self._size + beyond, 2 * half, 2 * half))
            lifted[:half] = self._even_start
            return rings, parts, lifted, aligned(4 * PITCH, self._dtype).reshape(4, PITCH)

    def _tables(self, layers: Sequence[Dense], matrices: NDArray[np.int64]) -> tuple[object, NDArray[np.int64]]:
        """``tables`` and ``layers`` of :func:`compiled.square_levels.evaluate`."""
        weights: list[NDArray[np.float64]] = []
        starts, biases = [], [np.zeros(TOGETHER)]
        for n, layer in enumerate(layers):
            assert layer.odd is not None
            parts = [layer.odd] if n == 0 else [layer.even, layer.odd]
            blocks = [packed(part.double().numpy(), matrices, n == 0, TOGETHER) for part in parts]
            first = sum(table.size for table in weights)
            starts.append([first, first + (len(parts) - 1) * blocks[0].size, blocks[0][0].size, sum(map(len, biases))])
            weights += blocks
            biases.append(layer.bias.double().numpy()[::_ELEMENTS])
        flat = np.concatenate([table.ravel() for table in weights])
        return (flat.astype(self._dtype), np.concatenate(biases).astype(self._dtype)), np.array(starts, dtype=np.int64)

    def _head(self, head: Dense, kT: float) -> tuple[NDArray[np.floating], ...]:
        """``head`` of :func:`compiled.square_levels.evaluate`; the weights of all elements of a copy are one."""
        assert head.odd is not None
        even, odd = (np.ascontiguousarray(part.flatten(1).numpy()[:, ::_ELEMENTS]) for part in (head.even, head.odd))
        return np.array([0.5 / kT], self._dtype), np.repeat(head.bias.numpy(), self._lanes), even, odd
