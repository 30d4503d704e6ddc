"""The Chebyshev step as compiled code: one pass over memory, several orders while the rows are in the cache.

    out_i = c (e_i b_i + sum_h v_h b_{i + s_h}) - out_i,    rows of V vectors,    c = 1 for the first order, else 2

A number of V vectors is one SIMD operand, so every operation on a site is a few instructions.  *Rows* are slabs of the first
cell axis.  In a window of K orders, order k of row y follows order k - 1 of row y + reach at once, and overwrites order
k - 2, so that rows come from memory once in K orders and no neighbour is asked in between; the region that is right shrinks
by ``reach`` rows an order.  Compiled when first used (seconds) and kept on disk where that is possible.
Source: Wellein et al., doi:10.1109/COMPSAC.2009.82 (wavefronts); Malas et al., arXiv 1410.3060.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from hpc_holstein.compiled import compiled
from hpc_holstein.compiled.vectors import spread

_PACKED = 16  # vectors of columns that are combined at a time, which fit in the cache
_FLAGS = ("contract",)  # multiply and add in one instruction


class _Vector(types.Type):
    """``count`` numbers that are handled by one instruction, or a few."""

    def __init__(self, dtype: Any, count: int) -> None:
        self.dtype, self.count = dtype, count
        super().__init__(f"Vector({dtype}, {count})")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Any) -> None:
        number = manager.lookup(vector.dtype).get_data_type()
        super().__init__(manager, vector, ir.VectorType(number, vector.count))


def _pointer(context: Any, builder: Any, array: Any, value: Any, index: Any, count: int) -> Any:
    start = builder.gep(context.make_array(array)(context, builder, value).data, [index])
    return builder.bitcast(start, ir.VectorType(context.get_data_type(array.dtype), count).as_pointer())


@intrinsic
def _load(typing: Any, array: Any, start: Any, lanes: Any) -> Any:
    """``array[start : start + V]`` of a contiguous array; V is the length of the tuple ``lanes``, a part of its type."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _pointer(context, builder, signature.args[0], arguments[0], arguments[1], lanes.count)
        return builder.load(place, align=array.dtype.bitwidth // 8)

    return _Vector(array.dtype, lanes.count)(array, types.intp, lanes), code


@intrinsic
def _store(typing: Any, array: Any, start: Any, vector: Any) -> Any:
    """``array[start : start + V] = vector``."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _pointer(context, builder, signature.args[0], arguments[0], arguments[1], vector.count)
        builder.store(arguments[2], place, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), code


@intrinsic
def _scaled(typing: Any, number: Any, vector: Any) -> Any:
    """``number vector``."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fmul(spread(builder, arguments[0], arguments[1].type), arguments[1], flags=_FLAGS)

    return vector(vector.dtype, vector), code


@intrinsic
def _load_double(typing: Any, array: Any, start: Any, lanes: Any) -> Any:
    """:func:`_load` as float64."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _pointer(context, builder, signature.args[0], arguments[0], arguments[1], lanes.count)
        vector = builder.load(place, align=array.dtype.bitwidth // 8)
        return vector if array.dtype == types.float64 else builder.fpext(vector, ir.VectorType(ir.DoubleType(), lanes.count))

    return _Vector(types.float64, lanes.count)(array, types.intp, lanes), code


@intrinsic
def _with_product(typing: Any, total: Any, vector: Any, other: Any) -> Any:
    """``total + vector other``; ``vector`` may be one number."""
    single = not isinstance(vector, _Vector)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left = spread(builder, arguments[1], arguments[2].type) if single else arguments[1]
        return builder.fadd(builder.fmul(left, arguments[2], flags=_FLAGS), arguments[0], flags=_FLAGS)

    return total(total, total.dtype if single else vector, other), code


@intrinsic
def _hopped(typing: Any, total: Any, block: Any, start: Any, shifts: Any, values: Any, place: Any) -> Any:
    """``total + sum_h v_h block[start + shifts[h] : ... + V]``, unrolled; ``v`` a tuple, or an array from ``place`` on."""
    lanes, table = total, isinstance(values, types.Array)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        result, array, first, steps, strengths, row = arguments
        for hop in range(shifts.count):
            there = builder.add(first, builder.extract_value(steps, hop))
            neighbour = builder.load(
                _pointer(context, builder, block, array, there, lanes.count), align=block.dtype.bitwidth // 8
            )
            if table:
                entries = context.make_array(values)(context, builder, strengths).data
                value = builder.load(builder.gep(entries, [builder.add(row, ir.Constant(row.type, hop))]))
            else:
                value = builder.extract_value(strengths, hop)
            term = builder.fmul(spread(builder, value, result.type), neighbour, flags=_FLAGS)
            result = builder.fadd(term, result, flags=_FLAGS)
        return result

    return total(total, block, types.intp, shifts, values, types.intp), code


@intrinsic
def _less(typing: Any, vector: Any, other: Any) -> Any:
    """``vector - other``."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fsub(*arguments, flags=_FLAGS)

    return vector(vector, vector), code


@compiled
def _step(out, block, factor, first, end, lanes, on_site, shifts, values, table):  # type: ignore[no-untyped-def]
    """One order on the cells ``[first, end)``; arguments as in :func:`advance`."""
    basis, hops, V = len(shifts), len(shifts[0]), len(lanes)
    for cell in range(first, end):
        for b in range(basis):
            site = cell * basis + b
            total = _scaled(on_site[site], _load(block, site * V, lanes))
            if table is None:
                total = _hopped(total, block, site * V, shifts[b], values[b], 0)
            else:
                total = _hopped(total, block, site * V, shifts[b], table, site * hops)
            _store(out, site * V, _less(_scaled(factor, total), _load(out, site * V, lanes)))


@compiled
def _close_row(block, y, row, ghosts, size, lanes):  # type: ignore[no-untyped-def]
    """Ghost cells of a row := the cells that they copy, or zero."""
    for pair in range(ghosts.shape[0]):
        dest, owner = (y * row + ghosts[pair, 0]) * size, ghosts[pair, 1]
        source = (y * row + owner) * size
        for part in range(0, size, len(lanes)):
            if owner >= 0:
                _store(block, dest + part, _load(block, source + part, lanes))
            else:
                for lane in range(len(lanes)):
                    block[dest + part + lane] = 0


@compiled
def _close(block, tile, size, lanes):  # type: ignore[no-untyped-def]
    """Whole rows of ghosts of a rank alone := the rows that they copy."""
    _, row, _, low, high, _, floor, ceiling, _ = tile
    for y in range(floor, ceiling):
        if y < low or y >= high:
            dest, source = y * row * size, (low + (y - low) % (high - low)) * row * size
            for part in range(0, row * size, len(lanes)):
                _store(block, dest + part, _load(block, source + part, lanes))


@compiled
def advance(  # type: ignore[no-untyped-def]
    even, odd, done, count, window, tile, alone, lanes, matrix, ghosts, readings, kept, width, columns, weights
):
    """Orders ``done + 1 ... done + count`` of a block of V vectors, in windows of ``window`` orders.

    even, odd   flat ``[ghosted cells, basis, V]``: order ``done`` and the one before, each in the array of its parity
    tile        rows; cells of a row, and how many of them a bond reaches over; first and last + 1 owned row; how many rows
                beyond those are read as well; rows below ``floor`` and from ``ceiling``, beyond an open edge, stay zero; reach
    alone       whether rows of ghosts are filled here before each window; else they must be right for one window
    lanes       V zeros
    matrix      scaled to the interval: ``on_site [ghosted sites]``; ``shifts [basis][hops]``, in numbers, to the other end of
                each bond; ``values`` its strength, or ``table`` flat ``[ghosted sites, hops]`` if that is not None
    ghosts      ``[:, 2]`` cells of a row that copy others after each step; from -1 come zeros
    readings    ``starts [parts, rows + 1]``: those of row y are ``[starts[p, y], starts[p, y + 1])``; ``index`` of each in the
                flat block, unsigned; ``offset [parts]`` from their number to their column in ``kept``
    kept        flat ``[count, width]``, what they read of each order
    columns     ``+= weights[k]`` times each order, on all rows; left alone where ``weights`` is empty
    """
    _, row, edge, low, high, beyond, floor, ceiling, reach = tile
    on_site, shifts, values, table = matrix
    starts, index, offset = readings
    lowest, highest, size = low - beyond, high + beyond, len(shifts) * len(lanes)
    for first in range(0, count, window):
        steps = min(window, count - first)
        if alone and (steps > 1 or (done + first) % 2 == 0):
            _close(even, tile, size, lanes)
        if alone and (steps > 1 or (done + first) % 2):
            _close(odd, tile, size, lanes)
        for wave in range(lowest - (steps - 1) * reach, highest + (steps - 1) * reach):
            for k in range(steps):
                y, margin = wave - k * reach, (steps - 1 - k) * reach
                if y < max(lowest - margin, floor) or y >= min(highest + margin, ceiling):
                    continue
                order = done + first + k + 1
                out, block = (odd, even) if order % 2 else (even, odd)
                factor = on_site.dtype.type(2 if order > 1 else 1)
                _step(out, block, factor, y * row + edge, (y + 1) * row - edge, lanes, on_site, shifts, values, table)
                _close_row(out, y, row, ghosts, size, lanes)
                for part in range(starts.shape[0]):
                    column = np.uint64((first + k) * width + offset[part])
                    for reading in range(np.uint64(starts[part, y]), np.uint64(starts[part, y + 1])):
                        kept[column + reading] = out[index[reading]]
                if weights.size > 0:
                    for at in range(y * row * size, (y + 1) * row * size):
                        columns[at] += weights[first + k] * out[at]


@compiled
def combine(kept, width, count, start, end, weights, first, sums, diagonal, trace, lanes):  # type: ignore[no-untyped-def]
    """``sums[f] += sum_m weights[f, first + m] kept[m]`` over ``count`` orders, and what they add to the trace.

    kept      flat ``[count, width]``, of which the columns from ``start`` to ``end`` are meant; ``width`` holds as many more as
              a vector that starts before ``end``
    weights   ``[functions, terms]``, an even number of functions; ``sums [functions, width]`` flat
    diagonal  ``[width]`` by which columns enter the ``trace [terms, lanes]`` flat, or empty
    """
    V = len(lanes)
    packed = np.empty(_PACKED * V * count)  # [vectors of columns, count, V]: the rows of kept lie far apart
    for first_column in range(start, end, _PACKED * V):
        columns = min(_PACKED, (end - first_column - 1) // V + 1)
        for m in range(count):
            for part in range(columns):
                _store(packed, (part * count + m) * V, _load_double(kept, m * width + first_column + part * V, lanes))
        for part in range(columns):
            column = first_column + part * V
            for f in range(0, weights.shape[0], 2):
                one, two = _load(sums, f * width + column, lanes), _load(sums, (f + 1) * width + column, lanes)
                for m in range(count):
                    moments = _load(packed, (part * count + m) * V, lanes)
                    one = _with_product(one, weights[f, first + m], moments)
                    two = _with_product(two, weights[f + 1, first + m], moments)
                _store(sums, f * width + column, one)
                _store(sums, (f + 1) * width + column, two)
            if diagonal.size > 0:
                sign = _load(diagonal, column, lanes)
                for m in range(count):
                    place, moments = (first + m) * V, _load(packed, (part * count + m) * V, lanes)
                    _store(trace, place, _with_product(_load(trace, place, lanes), sign, moments))
