"""A network of levels as compiled code: each row goes at once through all layers.

Rows of a feature lie channel after channel, ``PITCH`` numbers apart; the even part comes first, and channels are ``(site of
the cell, copy, element)``.  Neighbouring cells of a row are one vector, and every cell sees the same instructions wherever it
lies (:mod:`hpc_holstein.compiled.instructions`).  The last rows of each layer stay in the cache.  Code for a program is
compiled when it is first used (seconds) and kept on disk where that is possible.  Stencils, channels and weights are tables.
"""

from __future__ import annotations

from hpc_holstein.compiled import compiled
from hpc_holstein.compiled.instructions import (
    ABREAST,
    LONGEST,
    PITCH,
    activated,
    convolved,
    dots,
    filled,
    group_sum,
    squashed,
)


@compiled
def _layer_row(program, rings, row, layer, shape, tables, width, parts, to):  # type: ignore[no-untyped-def]
    """Row ``row`` of a layer with its activation to ``rings[to ...]``."""
    lanes, sites, blocks, together, channels, step, _ = shape
    layers, counts, offsets, weights, biases = tables
    feature, rows = blocks * channels, layers[layer, 0] + 1
    slot, steps, apart = row % rows, feature // step, sites * feature * PITCH
    for x in range(0, width, lanes):
        for site in range(sites):
            for part in range(2):
                own = 3 + 5 * part
                size, first, at = layers[layer, own], layers[layer, own + 2], layers[layer, own + 3]
                if size:  # the even part of a layer that reads odd inputs alone is its bias, which is there
                    place = layers[layer, own + 1] + (site * rows + slot) * size
                    bias, goal = (0 if part else layers[layer, 2]), part * feature * lanes
                    for _ in range(blocks):
                        convolved(program, rings, x, offsets, place, counts, first, weights, at, biases, bias, parts, goal)
                        at, bias, goal = at + layers[layer, own + 4], bias + (0 if part else together), goal + channels * lanes
            even, goal = 0, to + site * feature * PITCH + x
            for _ in range(steps):
                activated(program, parts, even, even + feature * lanes, rings, goal, apart)
                even, goal = even + step * lanes, goal + step * PITCH


@compiled
def _through(programs, row, first, width, shape, tables, rings, places, parts, lifted):  # type: ignore[no-untyped-def]
    """Rows of all layers that row ``row`` of the input completes; gives that of the last layer, or one below ``first``."""
    layers, feature = tables[0], shape[6] * shape[1] * shape[2] * shape[4] * PITCH
    for n in range(len(layers)):
        row, width = row - layers[n, 0], width - layers[n, 1]
        if row < first:
            return row
        to = places[n + 1] + (row % (layers[n + 1, 0] + 1) * feature if n + 1 < len(layers) else 0)
        if n == 0:
            _layer_row(programs[0], rings, row, n, shape, tables, width, lifted, to)
        else:
            _layer_row(programs[1], rings, row, n, shape, tables, width, parts, to)
    return row


@compiled
def _read_row(program, rings, place, shape, head, lines, width, work, out, to):  # type: ignore[no-untyped-def]
    """Densities, slopes and coefficients of pairs of a row to ``out[to ...]``, from the last feature and energies ``lines``."""
    lanes, sites, blocks, together, channels, _, parts = shape
    half, biases, even, odd, pair_biases, pair_weights, pair_channels = head
    levels, copies, order = len(half), blocks * together, channels // together
    padded = len(biases) // (2 * lanes)
    odd_sums, logits = (parts - 1) * copies * lanes, parts * copies * lanes
    energies = logits + padded * lanes
    for x in range(0, width, lanes):
        for site in range(sites):
            for part in range(parts):
                for copy in range(copies):
                    at = place + ((part * sites + site) * copies + copy) * order * PITCH + x
                    group_sum(program, rings, at, work, (part * copies + copy) * lanes)
            for n in range(0, padded, ABREAST):
                other = (padded + n) * lanes
                dots(work, 0, lanes, copies, biases, n * lanes, even, n * copies, work, logits + n * lanes, lanes)
                dots(work, odd_sums, lanes, copies, biases, other, odd, n * copies, work, energies + n * lanes, lanes)
            density = to + site * PITCH + x
            filled(work, logits, energies, levels, half, lines, site * PITCH + x, out, density, density + sites * PITCH)
        for n in range(len(pair_channels)):
            at, count, goal = place + pair_channels[n] * PITCH + x, copies * order, to + (2 * sites + n * ABREAST) * PITCH + x
            here, first = n * ABREAST * lanes, n * ABREAST * count
            dots(rings, at, PITCH, count, pair_biases, here, pair_weights, first, out, goal, PITCH)


@compiled
def _gather(source, first, step, gain, shift, goal, to, count):  # type: ignore[no-untyped-def]
    """``goal[to ...] = gain source + shift`` for every so many numbers from ``first`` on."""
    for x in range(count):
        goal[to + x] = gain * source[first + x * step] + shift


