"""The one schema of snapshot files, HDF5, for states that this package makes and for states from anywhere else.

===========================  =========================  ============================================================
dataset                      shape                      meaning
===========================  =========================  ============================================================
``q``                        ``[snapshot, *cells]``     lattice coordinates, float32 or float64; required
``force``                    as ``q``                   total adiabatic force ``-dE/dq``, units of ``t_nn / a``
``density``                  ``[snapshot, *cells]``     electron density ``n_i``, electrons per site
``chemical_potential``       ``[snapshot]``             units of ``t_nn`` (NaN where a provider does not know it)
``more_chemical_potential``  ``[snapshot, M]``          further ones, at which the density is known too (optional; NaN: none)
``more_density``             ``[snapshot, M, *cells]``  electron density at these
``more_force``               ``[snapshot, M, ...]``     force at these, as ``q``, if the density does not tell it
``quench``                   ``[snapshot]``             integer id of the quench, -1 for a random snapshot (default)
``step``                     ``[snapshot]``             time step within the quench (default 0)
===========================  =========================  ============================================================

``cells`` are ``z, y, x``, the last ones of a lattice of fewer dimensions; behind them an axis ``site`` if a cell has several
sites, and of ``q`` and ``force`` an axis ``component`` if they have several numbers: of a vector the Cartesian ``(x, y, z)``,
x being along the last cell axis.  ``DIMENSION_LABELS`` of a dataset name its axes; a file without them is read as one of the
lattice that the command knows, else as one of two dimensions and one site a cell.

Attributes of the file say units, lattice, extent and how the states were made; attributes of ``force``, ``density`` and
``chemical_potential`` say who labelled.  Labelling thus adds these datasets and changes nothing else.  Both say the physics
that the numbers belong to (:class:`training.physics.Physics`), which must agree where both speak.  A file is of one setting:
its ``kT`` and ``hamiltonian.g`` are those of all its snapshots, and a training takes several files.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from hpc_holstein import inputs
from hpc_holstein.errors import DataError
from hpc_holstein.fields import SiteAxes, stored_shape
from hpc_holstein.files import new_file, replaced
from hpc_holstein.interfaces import Ensemble, Hamiltonian, Lattice
from hpc_holstein.training._layout import MORE, axes_of, require_finite, require_layout
from hpc_holstein.training.physics import Physics

SCHEMA = "hpc_holstein snapshots 1"
UNITS = "t_nn = hbar = k_B = a = 1"
LABELS = ("force", "density", "chemical_potential")
SETTING = {"kT": "kT", "g": "hamiltonian.g"}
"""What may differ between the files of one training (:func:`read_together`), and the attribute of a file that says it."""
_ARRAYS = ("q", "quench", "step", *LABELS, *MORE)
_UNIT_OF = {"q": "a", "force": "t_nn/a", "density": "electrons/site", "chemical_potential": "t_nn", "quench": "1", "step": "dt"}
_UNIT_OF |= {f"more_{name}": _UNIT_OF[name] for name in LABELS}
_LARGEST_ID = 2**62  # of a quench, which several files number anew
_OWN = frozenset({"units", "DIMENSION_LABELS"})  # attributes of a dataset that describe itself, not who labelled it


@dataclass(frozen=True)
class Snapshots:
    """States of one lattice and, where they are labelled, their forces; arrays as in the table of this module.

    ``attributes`` belong to the file, ``label_attributes`` to the labels.  ``kT`` and ``g`` ``[snapshot]`` are those of the
    files that the snapshots come from, where they come from several (:func:`read_together`); a file holds one setting, in its
    attributes.  Make one with :meth:`of`, which checks it.
    """

    q: NDArray[np.floating]
    quench: NDArray[np.int64]
    step: NDArray[np.int64]
    force: NDArray[np.floating] | None = None
    density: NDArray[np.floating] | None = None
    chemical_potential: NDArray[np.floating] | None = None
    more_chemical_potential: NDArray[np.floating] | None = None
    more_density: NDArray[np.floating] | None = None
    more_force: NDArray[np.floating] | None = None
    kT: NDArray[np.float64] | None = None
    g: NDArray[np.float64] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    label_attributes: Mapping[str, Any] = field(default_factory=dict)
    axes: SiteAxes = field(default_factory=SiteAxes)

    @classmethod
    def of(
        cls,
        q: NDArray[np.floating],
        quench: ArrayLike = -1,
        step: ArrayLike = 0,
        source: str = "the snapshots",
        **members: Any,
    ) -> Snapshots:
        """Checked snapshots from arrays; scalars of ``quench`` and ``step`` are repeated. ``source`` names them in errors.

        Errors: :class:`DataError` for a wrong type or shape, or for NaN and infinity, naming the snapshot and site.
        """
        ids = np.broadcast_to(np.asarray(quench), q.shape[:1]) if np.ndim(quench) == 0 else np.asarray(quench)
        steps = np.broadcast_to(np.asarray(step), q.shape[:1]) if np.ndim(step) == 0 else np.asarray(step)
        made = cls(q=q, quench=ids, step=steps, **members)
        _check(made, source)
        return replace(made, quench=ids.astype(np.int64), step=steps.astype(np.int64))

    @classmethod
    def on(
        cls, lattice: Lattice, q: NDArray[np.floating], quench: ArrayLike = -1, step: ArrayLike = 0, **members: Any
    ) -> Snapshots:
        """Snapshots of coordinates ``[snapshot, *cells, basis, components]`` of a lattice, or as they are stored."""
        shape = stored_shape(lattice.extent, len(lattice.basis), q.size // (len(q) * lattice.sites))
        return cls.of(q.reshape(len(q), *shape), quench, step, axes=SiteAxes.of(lattice), **members)

    def __len__(self) -> int:
        return len(self.q)

    @property
    def extent(self) -> tuple[int, ...]:
        """Cells along each axis."""
        return self.q.shape[1 : 1 + self.axes.dimension]

    @property
    def site_shape(self) -> tuple[int, ...]:
        """Shape of a field of one number a site."""
        return self.q.shape[1 : 1 + self.axes.number]

    @property
    def components(self) -> int:
        """Numbers of a coordinate."""
        return math.prod(self.q.shape[1 + self.axes.number :])

    @property
    def labelled(self) -> bool:
        """True if force, density and chemical potential are all there."""
        return all(getattr(self, name) is not None for name in LABELS)

    def fields(self, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """Coordinates in the layout of the force providers, ``[snapshot, *cells, basis, components]``."""
        return torch.as_tensor(self.q, dtype=dtype).reshape(len(self), *self.extent, self.axes.basis, self.components)

    def select(self, index: ArrayLike) -> Snapshots:
        """The snapshots of an index array or mask, in that order."""
        chosen = np.asarray(index)
        arrays = {name: getattr(self, name) for name in (*_ARRAYS, *SETTING)}
        return replace(self, **{name: a[chosen] for name, a in arrays.items() if a is not None})

    def of_quench(self, *ids: int) -> Snapshots:
        """The snapshots of some quenches (-1: the random ones), in the order of the file."""
        return self.select(np.isin(self.quench, ids))

    @property
    def data_hash(self) -> str:
        """sha256 over names, types, shapes and bytes of all arrays: what a model card records."""
        digest = hashlib.sha256()
        for name in (*_ARRAYS, *SETTING):
            array = getattr(self, name)
            if array is not None:
                digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def read(path: Path | str, require_labels: bool = False, axes: SiteAxes | None = None) -> Snapshots:
    """Read and check a snapshot file, of a lattice with these ``axes`` if they are known.

    Errors: :class:`DataError` where the file is missing, truncated, without ``q`` (or without labels, if required), of a
    wrong shape, or holds NaN or infinity.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"the snapshot file {path} does not exist: give the path of an HDF5 file with a dataset q")
    with inputs.opened(path) as file:
        if "q" not in file:
            names = ", ".join(file.names()) or "nothing"
            raise DataError(f"{path} has no dataset q (it holds {names}): store the coordinates as q[snapshot, *cells]")
        stored = {name: file.numbers(name) for name in _ARRAYS if name in file}
        attributes = file.attributes()
        labels = {name: _without_own(file.attributes(name)) for name in LABELS if name in file}
        axes = axes_of(file, stored, attributes, axes)
        require_layout(stored, attributes, axes, str(path))
        arrays = {name: numbers[...] for name, numbers in stored.items()}
    missing = [name for name in LABELS if name not in arrays]
    if require_labels and missing:
        raise DataError(f"{path} is not labelled (no {', '.join(missing)}): run `hpc-holstein label --input {path}` first")
    said = _agreed_labels(labels, path)
    return Snapshots.of(source=str(path), attributes=attributes, label_attributes=said, axes=axes, **arrays)


