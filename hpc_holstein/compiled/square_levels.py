"""A network of levels on the square lattice, written for that alone: 4 to 11 % faster than :mod:`compiled.levels`.

Rows of a feature lie channel after channel, ``PITCH`` numbers apart; the even part comes first, and channels are ``(copy,
element)`` in the order of ``ELEMENTS``.  Neighbouring sites of a row are one vector, and every site sees the same instructions
wherever it lies.  The last rows of each layer stay in the cache, and convolutions are in the basis of
:mod:`hpc_holstein.compiled.square_basis`.  Compiled when first used (seconds) and kept on disk where that is possible.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable
from itertools import product
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from hpc_holstein.compiled import compiled, instructions, square_basis, vectors
from hpc_holstein.compiled.instructions import LONGEST, PITCH, pointer, squashed, vectors_of
from hpc_holstein.compiled.square_basis import ELEMENTS, moved, taps
from hpc_holstein.compiled.vectors import VECTOR_BYTES, Vectors

TOGETHER = (
    2 if VECTOR_BYTES == 32 else 4
)  # copies that are computed at once: processors of such vectors have 16 registers, else 32
_ABREAST = 4  # channels that go through the activation in step, since one alone waits for its own results
_WEIGHTS = 8 * TOGETHER  # of one tap
_MADE_OF = zlib.crc32("".join(map(inspect.getsource, (square_basis, vectors, instructions))).encode())
"""A default of all compiled functions, and so a part of their types: code on disk is told from that of other such files."""


def _hadamard(v: Vectors, four: list[Any]) -> tuple[Any, Any, Any, Any]:
    """Sums over the signs ``(a, b)`` of ``x``, ``ab x``, ``a x`` and ``b x``; None stands for zeros, here and below."""
    (same, turned), (other, other_turned) = v.both(four[0], four[3]), v.both(four[1], four[2])
    ahead, across = (None, None) if turned is None else v.both(turned, other_turned)
    return *v.both(same, other), ahead, across


def _add_numbers(v: Vectors, eight: list[Any], weight: Callable[[int], Any], sums: list[Any]) -> None:
    """``Y += V C`` of the one-dimensional irreps."""
    (one, mixed, *_), (swapped, mixed_swapped, *_) = _hadamard(v, eight[:4]), _hadamard(v, eight[4:])
    numbers = [*v.both(one, swapped), *((None, None) if mixed is None else v.both(mixed, mixed_swapped))]
    for place, (number, _) in enumerate(product(numbers, range(TOGETHER))):
        if number is not None:
            sums[place] = v.fma(number, weight(place), sums[place])


def _add_matrices(v: Vectors, eight: list[Any], weight: Callable[[int], Any], sums: list[Any]) -> None:
    """``Y += V C`` of the two-dimensional irrep, ``[row, column, copy]``."""
    (*_, top, bottom), (*_, right, left) = _hadamard(v, eight[:4]), _hadamard(v, eight[4:])
    matrix = (top, right), (left, bottom)
    for q, column, o in product(range(2), range(2), range(TOGETHER)):
        factor = weight((4 + 2 * q + column) * TOGETHER + o)
        for row in range(2):
            place = (2 * row + column) * TOGETHER + o
            if matrix[row][q] is not None:
                sums[place] = v.held(v.fma(matrix[row][q], factor, sums[place]))


def _back(v: Vectors, numbers: list[Any], matrix: list[Any]) -> list[Any]:
    """``y_g`` of all elements."""
    plain, mixed = v.both(numbers[0], numbers[1]), v.both(numbers[2], numbers[3])
    found = []
    for whole, signed, first, last in zip(plain, mixed, (matrix[0], matrix[1]), (matrix[3], matrix[2]), strict=True):
        (same, other), (turned, other_turned) = v.both(whole, signed), v.both(first, last)
        found += [v.both(same, turned)[0], v.both(other, other_turned)[0]]
        found += [v.both(other, other_turned)[1], v.both(same, turned)[1]]
    return found


def _sums(
    v: Vectors, part: Callable[..., None], start: list[Any], lines: list[Any], count: Any, table: Any, alone: bool
) -> list[Any]:
    """``start`` and what ``part`` adds for all inputs and taps; ``lines``: the rows of the stencil, from the sites on.

    ``alone``: a lifting layer, which reads one channel for all elements.
    """
    builder, channels, middle = v.builder, 1 if alone else len(ELEMENTS), len(lines) // 2
    offsets = taps(middle, alone)
    turn = TOGETHER if middle == 0 else 1  # inputs of one turn of the loop
    totals = [v.total(value) for value in start]
    with cgutils.for_range(builder, builder.sdiv(count, ir.Constant(count.type, turn))) as loop:
        values, w = [builder.load(total) for total in totals], Vectors(builder, v.number)
        ahead, further = (ir.Constant(count.type, turn * n) for n in (channels * PITCH, len(offsets) * _WEIGHTS))
        own = [w.at(line, builder.mul(loop.index, ahead)) for line in lines]
        weights = w.at(table, builder.mul(loop.index, further))
        for number, (n, offset) in enumerate(product(range(turn), offsets)):
            places = [(0 if alone else h, *moved(element, offset)) for h, element in enumerate(ELEMENTS)]
            loaded = {
                (h, y, x): w.load(own[y + middle], (n * channels + h) * PITCH + x + middle) for h, y, x in dict.fromkeys(places)
            }
            part(w, [loaded[place] for place in places], lambda k, n=number: w.spread(weights, n * _WEIGHTS + k), values)
        for value, total in zip(values, totals, strict=True):
            builder.store(value, total)
    return [builder.load(total) for total in totals]


@intrinsic
def _convolved(
    typing: Any,
    source: Any,
    rows: Any,
    x: Any,
    elements: Any,
    inputs: Any,
    weights: Any,
    at: Any,
    biases: Any,
    out: Any,
    to: Any,
) -> Any:
    """``TOGETHER`` copies of a layer for the vector of sites from ``x`` on, channel after channel to ``out[to ...]``.

    ``rows``: where each row of the stencil starts in ``source``; ``elements``: 8 zeros, or one for a lifting layer;
    ``inputs``: copies, or channels, that are read; ``weights[at ...]`` as of ``packed``; one of the ``biases`` for each copy.
    """

    def code(context: Any, builder: Any, kinds: Any, arguments: Any) -> Any:
        v = vectors_of(context, builder, source)
        field, table, shifts, goal = (pointer(context, builder, kinds.args, arguments, n) for n in (0, 5, 7, 8))
        lines = [v.at(v.at(field, builder.extract_value(arguments[1], n)), arguments[2]) for n in range(rows.count)]
        shared = lines, arguments[4], v.at(table, arguments[6]), elements.count == 1
        zero, goal = v.constant(0.0), v.at(goal, arguments[9])
        start = [v.spread(shifts, o) for o in range(TOGETHER)] + [zero] * (3 * TOGETHER)
        numbers = _sums(v, _add_numbers, start, *shared)
        matrices = _sums(v, _add_matrices, [zero] * (4 * TOGETHER), *shared)
        for o in range(TOGETHER):
            for h, value in enumerate(_back(v, numbers[o::TOGETHER], matrices[o::TOGETHER])):
                v.store(goal, (8 * o + h) * v.lanes, value)
        return context.get_dummy_value()

    return types.void(source, rows, types.intp, elements, types.intp, weights, types.intp, biases, out, types.intp), code


@intrinsic
def _activated(typing: Any, parts: Any, even: Any, odd: Any, out: Any, to: Any, apart: Any) -> Any:
    """Parts of ``silu(f)`` for ``_ABREAST`` channels: ``even +- odd`` is ``f``; the odd part goes ``apart`` numbers further."""

    def code(context: Any, builder: Any, kinds: Any, arguments: Any) -> Any:
        v = vectors_of(context, builder, parts)
        source, goal = (pointer(context, builder, kinds.args, arguments, n) for n in (0, 3))
        first, second, goal = v.at(source, arguments[1]), v.at(source, arguments[2]), v.at(goal, arguments[4])
        beyond = v.at(goal, arguments[5])
        pairs = [v.both(v.load(first, n * v.lanes), v.load(second, n * v.lanes)) for n in range(_ABREAST)]
        for n, pair in enumerate(v.silu_pairs(pairs)):
            total, difference = v.both(*pair)
            v.store(goal, n * PITCH, total)
            v.store(beyond, n * PITCH, difference)
        return context.get_dummy_value()

    return types.void(parts, types.intp, types.intp, out, types.intp, types.intp), code


@intrinsic
def _group_sum(typing: Any, features: Any, at: Any, out: Any, to: Any) -> Any:
    """``out[to ...]``: sum over the elements of one copy."""

    def code(context: Any, builder: Any, kinds: Any, arguments: Any) -> Any:
        v = vectors_of(context, builder, features)
        source, goal = (pointer(context, builder, kinds.args, arguments, n) for n in (0, 2))
        terms = [v.load(v.at(source, arguments[1]), h * PITCH) for h in range(len(ELEMENTS))]
        while len(terms) > 1:
            terms = [builder.fadd(a, b) for a, b in zip(terms[::2], terms[1::2], strict=True)]
        v.store(goal, arguments[3], terms[0])
        return context.get_dummy_value()

    return types.void(features, types.intp, out, types.intp), code


@intrinsic
def _scalar(typing: Any, sums: Any, at: Any, copies: Any, start: Any, place: Any, weights: Any, to: Any) -> Any:
    """``sums[to ...] = start[place ...] + sum_i weights[i] sums[at + i V ...]``, a vector each."""

    def code(context: Any, builder: Any, kinds: Any, arguments: Any) -> Any:
        v = vectors_of(context, builder, sums)
        source, begin, table = (pointer(context, builder, kinds.args, arguments, n) for n in (0, 3, 5))
        total, inputs = v.total(v.load(begin, arguments[4])), v.at(source, arguments[1])
        with cgutils.for_range(builder, arguments[2]) as loop:
            weight = v.spread(table, loop.index)
            given = v.load(inputs, builder.mul(loop.index, ir.Constant(loop.index.type, v.lanes)))
            builder.store(v.fma(given, weight, builder.load(total)), total)
        v.store(source, arguments[6], builder.load(total))
        return context.get_dummy_value()

    return types.void(sums, types.intp, types.intp, start, types.intp, weights, types.intp), code


@intrinsic
def _filled(typing: Any, work: Any, logits: Any, energies: Any, levels: Any, half: Any, out: Any, slope: Any, x: Any) -> Any:
    """Density and ``dn/dmu`` of one vector from logits and energies of the levels; ``half [1]`` is 1 / 2 kT."""

    def code(context: Any, builder: Any, kinds: Any, arguments: Any) -> Any:
        v = vectors_of(context, builder, work)
        source, table, density, response = (pointer(context, builder, kinds.args, arguments, n) for n in (0, 4, 5, 6))
        (logit, energy), one, middle = (v.at(source, arguments[n]) for n in (1, 2)), v.constant(1.0), v.constant(0.5)
        sharp, lanes = v.spread(table, 0), ir.Constant(arguments[3].type, v.lanes)
        highest = v.total(v.load(logit, 0))
        with cgutils.for_range(builder, arguments[3]) as loop:
            value, before = v.load(logit, builder.mul(loop.index, lanes)), builder.load(highest)
            builder.store(builder.select(builder.fcmp_ordered(">", value, before), value, before), highest)
        total, filled, changed = (v.total(v.constant(0.0)) for _ in range(3))
        with cgutils.for_range(builder, arguments[3]) as loop:
            here = builder.mul(loop.index, lanes)
            below = v.no_more_than(80.0, builder.fsub(builder.load(highest), v.load(logit, here)))  # further is nothing
            weight = v.decay([below])[0]
            occupation = v.fma(middle, v.tanh(builder.fmul(v.load(energy, here), sharp)), middle)
            part = builder.fmul(weight, occupation)
            builder.store(builder.fadd(builder.load(total), weight), total)
            builder.store(builder.fadd(builder.load(filled), part), filled)
            builder.store(v.fma(part, builder.fsub(one, occupation), builder.load(changed)), changed)
        whole = builder.load(total)
        v.store(density, arguments[7], builder.fdiv(builder.load(filled), whole))
        rate = builder.fdiv(builder.fmul(builder.load(changed), builder.fadd(sharp, sharp)), whole)
        v.store(response, arguments[7], rate)
        return context.get_dummy_value()

    return types.void(work, types.intp, types.intp, types.intp, half, out, slope, types.intp), code


@compiled
def _layer_row(rings, rows, other, elements, inputs, tables, layer, copies, width, parts, to, made_of=_MADE_OF):  # type: ignore[no-untyped-def]
    """One row of a layer with its activation; ``rows`` and ``other``: those of the even and of the odd part of its input."""
    weights, biases = tables
    even_at, odd_at, block_size, bias_at = layer
    lanes, apart = parts.size // (16 * copies), 8 * copies
    for x in range(0, width, lanes):
        for block in range(copies // TOGETHER):
            first, further = block * 8 * TOGETHER * lanes, block * block_size
            if len(elements) == 8:  # the even part of a lifting layer is its bias, which is there
                own = biases[bias_at + block * TOGETHER :]
                _convolved(rings, rows, x, elements, inputs, weights, even_at + further, own, parts, first)
            _convolved(rings, other, x, elements, inputs, weights, odd_at + further, biases, parts, apart * lanes + first)
        for channel in range(0, apart, _ABREAST):
            _activated(parts, channel * lanes, (apart + channel) * lanes, rings, to + channel * PITCH + x, apart * PITCH)


@compiled
def _through(  # type: ignore[no-untyped-def]
    row, first, width, inputs, radii, copies, tables, layers, rings, places, parts, lifted, made_of=_MADE_OF
):
    """Rows of all layers that row ``row`` of the input completes; gives that of the last layer, or one below ``first``."""
    odd, feature, wide = 8 * copies * PITCH, 16 * copies * PITCH, width + 2 * radii.sum()
    for n in range(len(radii)):
        radius, a = radii[n], places[n]
        row, wide = row - 2 * radius, wide - 2 * radius
        if row < first:
            return row
        to = places[n + 1] + (row % (2 * radii[n + 1] + 1) * feature if n + 1 < len(radii) else 0)
        layer = (layers[n, 0], layers[n, 1], layers[n, 2], layers[n, 3])
        if n == 0:
            size = inputs * PITCH
            b, c, d, e = a + (row + 1) % 5 * size, a + (row + 2) % 5 * size, a + (row + 3) % 5 * size, a + (row + 4) % 5 * size
            rows = (a + row % 5 * size, b, c, d, e)
            _layer_row(rings, rows, rows, (0,), inputs, tables, layer, copies, wide, lifted, to)
        elif radius == 1:
            b, c, a = a + (row + 1) % 3 * feature, a + (row + 2) % 3 * feature, a + row % 3 * feature
            other = (a + odd, b + odd, c + odd)
            _layer_row(rings, (a, b, c), other, (0,) * 8, copies, tables, layer, copies, wide, parts, to)
        else:
            _layer_row(rings, (a,), (a + odd,), (0,) * 8, copies, tables, layer, copies, wide, parts, to)
    return row


@compiled
def _read_row(rings, place, copies, head, width, work, lines, made_of=_MADE_OF):  # type: ignore[no-untyped-def]
    """Density ``lines[2]`` and slope ``lines[3]`` of one row from the last feature and ``g Q'``, ``lines[1]``."""
    half, biases, even, odd = head
    lanes, levels = work.size // (16 * copies), len(even)
    logits, energies = 2 * copies * lanes, (2 * copies + levels) * lanes
    for x in range(0, width, lanes):
        for copy in range(2 * copies):
            _group_sum(rings, place + copy * 8 * PITCH + x, work, copy * lanes)
        for n in range(levels):
            _scalar(work, 0, copies, biases, n * lanes, even[n], logits + n * lanes)
            _scalar(work, copies * lanes, copies, lines[1], x, odd[n], energies + n * lanes)
        _filled(work, logits, energies, levels, half, lines[2], lines[3], x)


