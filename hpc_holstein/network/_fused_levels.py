"""A network of levels, evaluated by compiled code on a CPU; see :mod:`hpc_holstein.compiled.levels`.

It computes what the PyTorch code of ``models/enn.py`` and ``models/enn_matrix.py`` does, to round-off, without gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_holstein.compiled.instructions import ABREAST, LONGEST, PITCH, REGISTERS, VECTOR_BYTES, Typed, in_step
from hpc_holstein.compiled.levels import evaluate
from hpc_holstein.interfaces import Bond, Lattice
from hpc_holstein.network._transforms import Integers, Kind, Matrix, Orbits, Source, Symmetry
from hpc_holstein.symmetry.pairs import Pairs

Reals = NDArray[np.floating]

_LEAST_ROWS = 16  # for each thread


class Dense(NamedTuple):
    """Dense kernels of the even and of the odd part of a layer, and the bias of the even one, a channel."""

    even: Tensor
    odd: Tensor | None
    bias: Tensor


class Input(NamedTuple):
    """Numbers ``v`` of the field, one for each of ``elements``: ``tanh((gain v + shift) / s)`` for each of the ``scales``."""

    elements: Pairs
    scales: Tensor
    odd: bool
    gain: float = 1.0
    shift: float = 0.0


class Written(NamedTuple):
    """Directed pairs of sites that the network writes beside the density, both directions of each one after the other.

    ``kernels``: of the coefficients of the pairs from the last feature, by their parity; ``odd``: of each pair.
    """

    bonds: Sequence[Bond]
    odd: Sequence[bool]
    kernels: Dense
    reach: int

    def coefficients(self) -> list[tuple[Bond, bool, float, Matrix]]:
        """Each pair, if it is odd, and the bias and the weights ``[channels]`` of its coefficient."""
        even, odd_rows, biases = (iter(() if one is None else one) for one in self.kernels)
        found = []
        for bond, odd in zip(self.bonds, self.odd, strict=True):
            kernel, bias = (next(odd_rows), 0.0) if odd else (next(even), next(biases))
            found.append((bond, odd, float(bias), kernel.flatten().double().numpy()))
        return found


def supported(lattice: Lattice, reach: int) -> bool:
    """True if there is compiled code for networks on a lattice, on this processor, that see so many cells."""
    fits = 2 * reach <= PITCH - LONGEST // 4
    return bool(VECTOR_BYTES) and len(lattice.extent) <= 2 and fits and Symmetry.is_one_orbit(lattice.symmetry)


class FusedLevels:
    """Density and ``dn/dmu`` with levels of such ``widths``; ``layers``: lifting, convolutions, head.

    ``inputs``: in the order of the numbers of the field, those of the sites first.
    """

    def __init__(
        self,
        layers: Sequence[Dense],
        lattice: Lattice,
        radii: Sequence[int],
        inputs: Sequence[Input],
        widths: Tensor,
        written: Written | None = None,
    ) -> None:
        *layers, head = layers
        self._dtype = layers[0].bias.numpy().dtype
        self._lanes, self._axes = VECTOR_BYTES // self._dtype.itemsize, len(lattice.extent)
        self._sites, self._order = len(lattice.basis), (order := lattice.point_group.order)
        copies, parts = len(layers[0].bias) // (self._sites * order), 1 if head.odd is None else 2
        together = next(count for count in (4, 2, 1) if copies % count == 0 and count <= REGISTERS // 4)
        self._symmetry = Symmetry(lattice.symmetry, together, REGISTERS)
        lifted, first_odd, table = self._lifted(inputs)
        regular = self._symmetry.regular(copies)
        feature = regular.channels.size
        sources = [lifted, *[([regular], [regular] * (parts - 1))] * (len(radii) - 1)]
        orbits = [
            [
                self._orbits(source, Pairs.within(lattice, radius), kernel)
                for source, kernel in zip(each, layer[:2], strict=True)
            ]
            for each, radius, layer in zip(sources, radii, layers, strict=True)
        ]
        kinds = [sorted({kind for layer in some for part in layer for kind in part}) for some in (orbits[:1], orbits[1:])]
        programs = [self._symmetry.program(some, parts == 2) for some in kinds]
        self._programs = tuple(map(Typed, programs))
        heights = [2 * radius + 1 if self._axes == 2 else 1 for radius in [*radii, 0]]
        channels = [len(table[0]), *[parts * feature] * len(radii)]
        sizes = [rows * count * PITCH for rows, count in zip(heights, channels, strict=True)]
        self._size, places = sum(sizes), np.cumsum([0, *sizes[:-1]])
        firsts = [(0, first_odd), *[(0, feature)] * (len(radii) - 1)]
        tables = self._tables(layers, orbits, kinds, radii, places, channels, firsts)
        shape = self._lanes, self._sites, copies // together, together, together * order, in_step(programs[0]), parts
        self._padded = -(-len(widths) // ABREAST) * ABREAST
        heads, pairs = self._head(head, widths, regular, written)
        self._gains = np.array([[one.gain, one.shift] for one in inputs for _ in one.elements.array])
        self._constant = table, shape, tables, heads, pairs, places
        self._start = np.repeat(layers[0].bias.numpy()[: copies * order], self._lanes)
        self._reach = sum(radii), 0 if written is None else written.reach
        self._written = self._sites + len(pairs) - 1
        self._work = (2 * copies + 2 * self._padded) * self._lanes
        self._row = (2 * self._sites + ABREAST * len(heads[-1])) * PITCH
        self._spaces: list[tuple[Reals, ...]] = []  # not in use

    def __call__(self, ghosted_field: Tensor, g: float = 1.0) -> tuple[Tensor, Tensor]:
        """``[batch, *cells, sites and pairs]`` and ``[batch, *cells, sites]`` from ``[batch, *cells, numbers]`` with a halo.

        ``g``: that the gains are multiplied with.
        """
        field = ghosted_field.detach()
        field = (field if self._axes == 2 else field.unsqueeze(1)).contiguous()
        halo = 2 * sum(self._reach)
        shape = len(field), field.shape[1] - halo * (self._axes - 1), field.shape[2] - halo
        found = field.new_empty((*shape, self._written)), field.new_empty((*shape, self._sites))
        arrays = [tensor.numpy().reshape(-1) for tensor in (field, *found)]
        gains = (self._gains * [g, 1]).astype(self._dtype)

        def part(rows: tuple[int, int]) -> None:
            space = self._space()
            evaluate(self._programs, *arrays, shape, *rows, gains, *self._constant, space)
            self._spaces.append(space)

        shared_by_threads(part, shape[1])
        return found if self._axes == 2 else (found[0].squeeze(1), found[1].squeeze(1))

    def _space(self) -> tuple[Reals, ...]:
        """``space`` of :func:`compiled.levels.evaluate` for one thread."""
        try:
            return self._spaces.pop()
        except IndexError:  # all are in use
            half, beyond = len(self._start), PITCH  # read past a row, by cells that are not kept
            read = (2 * self._reach[1] + 1) * self._row
            sizes = self._size + beyond, 2 * half, 2 * half, self._work, len(self._gains) * PITCH, read
            space = tuple(aligned(size, self._dtype) for size in sizes)
            space[2][:half] = self._start
            return space

    def _lifted(self, inputs: Sequence[Input]) -> tuple[tuple[list[Source], list[Source]], int, tuple[Integers, Reals]]:
        """Inputs of both parts of the first layer, the first channel of the odd ones; numbers and factors of all channels."""
        sources: tuple[list[Source], list[Source]] = ([], [])
        numbers: tuple[list[int], list[int]] = ([], [])
        factors: tuple[list[float], list[float]] = ([], [])
        first = 0
        for one in inputs:
            count, inner = len(one.elements), len(one.scales)
            sources[one.odd].append(self._symmetry.elements(one.elements, len(numbers[one.odd]), inner))
            numbers[one.odd].extend(np.repeat(first + np.arange(count), inner).tolist())
            factors[one.odd].extend((1 / one.scales.double()).tolist() * count)
            first += count
        table = np.array([*numbers[0], *numbers[1]]), np.array([*factors[0], *factors[1]]).astype(self._dtype)
        return sources, len(numbers[0]), table

    def _orbits(self, sources: Sequence[Source], seen: Pairs, kernel: Tensor | None) -> dict[Kind, Orbits]:
        return self._symmetry.orbits(sources, seen, kernel.double().numpy()) if sources and kernel is not None else {}

    def _tables(
        self,
        layers: Sequence[Dense],
        orbits: Sequence[Sequence[dict[Kind, Orbits]]],
        kinds: Sequence[Sequence[Kind]],
        radii: Sequence[int],
        places: Integers,
        channels: Sequence[int],
        firsts: Sequence[tuple[int, int]],
    ) -> tuple[NDArray[Any], ...]:
        """``tables`` of :func:`compiled.levels.evaluate`."""
        order, together = self._order, self._symmetry.together
        weights, biases, rows = [np.zeros(0)], [np.zeros(together)], list[list[int]]()
        offsets, counts = list[NDArray[np.int32]](), list[list[int]]()
        for n, (layer, radius) in enumerate(zip(layers, radii, strict=True)):
            height = 2 * radius * (self._axes - 1)
            row = [height, 2 * radius, sum(map(len, biases))]
            for part, first in zip(orbits[n], firsts[n], strict=True):
                if not part:
                    row += [0, 0, 0, 0, 0]
                    continue
                of_layer = kinds[n > 0]
                found = self._offsets([part[one].images for one in of_layer if one in part], radius, height, channels[n], first)
                table = self._symmetry.packed(part, of_layer)
                starts = [sum(map(np.size, before)) for before in (offsets, counts, weights)]
                row += [found.shape[2], *starts, table.shape[1]]
                found += places[n]
                counts.append([len(part[one].images) if one in part else 0 for one in of_layer])
                offsets.append(found.astype(np.int32).ravel())
                weights.append(table.ravel())
            rows.append(row)
            biases.append(layer.bias.double().numpy()[::order][: len(layer.bias) // (order * self._sites)])
        reals = (np.concatenate(each).astype(self._dtype) for each in (weights, biases))
        integers = np.array(rows), np.concatenate(counts), np.concatenate(offsets)
        return *integers, *reals

    def _offsets(self, images: Sequence[Integers], radius: int, height: int, channels: int, first: int) -> Integers:
        """Places of inputs from the start of the ring of a layer on, ``[site, row of the result in the ring, inputs]``."""
        found = []
        for one in images:  # [items, site, image, (channel, *offset)]
            channel, *rows, column = np.moveaxis(one.swapaxes(0, 1).reshape(self._sites, -1, one.shape[-1]), -1, 0)
            row = np.arange(height + 1)[:, None] + (rows[0][:, None] + radius if rows else 0)
            slot = row % (height + 1) * channels
            found.append((slot + first + channel[:, None]) * PITCH + column[:, None] + radius)
        return np.concatenate(found, axis=2)

    def _head(
        self, head: Dense, widths: Tensor, regular: Source, written: Written | None
    ) -> tuple[tuple[NDArray[Any], ...], Integers]:
        """``head`` and ``pairs`` of :func:`compiled.levels.evaluate`; the weights of all elements of a copy are one."""
        order, levels, padded = self._order, len(widths), self._padded
        even, *odd = (part.flatten(1).double().numpy()[:, ::order] for part in head[:2] if part is not None)
        biases = np.zeros((2, padded))
        logits, energies = (even, *odd) if odd else (even[:levels], even[levels:])
        given = head.bias.double().numpy().reshape(-1, levels)  # of odd levels there is none
        biases[: len(given), :levels] = given
        reals = [0.5 / widths.double().numpy(), np.repeat(biases, self._lanes)]
        reals += [_in_step(np.concatenate([one, np.zeros((padded - levels, one.shape[1]))])) for one in (logits, energies)]
        size, columns = logits.shape[1] * order, regular.columns.ravel()[np.argsort(regular.channels.ravel())]
        coefficients = [] if written is None else written.coefficients()
        groups: dict[int, list[int]] = {}  # pairs whose coefficients are read from the same channels
        for number, (bond, is_odd, _, _) in enumerate(coefficients):
            groups.setdefault((self._sites * is_odd + bond.source) * size, []).append(number)
        slots = [(channel, some[n : n + ABREAST]) for channel, some in groups.items() for n in range(0, len(some), ABREAST)]
        place = {number: n * ABREAST + k for n, (_, some) in enumerate(slots) for k, number in enumerate(some)}
        of_pairs = np.zeros((len(slots) * ABREAST, 1 + size))
        for number, (bond, _, bias, weights) in enumerate(coefficients):
            of_pairs[place[number]] = [bias, *weights[columns][bond.source * size :][:size]]
        pairs = [
            [place[number], place[number ^ 1], *[0] * (2 - self._axes), *bond.offset]
            for number, (bond, *_) in enumerate(coefficients)
        ]
        reach = 0 if written is None else written.reach
        pairs.append([reach * (self._axes - 1), reach, 0, 0])
        reals += [np.repeat(of_pairs[:, 0], self._lanes), _in_step(of_pairs[:, 1:])]
        channels = np.array([channel for channel, _ in slots], dtype=np.int64)
        return (*(one.astype(self._dtype) for one in reals), channels), np.array(pairs)


def _in_step(weights: Matrix) -> Matrix:
    """``[results, inputs]`` -> ``[results in step, inputs, result]``, flat."""
    return weights.reshape(-1, ABREAST, weights.shape[1]).swapaxes(1, 2).ravel()


def shared_by_threads(part: Callable[[tuple[int, int]], None], rows: int) -> None:
    """Call ``part`` on the first and last of some of the ``rows``, as many parts at once as there are threads and it pays."""
    threads = max(1, min(torch.get_num_threads(), rows // _LEAST_ROWS))
    if threads == 1:
        part((0, rows))
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, pairwise(np.linspace(0, rows, threads + 1).astype(int).tolist())))


def aligned(size: int, dtype: np.dtype[np.floating]) -> Reals:
    """Zeros from a boundary of vectors on, where these do not lie in two cache lines."""
    raw = np.zeros(size * dtype.itemsize + VECTOR_BYTES, np.uint8)
    start = -raw.ctypes.data % VECTOR_BYTES
    return raw[start : start + size * dtype.itemsize].view(dtype)
