"""Types, shapes and axes of the datasets of a snapshot file, checked before anything is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_holstein import inputs
from hpc_holstein.errors import DataError
from hpc_holstein.fields import CELL_AXES, SiteAxes

MORE = ("more_chemical_potential", "more_density", "more_force")
"""What is known at further chemical potentials."""


def axes_of(
    file: inputs.InputFile, stored: Mapping[str, inputs.Numbers], attributes: Mapping[str, Any], wanted: SiteAxes | None
) -> SiteAxes:
    """The axes of the sites as the labels of ``q`` say, else those that are wanted, else what extent and density tell."""
    labels, q, extent = file.attributes("q").get("DIMENSION_LABELS"), stored["q"], attributes.get("extent")
    if isinstance(labels, list) and labels[:1] == ["snapshot"] and len(labels) == q.ndim:
        dimension = len([name for name in labels if name in CELL_AXES])
        found = SiteAxes(dimension, q.shape[1 + dimension] if "site" in labels else 1)
        if wanted is not None and found != wanted:
            told, kind = ", ".join(labels), attributes.get("lattice")
            raise DataError(
                f"q of {file.path} has the axes {told} ({found.basis} site(s) a cell) and the lattice has "
                f"{', '.join(wanted.names())} ({wanted.basis}): set lattice.kind to {kind or 'that of these states'}"
            )
        return found
    if wanted is not None:
        return wanted
    dimension = len(extent) if isinstance(extent, list) else 2
    density = stored["density"].shape[1 + dimension :] if "density" in stored else ()
    return SiteAxes(dimension, math.prod(density))


def require_layout(
    arrays: Mapping[str, NDArray[Any] | inputs.Numbers], attributes: Mapping[str, Any], axes: SiteAxes, source: str
) -> None:
    """Types and shapes, of arrays or of datasets that are not read yet."""
    q = arrays["q"]
    if q.dtype not in (np.float32, np.float64):
        raise DataError(f"q of {source} has type {q.dtype}: store float32 or float64")
    sites, cells = q.shape[1 : 1 + axes.number], list(q.shape[1 : 1 + axes.dimension])
    if q.ndim - 1 - axes.number not in (0, 1) or 0 in q.shape or (axes.basis > 1 and sites[-1] != axes.basis):
        names = ", ".join(("snapshot", *axes.names()))
        several = f" with {axes.basis} sites a cell" if axes.basis > 1 else ""
        raise DataError(f"q of {source} has shape {list(q.shape)}: give [{names}]{several}, none of them empty")
    stated = attributes.get("extent", cells)
    if stated != cells:
        shown = "x".join(map(str, cells))
        raise DataError(f"q of {source} has {shown} cells but its attribute extent says {stated}: correct it")
    further = arrays["more_density"].shape[1:2] if "more_density" in arrays else ()
    expected = {"force": q.shape, "density": (q.shape[0], *sites)}
    expected |= {"more_chemical_potential": (q.shape[0], *further), "more_density": (q.shape[0], *further, *sites)}
    expected["more_force"] = (q.shape[0], *further, *q.shape[1:])
    for name, array in arrays.items():
        shape = expected.get(name, q.shape if name == "q" else q.shape[:1])
        if array.shape != shape:
            raise DataError(f"{name} of {source} has shape {list(array.shape)}: q with {list(q.shape)} needs {list(shape)}")
        whole = name in ("quench", "step")
        if array.dtype.kind not in ("iu" if whole else "f") or array.dtype.itemsize > 8:
            raise DataError(f"{name} of {source} has type {array.dtype}: store {'integers' if whole else 'float32 or float64'}")


def require_finite(name: str, array: NDArray[np.floating] | None, axes: SiteAxes, source: str) -> None:
    if array is None:
        return
    finite = np.isfinite(array)
    if not finite.all():
        first = np.unravel_index(int(np.argmin(finite)), array.shape)
        place = tuple(map(int, first[2 if name in MORE else 1 :][: axes.number]))
        site = "" if name == MORE[0] else f" at site ({', '.join(axes.names())}) = {place}"
        raise DataError(
            f"{name} of {source} is {array[first]} in snapshot {int(first[0])}{site}, "
            f"one of {int((~finite).sum())} values that are not finite: remove or repair these snapshots"
        )
