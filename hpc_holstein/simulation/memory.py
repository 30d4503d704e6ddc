"""Memory that a run will need, said before the start and refused if it cannot be had.

    rank = program + held a + max(working a, forces, gathered N),    a sites of the tile; on rank 0 N of the lattice, else 0

Bytes a site, with ``c`` coordinates of ``w`` bytes: *held* ``(11 c + 1) w + 8 c + r`` (state and forces ``(3 c + 1) w``,
noise ``c (8 w + 8)``, rings and wave numbers of the observables ``r = 12``, or 36 if a cell has several numbers), *working*
``64 c`` (a step or a row of observables, whichever is larger), with ``o > 0`` open axes ``2^o / 3`` of ``r`` and ``3/4 2^o``
of this, *gathered* ``9 c w`` (a checkpoint being read or written). Forces: ``memory_bytes`` of the provider. A snapshot on
its way to the disk, ``(2 c + 1) w`` of what the rank writes, comes to what it works with, and so do packed ones that wait,
which are no larger than one and 64 MiB of a process at most. Measured at 1200x1200 and 2048x2048. Where all ranks write, none
gathers.

Runs that advance in lock step hold their fields side by side, have snapshots on their way together, and their forces are one
evaluation, ``R`` times what one needs and ``(3 c + 1) w`` for the fields that are put together; they integrate one after
another.
"""

from __future__ import annotations

import math
import platform
from bisect import bisect_left
from dataclasses import dataclass, replace

import torch

from hpc_holstein.domain.partition import shown
from hpc_holstein.domain.transport import Transport
from hpc_holstein.errors import DomainError
from hpc_holstein.forces._memory import usable_bytes
from hpc_holstein.interfaces import Domain, ForceProvider
from hpc_holstein.memory import WAITING_BYTES, host_bytes, process_bytes, shown_bytes

