"""Layout of a trajectory file: names, dimensions, units, the shape of its chunks and how they are packed.

Fields are cut into chunks of one time and at most 128 x 128 cells of equal size, so that a map reads all of one time and the
history of a site reads a small part of each time.  A chunk went through the filters ``shuffle`` and ``gzip``, which every HDF5
library undoes; the checksum of its zlib stream tells damage.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from itertools import groupby, product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc_holstein.fields import cell_axes, site_dims, stored_shape
from hpc_holstein.storage.series import TIMINGS, Series, series_of

if TYPE_CHECKING:
    import h5py

SCHEMA = "hpc_holstein trajectory 1"

FIELDS = {"q": ("a", "lattice coordinate"), "velocity": ("a t_nn/hbar", "velocity"), "density": ("electrons/site", "n_i")}
"""Name -> unit and meaning of what is stored of every site."""

DEVIATION = "force_deviation"
_OF_COORDINATES = ("q", "velocity")  # the others are one number a site
OPTIONAL_FIELDS = {DEVIATION: ("t_nn/a", "standard deviation of the force over a committee")}
"""As :data:`FIELDS`, from the snapshot on at which the run first has them."""

FORMAT = ("v108", "v108")
"""Versions of HDF5: with checksums of its own and, unlike later ones, no mark that a killed writer leaves behind."""

Chunks = list[tuple[tuple[int, ...], bytes]]
"""First cell and packed content of each chunk of a field at one time."""

_TIME_UNIT = "hbar/t_nn"
_ROWS = 1024  # numbers in a chunk of a series
_EDGE = 128  # cells along an edge of a chunk, at most
_ZLIB_HEAD, _ZLIB_END = b"\x78\x01", b"\x03\x00"  # deflate with a window of 32 kB; an empty last block (RFC 1950, 1951)
_NOISE = 1.1


class Sites(NamedTuple):
    """Sites of the fields of a trajectory: cells along each axis, sites of a cell, components of a coordinate."""

    extent: tuple[int, ...]
    basis: int = 1
    components: int = 1
    square: bool = True  # cells are squares or cubes of edge a, so that the number of a cell is its place

    def dims(self, name: str) -> tuple[str, ...]:
        """Names of the axes of a field after the time."""
        return site_dims(len(self.extent), self.basis, self._components(name))

    def shape(self, name: str, cells: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Shape of a field of the lattice, or of some of its ``cells``."""
        return stored_shape(cells or self.extent, self.basis, self._components(name))

    def _components(self, name: str) -> int:
        return self.components if name in _OF_COORDINATES else 1


class StoredForm(NamedTuple):
    """Form of the stored fields: of what ``sites``, as what ``number``, packed at which ``level``."""

    sites: Sites
    number: np.dtype[Any]
    level: int


def timing(name: str) -> str:
    """In a group of their own: they differ from run to run."""
    return f"timing/{name}_seconds"