@compiled
def evaluate(  # type: ignore[no-untyped-def]
    field,
    density,
    slope,
    first,
    last,
    g,
    factors,
    radii,
    copies,
    tables,
    layers,
    head,
    places,
    rings,
    parts,
    lifted,
    lines,
    made_of=_MADE_OF,
):
    """Density and ``dn/dmu`` of a network of levels on the rows from ``first`` to ``last``.

    field    ``[batch, rows, columns]`` with a halo of the sum of ``radii``; ``density`` and ``slope`` are without
    factors  of ``g Q'`` in the tanh of each input
    tables   weights of all layers as of ``packed``, flat; biases of the copies, after ``TOGETHER`` zeros for the odd parts
    layers   ``[layer, 4]``: where weights of the even and of the odd part start, those of ``TOGETHER`` copies, first bias
    head     1 / 2 kT ``[1]``; biases of the levels, each for a vector; weights ``[level, copy]`` of even and of odd copies
    rings    the last rows of the input of each layer, from ``places`` on, and a row of the last layer
    parts    a vector of each channel before the activation; ``lifted`` that of the lifting layer, with its even part
    lines    ``[4, PITCH]``: rows of ``g Q'``, with and without halo, of the density and of the slope
    """
    reach, lanes = radii.sum(), parts.size // (16 * copies)
    for b in range(density.shape[0]):
        for left in range(0, density.shape[2], LONGEST):
            width = min(LONGEST, density.shape[2] - left)
            for j in range(first, last + 2 * reach):
                for x in range(width + 2 * reach):
                    lines[0, x] = g * field[b, j, left + x]
                to = places[0] + j % 5 * len(factors) * PITCH
                for c in range(len(factors)):
                    for x in range(0, width + 2 * reach, lanes):
                        squashed(lines[0], x, factors[c], rings, to + c * PITCH + x)
                row = _through(j, first, width, len(factors), radii, copies, tables, layers, rings, places, parts, lifted)
                if row >= first:
                    for x in range(width):
                        lines[1, x] = g * field[b, row + reach, left + reach + x]
                    _read_row(rings, places[-1], copies, head, width, parts, lines)
                    for x in range(width):
                        density[b, row, left + x], slope[b, row, left + x] = lines[2, x], lines[3, x]
