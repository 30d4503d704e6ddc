"""HDF5 files that are given to the package, read in one way: nothing in them is trusted before it was looked at.

HDF5 lets a dataset lie elsewhere (links into other files, virtual datasets, raw storage in any file of the machine), be of any
type, declare any size in a few bytes, or have parts that nobody wrote, which read as zeros.  None of that is a set of states.
:class:`InputFile` finds it out from the description of a dataset alone and refuses it in one sentence; only then is it read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from hpc_holstein.errors import DataError
from hpc_holstein.memory import free_bytes, shown_bytes

_COPIES = 2.0  # of what is read that are in memory at one time
_LARGEST_ATTRIBUTE = 2**26  # bytes
_ALWAYS_THERE = 2**20  # bytes, for which nobody looks
_LINKS = 16  # that are followed from a name to its dataset
_NUMBERS = "fiu"
_SINGLE = 2.0**-24  # half the distance of two neighbouring numbers in single precision, relative to them
_DOUBLE, _SMALL = 1e-9, 1e-12  # relative and absolute difference of two numbers that count as equal


class UnreadableError(DataError):
    """A file that HDF5 cannot read; ``reason``: why, in its words."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} cannot be read as HDF5 ({reason}): the file is truncated, damaged or of another format")
        self.reason = reason


class Single(float):
    """A number that a file holds in single precision, as its shortest decimal: that of ``float32(0.1)`` is 0.1."""


def same_number(a: float, b: float) -> bool:
    """True if two numbers are equal but for round-off, at the lower of their precisions."""
    return math.isclose(a, b, rel_tol=_SINGLE if Single in (type(a), type(b)) else _DOUBLE, abs_tol=_SMALL)


class Source(NamedTuple):
    """A part of a virtual dataset: the cells from ``low`` to ``high``, both included, are in a dataset of a file."""

    file: str
    dataset: str
    low: tuple[int, ...]
    high: tuple[int, ...]