def chunk_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a chunk of a field: equal parts of at most 128 along each axis."""
    return tuple(-(-n // -(-n // _EDGE)) for n in shape)


def write_layout(
    file: h5py.File,
    sites: Sites,
    fields: Mapping[str, h5py.Dataset],
    snapshots: Mapping[str, NDArray[Any]],
    rows: Mapping[str, NDArray[Any]],
    own: Mapping[str, Series],
) -> None:
    """All scalars, the scales, and units and meanings, of the ``fields`` as well.

    ``snapshots`` and ``rows``: numbers by their names, those of a series that is absent are NaN; ``own`` series of the run.
    """
    for name, numbers in (("time", snapshots), ("observables_time", rows)):
        _scale(file, name, numbers[name], _TIME_UNIT, "time", growing=True)
    for name, cells in zip(cell_axes(len(sites.extent)), sites.extent, strict=True):
        unit, meaning = ("a", f"{name} of the site") if sites.square else ("1", f"number of the cell along {name}")
        _scale(file, name, np.arange(cells, dtype=np.float64), unit, meaning)
    for name, number in (("site", sites.basis), ("component", sites.components)):
        if number > 1:
            _scale(file, name, np.arange(number, dtype=np.float64), "1", f"number of the {name}")
    for name, dataset in fields.items():
        _describe(file, dataset, ("time", *sites.dims(name)), *{**FIELDS, **OPTIONAL_FIELDS}[name])
    _scalar(file, "chemical_potential", "time", snapshots, "t_nn", "chemical potential")
    _scalar(file, "step", "time", snapshots, "1", "number of the time step")
    for name, series in series_of(rows, own).items():
        _scalar(file, name, "observables_time", rows, *series)
    for name, meaning in TIMINGS.items():
        _scalar(file, timing(name), "observables_time", rows, "s", meaning)


def of_rows(file: Iterable[str], own: Mapping[str, Series]) -> list[str]:
    """Names of all that has one entry a row of observables, of those of the ``own`` series of the run that are there."""
    return ["observables_time", *series_of(file, own), *map(timing, TIMINGS)]


def new_field(
    file: h5py.File, name: str, shape: tuple[int, ...], number: np.dtype[Any], level: int = 0, times: int = 0
) -> h5py.Dataset:
    """A field of ``shape`` that grows with the time; ``level`` 0: not packed, 1 (fast) to 9 (small)."""
    packing = {"shuffle": True, "compression": "gzip", "compression_opts": level}
    chunk = (1, *chunk_of(shape))
    return file.create_dataset(
        name, (times, *shape), number, maxshape=(None, *shape), chunks=chunk, fillvalue=np.nan, **packing
    )


def packed_field(values: NDArray[Any], number: np.dtype[Any], level: int) -> Chunks:
    """The chunks of a field at one time, packed.

    This is not left to the HDF5 library, which would hold all other threads of the process meanwhile.
    """
    shape, chunks = chunk_of(values.shape), []
    for start in product(*(range(0, n, c) for n, c in zip(values.shape, shape, strict=True))):
        part = values[tuple(slice(low, low + c) for low, c in zip(start, shape, strict=True))]
        block = np.zeros(shape, number)  # at the upper edges a part of it is outside
        block[tuple(map(slice, part.shape))] = part
        chunks.append((start, _packed(block, level)))
    return chunks


def put_chunks(dataset: h5py.Dataset, index: int, chunks: Chunks) -> None:
    """Set ``dataset[index]`` from :func:`packed_field`."""
    for start, content in chunks:
        dataset.id.write_direct_chunk((index, *start), content)


def copy_chunks(source: h5py.Dataset, index: int, target: h5py.Dataset, to: int) -> bool:
    """Set ``target[to] = source[index]`` without unpacking; False, and nothing is done, where they are packed differently."""
    packing = ("chunks", "dtype", "compression", "shuffle", "fletcher32")
    if any(getattr(source, name) != getattr(target, name) for name in packing):
        return False
    for start in product(*(range(0, n, c) for n, c in zip(source.shape[1:], source.chunks[1:], strict=True))):
        if source.id.get_chunk_info_by_coord((index, *start)).byte_offset is not None:
            target.id.write_direct_chunk((to, *start), source.id.read_direct_chunk((index, *start))[1])
    return True


def _packed(block: NDArray[Any], level: int) -> bytes:
    """Bytes that the filters shuffle and gzip leave: the first bytes of all numbers, then the second ones, ...

    Those that are noise, as the last digits are, go into the zlib stream as they are, which takes a third of the time and no
    more space.
    """
    planes = np.ascontiguousarray(block.reshape(-1).view(np.uint8).reshape(block.size, block.itemsize).T)
    parts, first = [_ZLIB_HEAD], 0
    for noise, alike in groupby(map(_is_noise, planes) if level else [True] * len(planes)):
        last = first + len(list(alike))
        packer = zlib.compressobj(0 if noise else level, zlib.DEFLATED, -zlib.MAX_WBITS)
        parts += [packer.compress(planes[first:last].data), packer.flush(zlib.Z_FULL_FLUSH)]
        first = last
    return b"".join([*parts, _ZLIB_END, zlib.adler32(planes.data).to_bytes(4, "big")])


def _is_noise(plane: NDArray[np.uint8]) -> bool:
    """True if all values are about as frequent: the sum of the squares of their counts is that of random bytes."""
    counts = np.bincount(plane, minlength=256)
    return bool(counts @ counts < len(plane) + _NOISE * len(plane) ** 2 / 256)


def _scale(file: h5py.File, name: str, values: NDArray[Any], unit: str, meaning: str, growing: bool = False) -> None:
    chunk = (_ROWS,) if growing else None
    dataset = file.create_dataset(name, data=values, maxshape=(None,) if growing else None, chunks=chunk, fletcher32=growing)
    dataset.make_scale(name)
    dataset.attrs.update(units=unit, long_name=meaning)


def _scalar(file: h5py.File, name: str, dim: str, numbers: Mapping[str, NDArray[Any]], unit: str, meaning: str) -> None:
    """A column of ``numbers``, as long as its ``dim``; NaN, which is the fill value, takes no space."""
    values = numbers.get(name, np.full(len(numbers[dim]), np.nan))
    fill = 0 if values.dtype.kind == "i" else np.nan
    dataset = file.create_dataset(
        name, values.shape, values.dtype, maxshape=(None,), chunks=(_ROWS,), fillvalue=fill, fletcher32=True
    )
    if not np.isnan(values).all():
        dataset[...] = values
    _describe(file, dataset, (dim,), unit, meaning)


def _describe(file: h5py.File, dataset: h5py.Dataset, dims: tuple[str, ...], unit: str, meaning: str) -> None:
    for axis, dim in enumerate(dims):
        dataset.dims[axis].attach_scale(file[dim])
    dataset.attrs.update(units=unit, long_name=meaning)
