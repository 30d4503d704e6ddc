"""Checkpoints: the whole state of a run at one step by global index, so that it continues on any number of ranks.

One HDF5 file a checkpoint, ``step-000000012345.h5``, written under a temporary name, brought onto the disk and renamed; its
first 512 bytes (a user block, which HDF5 leaves alone) hold the SHA-256 of the rest.  Forces are stored with everything that
they told, since a force provider starts from those of the step before: on the same ranks a run continues bit for bit.

===========================================  ===========================================================================
``q``, ``velocity``, ``force``, ``density``  ``[*batch, *extent, basis, components]`` in the precision of the run
``chemical_potential``, ``grand_potential``  ``[*batch]`` [t_nn]
attributes                                   ``step``, configuration, seed, versions, model, units; ``account``, ``info`` (JSON)
===========================================  ===========================================================================

Where no rank holds the lattice, each writes its tile, and the root then a file that refers to all of them:

step-000000012345.d/00000.h5    fields of one tile, and so on
step-000000012345.h5            numbers, attributes, and box and SHA-256 of each tile: renamed last, it makes the checkpoint
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_holstein import inputs
from hpc_holstein.domain.transport import Transport, agreed
from hpc_holstein.errors import DataError
from hpc_holstein.files import replaced
from hpc_holstein.interfaces import Domain, ForceResult, State
from hpc_holstein.memory import free_bytes, shown_bytes
from hpc_holstein.storage.whole_files import IDENTITY

SCHEMA = "hpc_holstein checkpoint 1"
_NAME = re.compile(r"step-(\d{12,})\.h5")
_UNFINISHED = re.compile(r"\.step-\d{12,}\.h5\.\d+\.tmp")
_TILE = re.compile(r"\d{5,}\.h5|\.\d{5,}\.h5\.\d+\.tmp")
_COPIES = 2.0  # of a checkpoint that is read
_BLOCK = 512  # bytes before the HDF5 file
_PIECE = 1 << 20  # bytes of a file that are hashed at a time
_UNITS = {
    "q": "a",
    "velocity": "a t_nn/hbar",
    "force": "t_nn/a",
    "density": "electrons/site",
    "chemical_potential": "t_nn",
    "grand_potential": "t_nn",
}


@dataclass(frozen=True)
class TileFile:
    """The fields of a ``box`` of the lattice; ``sha256`` of its content behind the first block."""

    path: Path
    box: tuple[tuple[int, int], ...]
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """A run at one step, on the root.

    arrays      by the names of the table above; without forces, ``q`` and ``velocity`` only
    tiles       where the fields are if they are not among ``arrays``
    shapes      of those fields, of the whole lattice, and their types
    info        of the forces: what the next ones start from
    account     what a summary adds up, and what health is measured against
    attributes  how the run was made
    """

    step: int
    arrays: dict[str, NDArray[Any]]
    info: dict[str, float] = field(default_factory=dict)
    account: dict[str, float] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    tiles: tuple[TileFile, ...] = ()
    shapes: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)


FIELDS = ("q", "velocity", "force", "density")
"""What there is of every site."""


def fields_of(state: State) -> tuple[dict[str, Tensor], dict[str, NDArray[Any]], dict[str, float]]:
    """The fields of a state on this rank, its numbers, and what the forces told."""
    fields, forces = {"q": state.q, "velocity": state.velocity}, state.forces
    if forces is None:
        return fields, {}, {}
    fields |= {"force": forces.force, "density": forces.density.unsqueeze(-1)}
    numbers = {"chemical_potential": forces.chemical_potential, "grand_potential": forces.grand_potential}
    return fields, {name: number.cpu().numpy() for name, number in numbers.items() if number is not None}, dict(forces.info)


def gathered(state: State, domain: Domain) -> Checkpoint | None:
    """``state`` on the root, None elsewhere; collective."""
    fields, numbers, info = fields_of(state)
    arrays = {}
    for name, owned in fields.items():
        whole = domain.gather(owned) if domain.size > 1 else owned.detach()
        if whole is not None:
            arrays[name] = whole.cpu().numpy()
    return Checkpoint(state.step, arrays | numbers, info) if domain.rank == 0 else None


def saved_state(folder: Path, state: State, domain: Domain, transport: Transport, gathers: bool) -> Checkpoint | None:
    """``state`` on the root, ready for :func:`write` into ``folder``, None elsewhere; collective.

    Its fields are gathered on the root, or are in tiles on the disk already: DataError, on all ranks, if one cannot be written.
    """
    if gathers:
        return gathered(state, domain)
    fields, numbers, info = fields_of(state)
    path = tiles_of(path_of(folder, state.step)) / f"{domain.rank:05d}.h5"
    arrays = {name: owned.detach().cpu().numpy() for name, owned in fields.items()}
    with agreed(transport):
        told = write_file(path, Checkpoint(state.step, arrays))
    tiles = transport.gather(TileFile(path, domain.owned, told))
    if tiles is None:
        return None
    extent, cells = tuple(domain.lattice.extent), len(domain.lattice.extent)
    shapes = {k: ((*v.shape[: v.ndim - cells - 2], *extent, *v.shape[-2:]), v.dtype.name) for k, v in arrays.items()}
    return Checkpoint(state.step, numbers, info, tiles=tuple(tiles), shapes=shapes)


def restored(stored: Checkpoint | None, domain: Domain, transport: Transport) -> State:
    """The state that was saved, on the ranks there are now; ``stored`` is that of the root.  Collective."""
    facts: Checkpoint | None = None
    if stored is not None:
        shapes = stored.shapes or {k: (v.shape, v.dtype.name) for k, v in stored.arrays.items() if k in FIELDS}
        numbers = {name: number for name, number in stored.arrays.items() if name not in FIELDS}
        facts = replace(stored, arrays=numbers, shapes=shapes, account={}, attributes={})
    facts = transport.bcast(facts)
    assert facts is not None
    owned = {}
    for name, (shape, dtype) in facts.shapes.items():
        cells = len(domain.lattice.extent)
        local = (*shape[: len(shape) - cells - 2], *domain.local_extent, *shape[-2:])
        like = torch.empty(local, dtype=getattr(torch, dtype), device=domain.device)
        if facts.tiles:
            with agreed(transport):
                owned[name] = _from_tiles(facts.tiles, name, domain.owned, like)
        else:
            owned[name] = domain.scatter(None if stored is None else torch.from_numpy(stored.arrays[name]), like)
    state = State(owned["q"], owned["velocity"], facts.step)
    if "force" not in owned:
        return state
    found = {name: torch.as_tensor(number, device=domain.device) for name, number in facts.arrays.items()}
    mu, omega = found["chemical_potential"], found.get("grand_potential")
    return state.moved(forces=ForceResult(owned["force"], owned["density"][..., 0], mu, omega, facts.info))


def _from_tiles(tiles: Sequence[TileFile], name: str, owned: tuple[tuple[int, int], ...], like: Tensor) -> Tensor:
    """A field of the box ``owned``, from the tiles that overlap it."""
    field = np.empty(tuple(like.shape), dtype=str(like.dtype).removeprefix("torch."))
    for tile in tiles:
        overlap = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(tile.box, owned, strict=True)]
        if any(start >= stop for start, stop in overlap):
            continue
        there, here = _within(overlap, tile.box), _within(overlap, owned)
        with inputs.opened(tile.path) as file:
            field[here] = file.numbers(name)[there]
    return torch.from_numpy(field).to(like.device)


def _within(overlap: Sequence[tuple[int, int]], box: Sequence[tuple[int, int]]) -> tuple[Any, ...]:
    """Index of a part of a box in a field of the box."""
    cells = (slice(start - low, stop - low) for (start, stop), (low, _) in zip(overlap, box, strict=True))
    return (..., *cells, slice(None), slice(None))


def write(folder: Path, stored: Checkpoint, kept: int) -> Path:
    """A new checkpoint in ``folder``; the ``kept`` last ones stay.  DataError, and nothing is lost, if it cannot be written."""
    path = path_of(folder, stored.step)
    write_file(path, stored)
    for old in listed(folder)[:-kept]:
        _remove(old)
    return path


def write_file(path: Path, stored: Checkpoint) -> str:
    """One file, whole and on the disk or not there; the SHA-256 of its content.  DataError where it cannot be written."""
    content = _packed(stored)
    with replaced(path) as temporary, temporary.open("wb") as file, ThreadPoolExecutor(1) as pool:
        block = pool.submit(_block, content[_BLOCK:])  # while the rest is written
        file.write(content)
        file.seek(0)
        file.write(block.result())
    return _told(block.result())


def read(path: Path) -> Checkpoint:
    """A checkpoint whose checksum is right; DataError for a file that is missing, truncated, damaged or something else."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            first = file.read(_BLOCK)
            if _told(first) and _COPIES * size > free_bytes():
                raise DataError(f"checkpoint {path} has {shown_bytes(size)}, more than can be read here: use more memory")
            content = first + (file.read() if _told(first) else b"")
    except OSError as error:
        raise DataError(f"checkpoint {path} cannot be read ({error.strerror}): give a file that exists") from None
    if first != _block(memoryview(content)[_BLOCK:]):
        raise DataError(f"checkpoint {path} is truncated or damaged (its checksum is wrong): use an earlier one")
    stored = _unpacked(path, content)
    _require_tiles(path, stored.tiles)
    return stored