_NOISE_NUMBERS, _NOISE_BYTES = 8, 8
_RINGS = {False: 12, True: 36}  # of the observables, by whether a cell has several numbers
_WORKING = 64
_OPEN_RINGS, _OPEN_ROWS = 1 / 3, 3 / 4  # of these two with open edges, times 2 for each open axis
_GATHERED_NUMBERS = 9
_MOST_FIXED = 0.5  # of the memory, for the programs of the ranks


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of one rank, and where: ``place`` is a host or one of its GPUs, which has ``there`` bytes for all its ranks.

    ``fixed``: of every rank; ``held`` and ``working``: of its tile; ``gathered``, instead of ``working``: for a checkpoint.
    """

    place: str
    there: float
    fixed: float
    held: float
    working: float
    gathered: float

    @property
    def bytes(self) -> float:
        """All that is there at one time."""
        return self.fixed + self.held + max(self.working, self.gathered)


def require_memory(
    domain: Domain,
    transport: Transport,
    dtype: torch.dtype,
    forces: ForceProvider | None = None,
    gathers: bool = True,
    together: int = 1,
    components: int = 1,
) -> str:
    """One line that says what each rank needs of what there is; DomainError, on all ranks, where it cannot fit.  Collective.

    ``forces`` None: before there are any; they need more than nothing.  ``gathers``: rank 0 holds the lattice for output.
    ``together``: runs that advance in lock step; ``components``: coordinates of a site.
    """
    everyone = transport.allgather(_needs(domain, dtype, forces, gathers, together, components))
    for number in range(len(everyone[0])):
        needs = [of_rank[number] for of_rank in everyone]
        for place in dict.fromkeys(need.place for need in needs):
            _require_place(place, needs, domain, gathers)
    main = [of_rank[0] for of_rank in everyone]
    largest = max(main, key=lambda need: need.bytes)
    share = largest.there / sum(need.place == largest.place for need in main)
    for_all = f" for {together} runs together" if together > 1 else ""
    return f"memory: {shown_bytes(largest.bytes)} of {shown_bytes(share)} on {'each' if len(main) > 1 else 'the'} rank{for_all}"


def most_together(
    domain: Domain,
    transport: Transport,
    dtype: torch.dtype,
    forces: ForceProvider,
    gathers: bool,
    wanted: int,
    components: int = 1,
) -> int:
    """Number of the ``wanted`` runs in lock step that have memory enough, at least 1; the same on all ranks.  Collective."""

    def too_many(together: int) -> bool:
        everyone = transport.allgather(_needs(domain, dtype, forces, gathers, together, components))
        needs = [need for of_rank in everyone for need in of_rank]
        return any(
            sum(need.bytes for need in needs if need.place == place) > min(need.there for need in needs if need.place == place)
            for place in {need.place for need in needs}
        )

    return max(1, bisect_left(range(1, wanted + 1), True, key=too_many))


def _needs(
    domain: Domain, dtype: torch.dtype, forces: ForceProvider | None, gathers: bool, together: int, components: int
) -> list[MemoryNeed]:
    """Memory of this rank on its device, and on its host if that is another place."""
    basis, width = len(domain.lattice.basis), dtype.itemsize
    sites = math.prod(domain.local_extent) * basis
    state, noise = 3 * components + 1, components * (_NOISE_NUMBERS * width + _NOISE_BYTES)
    opened = domain.lattice.periodic.count(False)
    rings, rows = (_OPEN_RINGS * 2**opened, _OPEN_ROWS * 2**opened) if opened else (1.0, 1.0)
    held = together * (state * width + noise + _RINGS[basis * components > 1] * rings) * sites
    of_one = 0.0 if forces is None else forces.memory_bytes(dtype)
    of_all = together * (of_one + state * width * sites) if together > 1 else of_one
    working = max(_WORKING * components * sites * rows, of_all)
    written = (domain.lattice.sites if domain.rank == 0 else 0) if gathers else sites
    packed = (2 * components + 1) * width * written
    snapshot = float(together * packed + min(together * packed, WAITING_BYTES))
    whole = float(_GATHERED_NUMBERS * components * width * written)
    host = platform.node()
    if domain.device.type == "cpu":
        return [MemoryNeed(host, host_bytes(), process_bytes()[1], held, working + snapshot, whole)]
    gpu = MemoryNeed(f"GPU {domain.device} of {host}", usable_bytes(domain.device), 0.0, held, working, 0.0)
    return [gpu, MemoryNeed(host, host_bytes(), process_bytes()[1], 0.0, snapshot, whole)]


def _places(needs: list[MemoryNeed], ranks: int, there: float, gathers: bool, enough: int) -> int:
    """The fewest places with ``ranks`` ranks each and ``there`` bytes, given a number that is enough."""
    held, working = sum(need.held for need in needs), sum(need.working for need in needs)
    gathered = max(need.gathered for need in needs) if gathers else 0.0

    def fit(places: int) -> bool:
        each = MemoryNeed("", there, needs[0].fixed, held / (places * ranks), working / (places * ranks), 0.0)
        return (ranks - 1) * each.bytes + replace(each, gathered=gathered).bytes <= there

    while enough > 1 and fit(enough - 1):
        enough -= 1
    return enough


def _require_place(place: str, needs: list[MemoryNeed], domain: Domain, gathers: bool) -> None:
    """Refuse what the ranks of one place need together if it is more than there is, and say what would do."""
    here = [need for need in needs if need.place == place]
    there, wanted = min(need.there for need in here), sum(need.bytes for need in here)
    if wanted <= there:
        return
    for_ranks = there - (max(need.gathered for need in needs) if gathers else 0.0)
    left = for_ranks - sum(need.fixed for need in here)
    fewer = int(_MOST_FIXED * for_ranks / max(here[0].fixed, 1.0))
    if fewer < 1:
        remedy = "no number of ranks would do, since rank 0 gathers the lattice: give a smaller one, or output.writers = 0"
    elif left <= 0:
        remedy = (
            f"each of {len(here)} ranks there takes {shown_bytes(here[0].fixed)} before it starts, so put at most {fewer} there"
        )
    else:
        places = _places(needs, len(here), there, gathers, math.ceil(sum(need.held + need.working for need in needs) / left))
        kind = "GPUs" if place.startswith("GPU ") else "hosts"
        remedy = f"give a smaller lattice, or {places * len(here)} ranks on {places} {kind} like this one"
    raise DomainError(
        f"{shown(domain.lattice.extent)} cells on {domain.size} rank(s) need {shown_bytes(wanted)} on {place} and "
        f"{shown_bytes(there)} are there: {remedy}"
    )
