"""Instructions of the compiled networks: what one vector of cells goes through in a convolution, an activation, a read-out.

Those of a convolution follow a program, :mod:`hpc_holstein.compiled.programs`, which is the type of an argument.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from hpc_holstein.compiled import vectors
from hpc_holstein.compiled.programs import Combinations, Part, Program
from hpc_holstein.compiled.vectors import VECTOR_BYTES, Vectors

LONGEST = 256  # columns that are evaluated at once: the last rows of all layers then stay in the second-level cache
PITCH = 272  # no power of two, which would map all channels to one place of the cache
REGISTERS = 8 if VECTOR_BYTES == 32 else 16  # for sums, of 16 or 32
ABREAST = 4  # results that are computed in step, since one alone waits for itself
_MADE_OF = inspect.getsource(vectors) + inspect.getsource(sys.modules[__name__])
"""A part of the types of programs: code on disk is told from that of other such files."""

_PROGRAMS: dict[str, Program] = {}


class Typed:
    """A program as an argument, whose type is a word for it: files of compiled code know that type in any version."""

    def __init__(self, program: Program) -> None:
        word = hashlib.sha256((_MADE_OF + repr(program)).encode()).hexdigest()
        _PROGRAMS[word] = program
        self._numba_type_ = types.literal(word)


def pointer(context: Any, builder: Any, kinds: Any, arguments: Any, number: int) -> Any:
    """Address of the numbers of an array among the arguments of an intrinsic."""
    return context.make_array(kinds[number])(context, builder, arguments[number]).data


def vectors_of(context: Any, builder: Any, array: Any) -> Vectors:
    """Vectors of the numbers of an array."""
    return Vectors(builder, context.get_data_type(array.dtype))


def _combined(v: Vectors, numbers: list[Any], of: Combinations) -> list[Any]:
    """Results of linear combinations."""
    known = list(numbers)
    for i, j, factor in of.steps:
        known.append(v.plus(known[i], known[j], factor))
    return [known[i] if factor == 1 else v.times(known[i], factor) for i, factor in of.results]


def _add(v: Vectors, part: Part, images: list[Any], weights: Any, together: int, sums: list[Any]) -> None:
    """Products of an input with weights of ``together`` copies; ``sums [sum, copy]``."""
    values = _combined(v, images, part.values)
    shared = len(part.products) > len({weight for _, weight, _ in part.products})
    factors: dict[int, Any] = {}
    for o in range(together):
        for value, weight, number in part.products:
            place = weight * together + o
            if place not in factors:
                factors[place] = v.spread(weights, place)
            goal = number * together + o
            found = v.fma(values[value], factors[place], sums[goal])
            sums[goal] = v.held(found) if shared else found


def _pass(
    v: Vectors, program: Program, number: int, start: list[Any], field: Any, inputs: list[tuple[Any, Any]], weights: Any
) -> tuple[list[Any], Any]:
    """Sums of a pass, and where the weights of the next one begin; ``inputs``: where offsets begin, and how many there are."""
    builder, index = v.builder, ir.IntType(64)
    totals = [v.total(value) for value in start]
    for part, (place, count) in zip(program.passes[number][1], inputs, strict=True):
        size = part.weights * program.together
        with cgutils.for_range(builder, count) as loop:
            sums, w = [builder.load(total) for total in totals], Vectors(builder, v.number)
            own = w.at(place, builder.mul(loop.index, ir.Constant(index, part.inputs)))
            lines = [w.at(field, builder.sext(builder.load(w.at(own, k)), index)) for k in range(part.inputs)]
            here = w.at(weights, builder.mul(loop.index, ir.Constant(index, part.turn * size)))
            for n in range(part.turn):
                images = [w.load(line, n * part.apart * PITCH) for line in lines]
                _add(w, part, images, w.at(here, n * size), program.together, sums)
            for value, total in zip(sums, totals, strict=True):
                builder.store(value, total)
        weights = v.at(weights, builder.mul(count, ir.Constant(index, part.turn * size)))
    return [builder.load(total) for total in totals], weights


@intrinsic(prefer_literal=True)
def convolved(
    typing: Any,
    program: Any,
    source: Any,
    x: Any,
    offsets: Any,
    offset: Any,
    counts: Any,
    first: Any,
    weights: Any,
    at: Any,
    biases: Any,
    bias: Any,
    out: Any,
    to: Any,
) -> Any:
    """Copies of a layer that are computed at once, of the cells from ``x`` on, to ``out[to ...]``, ``[copy, element]``.

    ``offsets[offset ...]``: where the images of each input lie in ``source``, ``[item, image]`` for each kind, of which there
    are as many items as ``counts[first ...]`` says; ``weights[at ...]`` as of ``Symmetry.packed``; ``biases[bias ...]``: of
    each copy.
    """
    made = _PROGRAMS[program.literal_value]

    def code(context: Any, builder: Any, kinds: Any, arguments: Any) -> Any:
        v, together = vectors_of(context, builder, source), made.together
        field, places, numbers, table, shifts, goal = (
            pointer(context, builder, kinds.args, arguments, n) for n in (1, 3, 5, 7, 9, 11)
        )
        field, place, numbers, table, shifts, goal = (
            v.at(array, arguments[n])
            for array, n in ((field, 2), (places, 4), (numbers, 6), (table, 8), (shifts, 10), (goal, 12))
        )
        zero = v.constant(0.0)
        found, inputs = list[Any](), list[tuple[Any, Any]]()
        for c, part in enumerate(made.passes[0][1]):
            inputs.append((place, builder.load(v.at(numbers, c))))
            place = v.at(place, builder.mul(inputs[-1][1], ir.Constant(ir.IntType(64), part.inputs)))
        for number, (size, _) in enumerate(made.passes):
            start = [zero] * (size * together)
            if number == 0:  # the first one is that of the sum over all elements
                start[:together] = [v.spread(shifts, o) for o in range(together)]
            sums, table = _pass(v, made, number, start, field, inputs, table)
            found += sums
        for o in range(together):
            for h, value in enumerate(_combined(v, found[o::together], made.back)):
                v.store(goal, (made.order * o + h) * v.lanes, value)
        return context.get_dummy_value()

    arrays = source, offsets, counts, weights, biases, out
    return types.void(program, *(kind for array in arrays for kind in (array, types.intp))), code


def in_step(program: Program) -> int:
    """Channels that go through the activation in step."""
    return next(count for count in (ABREAST, 2, 1) if program.order * program.together % count == 0)


@intrinsic(prefer_literal=True)
def activated(typing: Any, program: Any, parts: Any, even: Any, odd: Any, out: Any, to: Any, apart: Any) -> Any:
    """Parts of ``silu(f)`` for channels that go in step, to ``out[to ...]``.

    With exchange ``even +- odd`` is ``f``, and the odd part goes ``apart`` numbers further; without, ``even`` alone.
    """
    made = _PROGRAMS[program.literal_value]
    count = in_step(made)

    def code(context: Any, builder: Any, kinds: Any, arguments: Any) -> Any:
        v = vectors_of(context, builder, parts)
        source, goal = (pointer(context, builder, kinds.args, arguments, n) for n in (1, 4))
        goal = v.at(goal, arguments[5])
        beyond = v.at(goal, arguments[6])
        values = [v.load(v.at(source, arguments[2]), n * v.lanes) for n in range(count)]
        if not made.exchanged:  # in twos, if there are so many
            two = list(zip(values[::2], values[1::2] or values, strict=True))
            found = [f for pair in v.silu_pairs(two) for f in pair]
            for n in range(count):
                v.store(goal, n * PITCH, found[n])
            return context.get_dummy_value()
        others = [v.load(v.at(source, arguments[3]), n * v.lanes) for n in range(count)]
        pairs = [(builder.fadd(a, b), builder.fsub(a, b)) for a, b in zip(values, others, strict=True)]
        for n, (a, b) in enumerate(v.silu_pairs(pairs)):
            v.store(goal, n * PITCH, builder.fadd(a, b))
            v.store(beyond, n * PITCH, builder.fsub(a, b))
        return context.get_dummy_value()

    return types.void(program, parts, types.intp, types.intp, out, types.intp, types.intp), code


@intrinsic
def squashed(typing: Any, line: Any, x: Any, factor: Any, out: Any, to: Any) -> Any:
    """``out[to ...] = tanh(factor line[x ...])`` for one vector."""

    def code(context: Any, builder: Any, kinds: Any, arguments: Any) -> Any:
        v = vectors_of(context, builder, line)
        source, goal = (pointer(context, builder, kinds.args, arguments, n) for n in (0, 3))
        scale = v.spread(cgutils.alloca_once_value(builder, arguments[2]), 0)
        v.store(goal, arguments[4], v.tanh(builder.fmul(v.load(source, arguments[1]), scale)))
        return context.get_dummy_value()

    return types.void(line, types.intp, line.dtype, out, types.intp), code


@intrinsic(prefer_literal=True)
def group_sum(typing: Any, program: Any, features: Any, at: Any, out: Any, to: Any) -> Any:
    """``out[to ...]``: sum over the elements of one copy."""
    order = _PROGRAMS[program.literal_value].order

    def code(context: Any, builder: Any, kinds: Any, arguments: Any) -> Any:
        v = vectors_of(context, builder, features)
        source, goal = (pointer(context, builder, kinds.args, arguments, n) for n in (1, 3))
        terms = [v.load(v.at(source, arguments[2]), h * PITCH) for h in range(order)]
        while len(terms) > 1:
            terms = [
                *(builder.fadd(a, b) for a, b in zip(terms[::2], terms[1::2], strict=False)),
                *terms[len(terms) // 2 * 2 :],
            ]
        v.store(goal, arguments[4], terms[0])
        return context.get_dummy_value()

    return types.void(program, features, types.intp, out, types.intp), code


@intrinsic
def dots(
    typing: Any,
    source: Any,
    at: Any,
    step: Any,
    count: Any,
    start: Any,
    place: Any,
    weights: Any,
    first: Any,
    out: Any,
    to: Any,
    apart: Any,
) -> Any:
    """``out[to + n apart ...] = start[place + n V ...] + sum_i weights[first + i N + n] source[at + i step ...]``, vectors.

    For all ``n`` below ``N = ABREAST``.
    """

    def code(context: Any, builder: Any, kinds: Any, arguments: Any) -> Any:
        v = vectors_of(context, builder, source)
        values, begin, table, goal = (pointer(context, builder, kinds.args, arguments, n) for n in (0, 4, 6, 8))
        begin, inputs, table = v.at(begin, arguments[5]), v.at(values, arguments[1]), v.at(table, arguments[7])
        totals = [v.total(v.load(begin, n * v.lanes)) for n in range(ABREAST)]
        with cgutils.for_range(builder, arguments[3]) as loop:
            own = v.at(table, builder.mul(loop.index, ir.Constant(loop.index.type, ABREAST)))
            given = v.load(inputs, builder.mul(loop.index, arguments[2]))
            for n, total in enumerate(totals):
                builder.store(v.fma(given, v.spread(own, n), builder.load(total)), total)
        goal = v.at(goal, arguments[9])
        for total in totals:
            v.store(goal, 0, builder.load(total))
            goal = v.at(goal, arguments[10])
        return context.get_dummy_value()

    kinds = source, types.intp, types.intp, types.intp, start, types.intp, weights, types.intp, out, types.intp, types.intp
    return types.void(*kinds), code


@intrinsic
def filled(
    typing: Any,
    work: Any,
    logits: Any,
    energies: Any,
    levels: Any,
    half: Any,
    lines: Any,
    at: Any,
    out: Any,
    density: Any,
    slope: Any,
) -> Any:
    """Density ``out[density ...]`` and ``dn/dmu`` of one vector from logits and energies of the levels; ``half``: 1 / 2 width.

    Energies are relative to ``lines[at ...]``.
    """

    def code(context: Any, builder: Any, kinds: Any, arguments: Any) -> Any:
        v = vectors_of(context, builder, work)
        source, table, line, goal = (pointer(context, builder, kinds.args, arguments, n) for n in (0, 4, 5, 7))
        centre = v.load(line, arguments[6])
        (logit, energy), one, middle = (v.at(source, arguments[n]) for n in (1, 2)), v.constant(1.0), v.constant(0.5)
        lanes = ir.Constant(arguments[3].type, v.lanes)
        highest = v.total(v.load(logit, 0))
        with cgutils.for_range(builder, arguments[3]) as loop:
            value, before = v.load(logit, builder.mul(loop.index, lanes)), builder.load(highest)
            builder.store(builder.select(builder.fcmp_ordered(">", value, before), value, before), highest)
        total, filled, changed = (v.total(v.constant(0.0)) for _ in range(3))
        with cgutils.for_range(builder, arguments[3]) as loop:
            here, sharp = builder.mul(loop.index, lanes), v.spread(table, loop.index)
            below = v.no_more_than(80.0, builder.fsub(builder.load(highest), v.load(logit, here)))  # further is nothing
            weight = v.decay([below])[0]
            above = builder.fmul(builder.fadd(centre, v.load(energy, here)), sharp)
            occupation = v.fma(middle, v.tanh(above), middle)
            part = builder.fmul(weight, occupation)
            builder.store(builder.fadd(builder.load(total), weight), total)
            builder.store(builder.fadd(builder.load(filled), part), filled)
            steeper = builder.fmul(part, builder.fadd(sharp, sharp))
            builder.store(v.fma(steeper, builder.fsub(one, occupation), builder.load(changed)), changed)
        whole = builder.load(total)
        v.store(goal, arguments[8], builder.fdiv(builder.load(filled), whole))
        v.store(goal, arguments[9], builder.fdiv(builder.load(changed), whole))
        return context.get_dummy_value()

    kinds = work, types.intp, types.intp, types.intp, half, lines, types.intp, out, types.intp, types.intp
    return types.void(*kinds), code