def _require_tiles(path: Path, tiles: Sequence[TileFile]) -> None:
    """DataError where a tile of the checkpoint ``path`` is not what was written; hashing lets threads run."""
    with ThreadPoolExecutor() as pool:
        for tile, found in zip(tiles, pool.map(_hash_of_file, tiles), strict=True):
            if found != tile.sha256:
                raise DataError(
                    f"checkpoint {path} is truncated or damaged (the checksum of its tile {tile.path.name} is wrong): use an "
                    "earlier one"
                )


def _hash_of_file(tile: TileFile) -> str:
    """In small pieces, empty where it cannot be read."""
    found = hashlib.sha256()
    try:
        with tile.path.open("rb") as file:
            first = file.read(_BLOCK)
            while piece := file.read(_PIECE):
                found.update(piece)
    except OSError:
        return ""
    return found.hexdigest() if _told(first) == found.hexdigest() else ""


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The last checkpoint in ``folder`` that is whole, None where there is none; and a sentence for each one passed over.

    Raises DataError where there are checkpoints but none is whole, or where one does not belong there.
    """
    complaints: list[str] = []
    for path in reversed(listed(folder)):
        try:
            found = read(path)
        except DataError as error:
            complaints.append(str(error))
            continue
        if path != path_of(folder, found.step):
            raise DataError(f"{path} is the checkpoint of step {found.step}, not of the step in its name: move it away")
        return found, complaints
    if complaints:
        raise DataError(f"no checkpoint in {folder} is whole, of {len(complaints)}: choose another output, or remove this one")
    return None, complaints


def listed(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, whole or not, in the order of their steps: files of other names are not ours."""
    found = {int(match[1]): path for path in folder.glob("step-*.h5") if (match := _NAME.fullmatch(path.name))}
    return [found[step] for step in sorted(found) if found[step] == path_of(folder, step)]