@compiled
def _scatter(source, first, goal, to, step, count):  # type: ignore[no-untyped-def]
    """``goal = source[first ...]`` for every so many numbers from ``to`` on."""
    for x in range(count):
        goal[to + x * step] = source[first + x]


@compiled
def _symmetric(source, first, second, goal, to, step, count):  # type: ignore[no-untyped-def]
    """The mean of two rows likewise."""
    for x in range(count):
        goal[to + x * step] = 0.5 * (source[first + x] + source[second + x])


@compiled
def evaluate(  # type: ignore[no-untyped-def]
    programs, field, out, slope, extent, first, last, gains, inputs, shape, tables, head, pairs, places, space
):
    """Density and pairs ``out``, and ``dn/dmu`` ``slope``, of a network of levels on the rows from ``first`` to ``last``.

    programs of the lifting layer and of the others
    field    ``[batch, rows, columns, numbers]`` with a halo of all radii, flat as ``out`` and ``slope``, which are without
    extent   batch, rows and columns of these
    gains    what each number is multiplied with, and what is then added; the first ones are the energies of the sites
    inputs   number of the field ``[channels]`` and factor of it in the tanh of each channel
    shape    lanes of a vector, sites of a cell, blocks of copies, copies and channels of a block, channels that go through the
             activation in step, parts of a feature
    tables   layers ``[layer, 13]``: rows and columns that it consumes, first bias, and of both parts how many ``offsets`` a
             site and a place in the ring have, where those, the counts and the weights start, and numbers of weights of a
             block; how many inputs of each kind there are; offsets; weights; biases after zeros for the odd parts
    head     1 / 2 width of the levels; biases of logits and levels, each for a vector; weights of both, flat
             ``[levels in step, copy, level]``; likewise biases and weights of the coefficients of pairs, and the first channel
             of those in step
    pairs    ``[pair, 4]``: own coefficient, that of the other direction and offset of the cell where it is; then the reach of
             pairs in rows and columns ``[1, 4]``
    places   where the last rows of the input of each layer start in ``rings``, and a row of the last layer
    space    rings; a vector of each channel before the activation; that of the lifting layer, with its even part; work for the
             levels; rows of the numbers of the field; last rows of what is read
    """
    rings, parts, lifted, work, lines, read = space
    (numbers, factors), layers, (batch, height, columns) = inputs, tables[0], extent
    lanes, sites, pairs_written = shape[0], shape[1], len(pairs) - 1
    high, wide, above, beside = layers[:, 0].sum(), layers[:, 1].sum(), pairs[-1, 0], pairs[-1, 1]
    longest = min(LONGEST, (PITCH - wide - 2 * beside) // lanes * lanes)
    rows, written, count = 2 * above + 1, (2 * sites + ABREAST * len(head[-1])) * PITCH, sites + pairs_written
    for b in range(batch):
        for left in range(0, columns, longest):
            width = min(longest, columns - left)
            inner = width + 2 * beside
            for j in range(first, last + high + 2 * above):
                at = (b * (height + high + 2 * above) + j) * (columns + wide + 2 * beside) + left
                for e in range(len(gains)):
                    gain, shift = gains[e, 0], gains[e, 1]
                    _gather(field, at * len(gains) + e, len(gains), gain, shift, lines, e * PITCH, inner + wide)
                to = places[0] + j % (layers[0, 0] + 1) * len(numbers) * PITCH
                for c in range(len(numbers)):
                    for x in range(0, inner + wide, lanes):
                        squashed(lines, numbers[c] * PITCH + x, factors[c], rings, to + c * PITCH + x)
                row = _through(programs, j, first, inner + wide, shape, tables, rings, places, parts, lifted)
                if row < first:
                    continue
                at -= high // 2 * (columns + wide + 2 * beside) - wide // 2
                for e in range(sites):
                    gain, shift = gains[e, 0], gains[e, 1]
                    _gather(field, at * len(gains) + e, len(gains), gain, shift, lines, e * PITCH, inner)
                _read_row(programs[0], rings, places[-1], shape, head, lines, inner, work, read, row % rows * written)
                row -= 2 * above
                if row < first:
                    continue
                here, at = (row + above) % rows * written + beside, (b * height + row) * columns + left
                for e in range(sites):
                    _scatter(read, here + e * PITCH, out, at * count + e, count, width)
                    _scatter(read, here + (sites + e) * PITCH, slope, at * sites + e, sites, width)
                for n in range(pairs_written):
                    there = (row + above + pairs[n, 2]) % rows * written + beside + pairs[n, 3]
                    own, other = here + (2 * sites + pairs[n, 0]) * PITCH, there + (2 * sites + pairs[n, 1]) * PITCH
                    _symmetric(read, own, other, out, at * count + sites + n, count, width)
