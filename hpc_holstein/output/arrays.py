"""Named arrays with dimensions, coordinates and units in one HDF5 file, as ``xarray.open_dataset(path)`` finds them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from hpc_holstein.files import replaced


class Variable(NamedTuple):
    """An array; one along a single dimension of its own name is the coordinate of that."""

    dims: tuple[str, ...]
    values: NDArray[Any]
    unit: str
    meaning: str


def write_arrays(path: Path, variables: Mapping[str, Variable]) -> None:
    """Write, whole or not at all.  Complex numbers are stored as two arrays, the second one with ``_imag`` after its name."""
    parts: dict[str, Variable] = {}
    for name, variable in variables.items():
        values = variable.values
        parts[name] = variable._replace(values=values.real)
        if np.iscomplexobj(values):
            parts[f"{name}_imag"] = variable._replace(values=values.imag)
    with replaced(path) as temporary, h5py.File(temporary, "w") as file:
        for name, variable in parts.items():
            dataset = file.create_dataset(name, data=variable.values, compression="gzip" if variable.values.ndim > 1 else None)
            dataset.attrs.update(units=variable.unit, long_name=variable.meaning)
            if variable.dims == (name,):
                dataset.make_scale(name)
        for variable in parts.values():
            for dim, size in zip(variable.dims, variable.values.shape, strict=True):
                if dim not in file:
                    file.create_dataset(dim, data=np.arange(size)).make_scale(dim)
        for name, variable in parts.items():
            for axis, dim in enumerate(variable.dims if variable.dims != (name,) else ()):
                file[name].dims[axis].attach_scale(file[dim])