def path_of(folder: Path, step: int) -> Path:
    """Path of the checkpoint of a step."""
    return folder / f"step-{step:012d}.h5"


def identity(path: Path) -> str | None:
    """The run that a checkpoint is of; None if the file does not say it, or is damaged."""
    try:
        with inputs.opened(path) as file:
            told = file.attributes().get(IDENTITY)
    except DataError:
        return None
    return told if isinstance(told, str) else None


def clean(folder: Path, after: int) -> None:
    """Remove checkpoints of later steps than ``after``, and what killed writers left behind; nothing of another name."""
    for path in reversed(listed(folder)):
        if path > path_of(folder, after):
            _remove(path)
    for path in folder.glob(".step-*.tmp"):
        if _UNFINISHED.fullmatch(path.name):
            path.unlink()
    for tiles in folder.glob("step-*.d"):
        if _NAME.fullmatch(f"{tiles.stem}.h5") and not tiles.with_suffix(".h5").exists():
            _remove_tiles(tiles)


def _remove(path: Path) -> None:
    """The file first: without it the tiles are nothing."""
    with suppress(OSError):
        path.unlink()
        _remove_tiles(tiles_of(path))


def _remove_tiles(folder: Path) -> None:
    """The tiles of a checkpoint, and their folder if nothing else is in it."""
    with suppress(OSError):
        for path in folder.iterdir():
            if _TILE.fullmatch(path.name):
                path.unlink()
        folder.rmdir()


def tiles_of(path: Path) -> Path:
    """The folder of the tiles of a checkpoint."""
    return path.with_suffix(".d")


def _block(content: memoryview) -> bytes:
    """The user block of a file with this content."""
    text = f"{SCHEMA}\nsha256 {hashlib.sha256(content).hexdigest()}\nbytes {len(content)}\n"
    return text.encode().ljust(_BLOCK, b"\0")


def _told(block: bytes) -> str:
    """The SHA-256 in a user block, empty where there is none."""
    words = block.rstrip(b"\0").decode(errors="replace").split()
    return words[words.index("sha256") + 1] if "sha256" in words[:-1] else ""


def _packed(stored: Checkpoint) -> memoryview:
    """The bytes of the file, without its user block."""
    stream = io.BytesIO()
    with h5py.File(stream, "w", userblock_size=_BLOCK) as file:
        for name, array in stored.arrays.items():
            file.create_dataset(name, data=array).attrs["units"] = _UNITS[name]
        file.attrs.update({**stored.attributes, "schema": SCHEMA, "step": stored.step})
        file.attrs["info"] = json.dumps(stored.info)
        file.attrs["account"] = json.dumps(stored.account)
        if stored.tiles:
            file.attrs["shapes"] = json.dumps(stored.shapes)
            table = [[f"{tile.path.parent.name}/{tile.path.name}", tile.box, tile.sha256] for tile in stored.tiles]
            file["tiles"] = json.dumps(table)  # too long for an attribute
    return stream.getbuffer()


def _unpacked(path: Path, content: bytes) -> Checkpoint:
    with inputs.opened(path, io.BytesIO(content)) as file:
        arrays = {name: file.numbers(name)[...] for name in file.names() if name != "tiles"}
        attributes = file.attributes()
        table = file.text("tiles") if "tiles" in file else "[]"
    try:
        step, info, account = int(attributes.pop("step")), *(json.loads(attributes.pop(name)) for name in ("info", "account"))
        shapes = {k: (tuple(shape), dtype) for k, (shape, dtype) in json.loads(attributes.pop("shapes", "{}")).items()}
        tiles = tuple(TileFile(path.parent / name, tuple(map(tuple, box)), told) for name, box, told in json.loads(table))
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = inputs.reason_of(error)
        raise DataError(f"checkpoint {path} is of another format ({reason}): use one that this version wrote") from None
    return Checkpoint(step, arrays, info, account, attributes, tiles, shapes)