def _without_own(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Without those that describe the dataset itself."""
    return {name: value for name, value in attributes.items() if name not in _OWN}


def _agreed_labels(labels: Mapping[str, Mapping[str, Any]], path: Path) -> dict[str, Any]:
    """The attributes of all labels of a file; DataError where two of them belong to different systems."""
    for first, second in itertools.combinations(labels, 2):
        odd = Physics.stated(labels[first]).differences(Physics.stated(labels[second]))
        if odd:
            told = ", ".join(f"{key} is {one!r} on {first} and {other!r} on {second}" for key, (one, other) in odd.items())
            raise DataError(f"the labels of {path} belong to different systems: {told}; label its states anew")
    return {name: value for label in reversed(LABELS) for name, value in labels.get(label, {}).items()}


def read_together(paths: Sequence[Path | str], axes: SiteAxes | None = None) -> Snapshots:
    """The labelled snapshots of one or several files; quenches of several are numbered anew.

    With several, ``kT`` and ``g`` are those of the file of each snapshot, and ``attributes`` are what the files agree on.
    Errors: :class:`DataError` as of :func:`read`, where extents differ, or where a file of several does not say its ``kT`` or
    ``g``.
    """
    parts = [read(path, require_labels=True, axes=axes) for path in paths]
    if len(parts) == 1:
        return parts[0]
    for path, part in zip(paths, parts, strict=True):
        if (part.extent, part.axes) != (parts[0].extent, parts[0].axes):
            cells = ["x".join(map(str, extent)) for extent in (part.extent, parts[0].extent)]
            raise DataError(f"{path} has {cells[0]} cells and {paths[0]} has {cells[1]}: give files of one extent")
    names = [name for name in SETTING if name != "g" or not all(_has_no_g(part) for part in parts)]
    settings = {name: [_setting(part, name, path) for part, path in zip(parts, paths, strict=True)] for name in names}
    sizes = [len(part) for part in parts]
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS if name not in ("quench", *MORE)
    }
    arrays |= further_together(parts)
    quenches, first = [], 0
    for part in parts:
        quenches.append(np.where(part.quench == -1, -1, part.quench + first))
        first = max(first, int(quenches[-1].max()) + 1)
    return Snapshots.of(
        quench=np.concatenate(quenches),
        attributes=_agreed([part.attributes for part in parts]),
        label_attributes=_agreed([part.label_attributes for part in parts]),
        source="the files together",
        axes=parts[0].axes,
        **arrays,
        **{name: np.repeat(values, sizes) for name, values in settings.items()},
    )


def _agreed(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Attributes that all parts have alike."""
    return {key: value for key, value in parts[0].items() if all(part.get(key) == value for part in parts)}


def further_together(parts: Sequence[Snapshots]) -> dict[str, NDArray[np.floating]]:
    """The arrays of :data:`MORE`, as wide as in the widest part: NaN where a part has fewer; nothing where all have none."""
    numbers = [0 if part.more_density is None else part.more_density.shape[1] for part in parts]
    found = {}
    for name, beyond in zip(MORE, ((), parts[0].site_shape, parts[0].q.shape[1:]), strict=True):
        if all(getattr(part, name) is None for part in parts):
            continue
        rows = [np.full((len(part), max(numbers), *beyond), np.nan) for part in parts]
        for row, part, number in zip(rows, parts, numbers, strict=True):
            if number and getattr(part, name) is not None:
                row[:, :number] = getattr(part, name)
        found[name] = np.concatenate(rows)
    return found


def _has_no_g(snapshots: Snapshots) -> bool:
    """True if a file states the parameters of its Hamiltonian, and ``g`` is none of them."""
    stated = Physics.stated(snapshots.attributes).joined(Physics.stated(snapshots.label_attributes))
    return bool(stated.parameters) and "g" not in stated.parameters


def _setting(snapshots: Snapshots, name: str, path: Path | str) -> float:
    """``kT`` or ``g`` of a file."""
    said = Physics.stated(snapshots.attributes).joined(Physics.stated(snapshots.label_attributes)).values
    value = said.get(SETTING[name])
    if not isinstance(value, int | float):
        raise DataError(f"{path} does not say its {name}, which several files need: give it the attribute {SETTING[name]}")
    return float(value)


def write(path: Path | str, snapshots: Snapshots, overwrite: bool = False) -> None:
    """Write a snapshot file under a temporary name, then rename it: a file that exists is complete.

    Errors: :class:`DataError` if ``path`` exists already and is not to be replaced.
    """
    with (replaced if overwrite else new_file)(Path(path)) as temporary, h5py.File(temporary, "w") as file:
        order = f"q[{', '.join(_labels('q', snapshots))}]"
        attributes = {"schema": SCHEMA, "units": UNITS, "index_order": order, "extent": list(snapshots.extent)}
        for name, value in {**attributes, **snapshots.attributes}.items():
            file.attrs[name] = value
        for name in ("q", "quench", "step"):
            _add(file, name, snapshots, {})
        _add_labels(file, snapshots)


def write_labelled(source: Path | str, target: Path | str, labelled: Snapshots) -> None:
    """Copy the file ``source`` to ``target`` and add the labels of ``labelled``; nothing else is changed.

    Errors: :class:`DataError` where ``target`` exists, or ``source`` is labelled already (:func:`refuse_labelled`).
    """
    refuse_labelled(source)
    with new_file(Path(target)) as temporary:
        shutil.copyfile(source, temporary)  # bytes: chunks, compression, groups and attributes stay as they are
        try:
            with h5py.File(temporary, "r+") as file:
                _add_labels(file, labelled)
        except (RuntimeError, ValueError, KeyError) as error:  # of a file that can be read, and not added to
            raise inputs.UnreadableError(str(source), inputs.reason_of(error)) from error


def refuse_labelled(path: Path | str) -> None:
    """Raise :class:`DataError` where a file holds one of the datasets that labelling adds."""
    with inputs.opened(Path(path)) as file:
        present = [name for name in (*LABELS, *MORE) if name in file]
    if present:
        raise DataError(
            f"{path} holds {', '.join(present)} already, and labelling changes nothing that exists: give a file without them"
        )


def physics_attributes(lattice: Lattice, hamiltonian: Hamiltonian, ensemble: Ensemble) -> dict[str, Any]:
    """Attributes that say what the numbers of a file belong to: lattice, Hamiltonian, ensemble, units and versions."""
    return {
        "units": UNITS,
        "extent": list(lattice.extent),
        **Physics.of(lattice, hamiltonian, ensemble).values,
        **{f"version.{name}": version(name) for name in ("hpc_holstein", "torch", "numpy", "h5py")},
        "version.python": platform.python_version(),
    }


def _check(snapshots: Snapshots, source: str) -> None:
    arrays = {name: array for name in _ARRAYS if (array := getattr(snapshots, name)) is not None}
    require_layout(arrays, snapshots.attributes, snapshots.axes, source)
    for name, least in (("quench", -1), ("step", -_LARGEST_ID)):
        low, high = int(arrays[name].min()), int(arrays[name].max())
        if low < least or high > _LARGEST_ID:
            raise DataError(f"{name} of {source} has {low if low < least else high}: give integers from {least} to 2^62")
    for name in ("q", "force", "density", *MORE):
        array, mu = arrays.get(name), snapshots.more_chemical_potential
        if name in MORE and array is not None and mu is not None:  # NaN: there is none
            array = np.where(np.isnan(mu).reshape(*mu.shape, *(1,) * (array.ndim - 2)), 0.0, array)
        require_finite(name, array, snapshots.axes, source)


def _add(file: h5py.File, name: str, snapshots: Snapshots, attributes: Mapping[str, Any]) -> None:
    dataset = file.create_dataset(name, data=getattr(snapshots, name))
    dataset.attrs["units"] = _UNIT_OF[name]
    for axis, label in zip(range(dataset.ndim), _labels(name, snapshots), strict=False):
        dataset.dims[axis].label = label
    for key in attributes.keys() - _OWN:
        dataset.attrs[key] = attributes[key]


def _labels(name: str, snapshots: Snapshots) -> tuple[str, ...]:
    """Names of the axes of a dataset, of which it has the first ones."""
    several = name not in MORE[:2] and snapshots.q.ndim > 1 + snapshots.axes.number
    sites = snapshots.axes.names(components=several)
    return ("snapshot", "further", *sites) if name in MORE else ("snapshot", *sites)


def _add_labels(file: h5py.File, snapshots: Snapshots) -> None:
    for name in (*LABELS, *MORE):
        if getattr(snapshots, name) is not None:
            _add(file, name, snapshots, snapshots.label_attributes)