class InputFile:
    """The datasets and attributes of a file; made by :func:`opened`, and used while that is open.

    Every method raises :class:`~hpc_holstein.errors.DataError`, in one sentence that names file, dataset, value and remedy.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path, self._file = path, file

    def names(self) -> list[str]:
        """Names at the top of the file."""
        with self._in_words():
            return [_printable(name) for name in self._file]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        """True if there is anything of that name, be it of use or not."""
        if not isinstance(name, str):
            return False
        with self._in_words(name):
            group = name.rpartition("/")[0]
            return (not group or group in self) and self._file.get(name, getlink=True, default=None) is not None

    def numbers(self, name: str, written: bool = True) -> Numbers:
        """The dataset ``name``, which holds plain numbers in this file; nothing of it is read yet.

        ``written``: all of it, so that none is a fill value.
        """
        dataset = self._dataset(name)
        with self._in_words(name):
            if dataset.is_virtual:
                raise self._refusal(
                    name, "is a virtual dataset, whose numbers are in other files", "store the numbers themselves"
                )
            if dataset.external:
                raise self._refusal(name, "lies in another file (external storage)", "store the numbers in the file itself")
            kind = _kind(dataset)
            if kind is not None:
                raise self._refusal(name, f"holds {kind}", "store plain numbers")
            if written:
                self._require_written(name, dataset)
        return Numbers(self, name, dataset)

    def text(self, name: str) -> str:
        """The text of a dataset of one string."""
        dataset = self._dataset(name)
        with self._in_words(name):
            if dataset.is_virtual or dataset.external or dataset.shape != () or h5py.check_string_dtype(dataset.dtype) is None:
                raise self._refusal(name, "is not a text", "use a file that hpc-holstein wrote")
            self._require_memory(name, dataset.id.get_storage_size())
            return str(dataset.asstr()[()])

    def sources(self, name: str) -> list[Source] | None:
        """Paths of the parts of a virtual dataset, of which nothing is read; None for a dataset of another kind."""
        dataset = self._dataset(name)
        with self._in_words(name):
            if not dataset.is_virtual:
                return None
            found = ((one, *one.vspace.get_select_bounds()) for one in dataset.virtual_sources())
            return [Source(one.file_name, one.dset_name, low, high) for one, low, high in found]

    def layout(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and type of a dataset, virtual or not."""
        dataset = self._dataset(name)
        with self._in_words(name):
            return tuple(dataset.shape), dataset.dtype

    def attributes(self, name: str | None = None) -> dict[str, Any]:
        """Attributes of the file, or of a dataset, as plain Python values; of one that has no such value, a description."""
        holder = self._file if name is None else self._dataset(name)
        with self._in_words(name or "the attributes"):
            return {_printable(key): _attribute(holder, key) for key in holder.attrs}

    def _dataset(self, name: str) -> h5py.Dataset:
        """The dataset that a name leads to inside this file."""
        with self._in_words(name):
            found = self._followed(name)
            if not isinstance(found, h5py.Dataset):
                raise self._refusal(name, f"is a {type(found).__name__.lower()}", "store a dataset of that name")
            if found.shape is None:
                raise self._refusal(name, "is empty (it has no shape)", "store an array")
            return found

    def _followed(self, name: str) -> h5py.HLObject:
        """The object at a name, link by link: HDF5 itself would open whatever file a link tells."""
        found, steps, links = self._file, _steps(name), 0
        while steps:
            step, *steps = steps
            link = found.get(step, getlink=True, default=None) if isinstance(found, h5py.Group) else None
            if isinstance(link, h5py.ExternalLink):
                other = _printable(link.filename)
                raise self._refusal(name, f"is a link into another file ({other})", "copy it into this one")
            if link is None or links == _LINKS:
                kind = "is not there" if not links else "is a link to nothing" if link is None else "is a link in a circle"
                raise self._refusal(name, kind, "store the dataset itself")
            if isinstance(link, h5py.SoftLink):
                links += 1
                found = self._file if link.path.startswith("/") else found
                steps = _steps(link.path) + steps
            else:
                found = found[step]
        return found

    def _require_written(self, name: str, dataset: h5py.Dataset) -> None:
        """Refuse data that nobody wrote, for which HDF5 gives the fill value, zero as a rule."""
        if not dataset.size:
            return
        if dataset.chunks is None:
            there, all_of_it = int(dataset.id.get_storage_size() > 0), 1
        else:
            there = dataset.id.get_num_chunks()
            all_of_it = math.prod(-(-cells // chunk) for cells, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        if there < all_of_it:
            part = f"{there} of {all_of_it} chunks" if there else "none"
            size = "x".join(map(str, dataset.shape))
            raise self._refusal(name, f"declares {size} numbers and holds {part} of them", "write all of it, or copy it again")

    def _require_memory(self, name: str, count: float) -> None:
        needed = _COPIES * count
        if needed > _ALWAYS_THERE and needed > (there := free_bytes()):
            size = (
                f"declares {shown_bytes(count)}, which takes {shown_bytes(needed)} to read, and {shown_bytes(there)} are free"
            )
            raise self._refusal(name, size, "give fewer snapshots at a time, or use a machine with more memory")

    def _refusal(self, name: str, why: str, remedy: str) -> DataError:
        return DataError(f"{name} of {self.path} {why}: {remedy}")

    def _in_words(self, name: str = "") -> AbstractContextManager[None]:
        return damage_in_words(f"{name} of {self.path}" if name else str(self.path))


class Numbers:
    """A dataset of plain numbers; ``shape`` and ``dtype`` are known before any of it is read."""

    def __init__(self, file: InputFile, name: str, dataset: h5py.Dataset) -> None:
        self._file, self._name, self._dataset = file, name, dataset
        self.shape: tuple[int, ...] = tuple(dataset.shape)
        self.dtype: np.dtype[Any] = dataset.dtype.newbyteorder("=")
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """A part of it, in the byte order of this machine; DataError if the memory is too small for that."""
        chunk = math.prod(self._dataset.chunks or ())  # is unpacked whole, and may be larger than the dataset
        count = math.prod(self.shape[1:] if isinstance(index, int) else self.shape)
        self._file._require_memory(self._name, self.dtype.itemsize * max(count, chunk))
        with self._file._in_words(self._name):
            return np.asarray(self._dataset[index]).astype(self.dtype, copy=False)


@contextmanager
def opened(path: Path, stream: BinaryIO | RawIOBase | None = None) -> Iterator[InputFile]:
    """An HDF5 file to read; ``stream``: its bytes, if they are not those of ``path``, which names it in errors.

    Raises DataError for a file that is missing, truncated, damaged or of another format.
    """
    with damage_in_words(str(path)):
        file = h5py.File(path if stream is None else stream, "r")
    with file:
        yield InputFile(path, file)


@contextmanager
def damage_in_words(what: str) -> Iterator[None]:
    """One sentence for whatever h5py raises: OSError, KeyError, RuntimeError, TypeError and more, by the kind of damage."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise UnreadableError(what, reason_of(error)) from None


def reason_of(error: BaseException) -> str:
    """Text of an error, on one line."""
    return _printable(" ".join(str(error).split())) or type(error).__name__


def _steps(path: str) -> list[str]:
    return [step for step in path.split("/") if step not in ("", ".")]


def _kind(dataset: h5py.Dataset) -> str | None:
    """Content of a dataset that is not plain numbers, in words; None for numbers."""
    dtype = dataset.dtype
    if dtype.kind in _NUMBERS and h5py.check_enum_dtype(dtype) is None:
        return None
    if h5py.check_string_dtype(dtype) is not None or dtype.kind in "SU":
        return "text"
    if h5py.check_ref_dtype(dtype) is not None:
        return "references"
    if h5py.check_vlen_dtype(dtype) is not None:
        return "arrays of different lengths"
    names = {"b": "truth values", "c": "complex numbers", "V": "records" if dtype.names else "arrays or opaque bytes"}
    return names.get(dtype.kind, f"values of type {dtype}")


def _attribute(holder: h5py.HLObject, key: str) -> Any:
    """The value of an attribute."""
    try:
        handle = holder.attrs.get_id(key)
        if math.prod(handle.shape or ()) * handle.dtype.itemsize > _LARGEST_ATTRIBUTE:
            return f"<an attribute of type {handle.dtype} and shape {list(handle.shape)}>"
        value = holder.attrs[key]
    except Exception as error:  # as of damage_in_words: an attribute that nobody asks for does no harm
        return f"<an attribute that cannot be read: {reason_of(error)}>"
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return _printable(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if not isinstance(value, np.ndarray | np.generic):
        return f"<{type(value).__name__.lower()}>"
    if value.dtype.kind in "SO":
        return _listed(value.tolist())
    if value.dtype.kind == "f" and value.dtype.itemsize != 8:
        number = Single if value.dtype.itemsize < 8 else float
        return np.array([number(str(one)) for one in value.ravel()], dtype=object).reshape(value.shape).tolist()
    return value.tolist() if value.dtype.kind in "biuf" else f"<{value}>"


def _listed(values: Any) -> Any:
    return [_listed(one) for one in values] if isinstance(values, list) else _plain(values)


def _printable(text: str) -> str:
    """Without the marks of bytes that are no UTF-8, which cannot be printed."""
    return text.encode(errors="surrogateescape").decode(errors="replace")
