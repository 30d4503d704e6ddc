"""Copies between strided blocks of a field and a buffer, planned once and done many times.

On a CPU one compiled call does all copies of a list, which takes less time than making a single view of a tensor; other
devices copy block by block.  Compiled when first used (a second) and kept on disk where that is possible.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

from hpc_holstein.compiled import compiled

_COLUMNS = 8  # of a table of copies
_WORDS = (8, 4, 1)  # bytes that are moved at a time: the largest that divides what is copied


class Block(NamedTuple):
    """Numbers of the field or of the buffer: those ``start + sum_d i_d strides[d]``, ``i_d < shape[d]``, of it."""

    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    in_buffer: bool = False

    def of(self, field: Tensor, buffer: Tensor | None = None) -> Tensor:
        """View of them."""
        memory = field if not self.in_buffer or buffer is None else buffer
        return memory.as_strided(self.shape, self.strides, memory.storage_offset() + self.start)

    @property
    def numbers(self) -> int:
        """Count of the numbers."""
        return math.prod(self.shape)


def block_of(shape: Sequence[int], strides: Sequence[int], index: Sequence[slice]) -> Block:
    """The part ``index`` of a field, with a start and a stop on each axis."""
    assert len(shape) == len(strides) == len(index)
    start = sum(part.start * stride for part, stride in zip(index, strides, strict=True))
    return Block(start, tuple(part.stop - part.start for part in index), tuple(strides))


class Copies:
    """``target block := source block`` for pairs of one shape, one after the other."""

    def __init__(self, pairs: Iterable[tuple[Block, Block]], dtype: torch.dtype, device: torch.device) -> None:
        self._pairs = [pair for pair in pairs if pair[0].numbers]
        word = next(word for word in _WORDS if dtype.itemsize % word == 0)
        parts = [_rows(target, source, dtype.itemsize // word) for target, source in self._pairs]
        head = [[word, sum(map(len, parts)), 0, 0, 0, 0, 0, 0]]
        self._table: NDArray[np.int64] = np.concatenate([np.array(head, dtype=np.int64), *parts])
        self._address: int = self._table.ctypes.data
        self._compiled = device.type == "cpu"

    def with_buffer(self, buffer: Tensor) -> Callable[[Tensor], None]:
        """``copy(field)`` with a buffer that stays; both are laid out as planned; without gradient."""
        if self._compiled:
            address, table = buffer.data_ptr(), self._address
            return lambda field: _move(field.data_ptr(), address, table)

        def copy(field: Tensor) -> None:
            for target, source in self._pairs:
                target.of(field, buffer).copy_(source.of(field, buffer))

        return copy

    def add_back(self, field: Tensor, buffer: Tensor) -> None:
        """The adjoint, with the targets emptied: ``source += target``, ``target := 0``, from the last pair to the first."""
        for target, source in reversed(self._pairs):
            source.of(field, buffer).add_(target.of(field, buffer))
            target.of(field, buffer).zero_()


def _rows(target: Block, source: Block, words: int) -> NDArray[np.int64]:
    """Arguments of :func:`_move`: both starts, count of runs, both steps from one to the next, length of a run, all in words;
    and whether target and source are in the buffer."""
    dims: list[tuple[int, int, int]] = [(words, 1, 1)]
    for count, to, of in zip(reversed(target.shape), reversed(target.strides), reversed(source.strides), strict=True):
        inner, inner_to, inner_of = dims[-1]
        if count == 1:
            continue
        if (to * words, of * words) == (inner * inner_to, inner * inner_of):
            dims[-1] = (inner * count, inner_to, inner_of)
        else:
            dims.append((count, to * words, of * words))
    (length, _, _), (count, to_step, of_step), *outer = [*dims, (1, 0, 0)] if len(dims) == 1 else dims
    starts = np.array([[target.start * words, source.start * words]])
    for number, to, of in outer:
        starts = (starts[None] + np.arange(number)[:, None, None] * np.array([to, of])).reshape(-1, 2)
    rest = np.array([count, to_step, of_step, length, target.in_buffer, source.in_buffer])
    rest = np.broadcast_to(rest, (len(starts), len(rest)))
    return np.ascontiguousarray(np.concatenate([starts, rest], axis=1), dtype=np.int64)


def _pointer(word: Any) -> Callable[..., Any]:
    """In compiled code, a pointer to words at an address."""

    @intrinsic
    def at(typing: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], ir.IntType(word.bitwidth).as_pointer())

        return types.CPointer(word)(types.int64), code

    return at


_bytes_at, _halves_at, _words_at, _rows_at = map(_pointer, (types.uint8, types.uint32, types.uint64, types.int64))


@compiled
def _runs(field: Any, buffer: Any, table: Any) -> None:
    for row in range(1, 1 + table[1]):
        start = row * _COLUMNS
        to, of, count, to_step, of_step = table[start], table[start + 1], table[start + 2], table[start + 3], table[start + 4]
        length = table[start + 5]
        target = buffer if table[start + 6] else field
        source = buffer if table[start + 7] else field
        if length == 1:
            for run in range(count):
                target[to + run * to_step] = source[of + run * of_step]
        else:
            for run in range(count):
                for word in range(length):
                    target[to + run * to_step + word] = source[of + run * of_step + word]


@compiled
def _move(field: int, buffer: int, table: int) -> None:
    """Copies between what begins at two addresses; the table begins with the bytes of a word and the number of its rows."""
    rows = _rows_at(table)
    if rows[0] == 8:
        _runs(_words_at(field), _words_at(buffer), rows)
    elif rows[0] == 4:
        _runs(_halves_at(field), _halves_at(buffer), rows)
    else:
        _runs(_bytes_at(field), _bytes_at(buffer), rows)
