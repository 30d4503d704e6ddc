"""One way to fill the ghosts of one kind of field, planned once and used in every step.

Along an axis that several ranks share, the ghosted cells of a tile fall into segments, each owned by one rank (by several in
turn where tiles are thinner than the halo) or by nobody beyond an open edge.  Products of segments are boxes; those of one
owner travel in one packed message to each rank that reads them, corners included, while this rank copies the images of its
own cells.  Boxes span the axes that a rank holds alone whole, so that large ones are contiguous and travel as they lie in the
field; the periodic images along such axes are copied last.
"""

from __future__ import annotations

import ctypes
import dataclasses
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from hpc_holstein.compiled.copies import Block, Copies, block_of
from hpc_holstein.domain.transport import Channel, Message, Transport

_SHORT, _FEW = 1 << 12, 4  # bytes that MPI libraries send without asking the receiver first, and how often that is faster
_LARGE = 1 << 16  # bytes of a contiguous block that travels without a copy
_PLACES = 4  # of fields whose channels are kept: a recurrence goes round among a few

Index = tuple[slice, ...]


@dataclass(frozen=True)
class Grid:
    """``spans``: what each rank owns along each axis, ``[start, stop)``; ``periodic`` axes; ``rank``, in row-major order."""

    spans: tuple[tuple[tuple[int, int], ...], ...]
    periodic: tuple[bool, ...]
    rank: int

    @property
    def parts(self) -> tuple[int, ...]:
        """Ranks along each axis."""
        return tuple(map(len, self.spans))

    @property
    def place(self) -> tuple[int, ...]:
        """Index of this rank along each axis."""
        parts = self.parts
        return tuple(self.rank // prod(parts[axis + 1 :]) % parts[axis] for axis in range(len(parts)))

    @property
    def local_extent(self) -> tuple[int, ...]:
        """Cells of this rank."""
        return tuple(stop - start for start, stop in (spans[at] for spans, at in zip(self.spans, self.place, strict=True)))

    def rank_at(self, place: Sequence[int]) -> int:
        """The rank there."""
        return sum(at * prod(self.parts[axis + 1 :]) for axis, at in enumerate(place))


class _Segment(NamedTuple):
    """Ghosted cells ``ghosts`` of a tile that ``owner`` (a place along the axis, None: nobody) has at ``cells`` of its own."""

    ghosts: slice
    owner: int | None
    cells: slice


@dataclass
class _End:
    """One end of all messages: blocks of the field with their place in a buffer of ``size`` numbers, the parts of the buffer
    that make up the messages, and blocks that travel by themselves."""

    pairs: list[tuple[Block, Block]] = dataclasses.field(default_factory=list)
    messages: list[tuple[int, slice]] = dataclasses.field(default_factory=list)
    pieces: list[tuple[int, Block]] = dataclasses.field(default_factory=list)
    size: int = 0


class _Slot(NamedTuple):
    """Buffers of one exchange under way: what others read of ours, and our ghosts."""

    ours: Tensor
    ghosts: Tensor
    first: Callable[[Tensor], None]
    then: Callable[[Tensor], None]
    channel: Channel | None


class HaloPlan:
    """Fills the ghosts of fields of one shape, layout, dtype and device, ``widths`` cells on each axis.

    ``adjoint``: a plan for :meth:`add_back` instead.  Several exchanges of a plan may be under way at once.
    """

    def __init__(self, grid: Grid, transport: Transport, field: Tensor, widths: Sequence[int], adjoint: bool = False) -> None:
        self._grid, self._transport, self._widths, self._adjoint = grid, transport, tuple(widths), adjoint
        self._shape, self._strides = tuple(field.shape), field.stride()
        self._dtype, self._device = field.dtype, field.device
        self._lead = field.ndim - 2 - len(widths)  # batch axes
        incoming, outgoing, own, self._empty = self._boxes()
        self._ours, self._ghosts = self._sorted(outgoing), self._sorted(incoming)
        inside, outside = self._alone()
        pack = [(packed, cells) for cells, packed in self._ours.pairs]
        self._first = Copies([*pack, *own, *inside], self._dtype, self._device)
        self._then = Copies([*self._ghosts.pairs, *outside], self._dtype, self._device)
        self._free: list[_Slot] = []
        self._in_place: dict[int, Channel] = {}  # by the address of the field, the newest last

    def start(self, field: Tensor) -> Callable[[], None]:
        """Send, and do what needs no other rank; the function that is returned waits and does the rest."""
        pieces = self._channel_of(field) if self._ours.pieces or self._ghosts.pieces else None
        slot = self._free.pop() if self._free else self._slot()
        slot.first(field)  # before the pieces start: MPI moves those between cores while it is called, here and in the wait
        if pieces is not None:
            pieces.start()
        if slot.channel is not None:
            slot.channel.start()

        def finish() -> None:
            if pieces is not None:
                pieces.wait()
            if slot.channel is not None:
                slot.channel.wait()
            slot.then(field)
            self._free.append(slot)
            for block in self._empty:
                block.of(field).zero_()

        return finish

    def add_back(self, field: Tensor) -> None:
        """The adjoint of :meth:`start` and its end: ghosts are added to their owners and set to zero."""
        for block in self._empty:
            block.of(field).zero_()
        slot = self._free.pop() if self._free else self._slot()
        slot.ghosts.zero_()
        self._then.add_back(field, slot.ghosts)
        if slot.channel is not None:
            slot.channel.start()
            slot.channel.wait()
        self._first.add_back(field, slot.ours)
        self._free.append(slot)

    def _channel_of(self, field: Tensor) -> Channel:
        """Channel of the pieces that travel by themselves; on a CPU that of an earlier field in this memory, if any."""
        if field.device.type != "cpu":
            return self._transport.channel(self._messages(field, Block.of))
        place = field.data_ptr()
        channel = self._in_place.pop(place, None) or self._transport.channel(self._messages(field, _borrowed))
        self._in_place[place] = channel
        if len(self._in_place) > _PLACES:
            del self._in_place[next(iter(self._in_place))]
        return channel

    def _messages(self, field: Tensor, part: Callable[[Block, Tensor], Tensor]) -> list[Message]:
        """Messages of the pieces that travel by themselves."""
        sends = [_to(peer, part(block, field)) for peer, block in self._ours.pieces]
        return sends + [_from(peer, part(block, field)) for peer, block in self._ghosts.pieces]

    def _slot(self) -> _Slot:
        """One that no exchange uses; all ranks start exchanges in the same order, so messages meet their own."""
        ends = self._ours, self._ghosts
        ours, ghosts = (torch.empty(end.size, dtype=self._dtype, device=self._device) for end in ends)
        there, back = (_from, _to) if self._adjoint else (_to, _from)
        messages = [there(peer, ours[part]) for peer, part in self._ours.messages]
        messages += [back(peer, ghosts[part]) for peer, part in self._ghosts.messages]
        channel = self._transport.channel(messages) if messages else None
        return _Slot(ours, ghosts, self._first.with_buffer(ours), self._then.with_buffer(ghosts), channel)

    def _block(self, index: Sequence[slice]) -> Block:
        """Cells of the field, with all that they hold."""
        whole = [slice(0, count) for count in self._shape]
        return block_of(self._shape, self._strides, (*whole[: self._lead], *index, *whole[-2:]))

    # ---- who owns what -------------------------------------------------------------------------------------------------

    def _segments(self, axis: int, place: int) -> list[_Segment]:
        """Segments of the tile at ``place``, in order; a tile alone on the axis is one segment with all its ghosts."""
        spans, width = self._grid.spans[axis], self._widths[axis]
        start, stop = spans[place]
        if len(spans) == 1:
            whole = slice(0, stop + 2 * width)
            return [_Segment(whole, 0, whole)]
        extent, starts = spans[-1][1], [first for first, _ in spans]
        found, at = [], start - width
        while at < stop + width:
            here, first = at % extent, at - start + width
            owner: int | None = bisect_right(starts, here) - 1
            begin, end = spans[owner or 0]
            count = min(end - here, stop + width - at)
            if not self._grid.periodic[axis] and at != here:
                owner, count = None, -at if at < 0 else stop + width - at
            cells = slice(here - begin + width, here - begin + width + count)
            found.append(_Segment(slice(first, first + count), owner, cells))
            at += count
        return found

    def _boxes(self) -> tuple[dict[int, list[Index]], dict[int, list[Index]], list[tuple[Block, Block]], list[Block]]:
        """Ghosts from each rank, cells for each rank, ghosts that are images of our own cells, ghosts that nobody owns."""
        grid, axes = self._grid, range(len(self._widths))
        incoming, outgoing = defaultdict(list), defaultdict(list)
        own, empty = [], []
        for box in product(*(self._segments(axis, grid.place[axis]) for axis in axes)):
            ghosts, owners = tuple(part.ghosts for part in box), [part.owner for part in box]
            cells = tuple(part.cells for part in box)
            if any(owner is None for owner in owners):
                empty.append(self._block(ghosts))
                continue
            rank = grid.rank_at([owner for owner in owners if owner is not None])
            if rank != grid.rank:
                incoming[rank].append(ghosts)
            elif ghosts != cells:
                own.append((self._block(ghosts), self._block(cells)))
        readers = [
            [(place, part) for place in range(grid.parts[axis]) for part in self._segments(axis, place)
             if part.owner == grid.place[axis]]
            for axis in axes
        ]  # fmt: skip
        for pairs in product(*readers):
            reader = grid.rank_at([place for place, _ in pairs])
            if reader != grid.rank:
                outgoing[reader].append(tuple(part.cells for _, part in pairs))
        return incoming, outgoing, own, empty

    # ---- how it travels ------------------------------------------------------------------------------------------------

    def _sorted(self, boxes: dict[int, list[Index]]) -> _End:
        """Boxes that travel by themselves, and those that are packed.

        The other end of the messages has boxes of the same shapes in the same order, and so decides alike.
        """
        end = _End()
        for peer in sorted(boxes):
            first = end.size
            for index in boxes[peer]:
                members = list(self._members(index))
                if self._large(members[0]) and _contiguous(members[0]):
                    end.pieces += [(peer, block) for block in members]
                    continue
                block = self._block(self._lean(index))
                end.pairs.append((block, _dense(end.size, block.shape)))
                end.size += block.numbers
            end.messages += [(peer, part) for part in self._cut(first, end.size)]
        return end

    def _cut(self, start: int, stop: int) -> list[slice]:
        """Slices of the numbers that go to one rank, in a few short messages if that is enough."""
        short = _SHORT // self._dtype.itemsize
        step = short if stop - start <= _FEW * short else stop - start
        return [slice(first, min(first + step, stop)) for first in range(start, stop, max(step, 1))]

    def _members(self, index: Index) -> Iterator[Block]:
        """The part of each member of the batch."""
        block = self._block(index)
        for member in product(*map(range, block.shape[: self._lead])):
            start = sum(at * stride for at, stride in zip(member, block.strides, strict=False))
            yield Block(block.start + start, block.shape[self._lead :], block.strides[self._lead :])

    def _lean(self, index: Index) -> Index:
        """Without the ghosts along the axes that this rank holds alone."""
        pairs = zip(self._grid.parts, self._widths, index, strict=True)
        return tuple(slice(width, part.stop - width) if parts == 1 else part for parts, width, part in pairs)

    def _large(self, block: Block) -> bool:
        """True if the block may travel by itself; the adjoint adds what arrives, and so packs."""
        return not self._adjoint and block.numbers * self._dtype.itemsize >= _LARGE

    # ---- axes of one rank ----------------------------------------------------------------------------------------------

    def _alone(self) -> tuple[list[tuple[Block, Block]], list[tuple[Block, Block]]]:
        """Images along each axis that this rank holds alone, axis by axis: of its own cells, and of ghosts from other ranks.

        An axis includes the ghosts of those before it, which brings the corners along.
        """
        grid, cells, widths = self._grid, self._grid.local_extent, self._widths
        alone = [axis for axis, parts in enumerate(grid.parts) if parts == 1]
        owned = [slice(width, width + count) for width, count in zip(widths, cells, strict=True)]
        whole = [slice(0, count + 2 * width) for width, count in zip(widths, cells, strict=True)]
        sides = [
            [owned[axis]] if axis in alone else [slice(0, width), owned[axis], slice(width + count, count + 2 * width)]
            for axis, (width, count) in enumerate(zip(widths, cells, strict=True))
        ]
        inside: list[tuple[Block, Block]] = []
        outside: list[tuple[Block, Block]] = []
        for number, axis in enumerate(alone):
            images = list(_images(cells[axis], widths[axis]))
            if not grid.periodic[axis]:
                self._empty += [self._block(_with(whole, axis, ghost, count)) for ghost, _, count in images]
                continue
            for box in product(*sides):
                around = [whole[at] if at in alone[:number] else part for at, part in enumerate(box)]
                (inside if list(box) == owned else outside).extend(
                    (self._block(_with(around, axis, ghost, count)), self._block(_with(around, axis, owner, count)))
                    for ghost, owner, count in images
                )
        return inside, outside


def _with(index: list[slice], axis: int, start: int, count: int) -> list[slice]:
    """``index`` with other cells on one axis."""
    return [*index[:axis], slice(start, start + count), *index[axis + 1 :]]


def _images(cells: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Ghost start, owner start and length of the periodic images of ``cells`` owned cells, nearest first."""
    for beyond in range(0, width, cells):
        length = min(cells, width - beyond)
        yield width - beyond - length, width + cells - length, length
        yield width + cells + beyond, width, length


def _dense(start: int, shape: tuple[int, ...]) -> Block:
    """A row-major block of a buffer."""
    return Block(start, shape, tuple(prod(shape[axis + 1 :]) for axis in range(len(shape))), in_buffer=True)


def _contiguous(block: Block) -> bool:
    """True if the block is one piece of memory."""
    dense = _dense(0, block.shape).strides
    return all(a == b or n == 1 for n, a, b in zip(block.shape, block.strides, dense, strict=True))


def _borrowed(block: Block, field: Tensor) -> Tensor:
    """View of a block of a contiguous field on a CPU; it does not keep the memory of the field."""
    there = block.of(field)
    memory = (ctypes.c_char * there.nbytes).from_address(there.data_ptr())
    return torch.frombuffer(memory, dtype=there.dtype).view(there.shape)


def _to(peer: int, tensor: Tensor) -> Message:
    return Message(peer, tensor, None, tensor)


def _from(peer: int, tensor: Tensor) -> Message:
    return Message(None, tensor, peer, tensor)
