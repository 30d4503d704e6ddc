"""``trajectory.xdmf`` beside a trajectory: what ParaView and VisIt open, a grid for each snapshot, by references to it.

Sites are the points of the grid, in units of the lattice constant, one layer thick in fewer dimensions.  ``q``, ``velocity``
and ``density`` are hyperslabs of the datasets of the trajectory, one for each component, so that nothing is copied; places and
local orders, which it does not hold, are in ``trajectory.xdmf.h5``.  Format: XDMF 2, https://www.xdmf.org.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import h5py
import numpy as np
from numpy.typing import NDArray

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.files import replaced
from hpc_holstein.interfaces import Hamiltonian, Lattice
from hpc_holstein.output.analysis import fields_of
from hpc_holstein.output.geometry import positions
from hpc_holstein.output.order import Order, local_order
from hpc_holstein.storage.trajectory import Trajectory

_FIELDS = ("q", "velocity", "density")


@dataclass(frozen=True)
class _Stored:
    """A field of all snapshots in a file: ``[snapshot, *shape]`` with ``component`` of so many along a last axis, if any."""

    name: str
    file: str
    dataset: str
    shape: tuple[int, ...]
    bytes: int
    component: int | None = None


def write_xdmf(path: Path, trajectory: Trajectory, hamiltonian: Hamiltonian, orders: Sequence[Order]) -> None:
    """All snapshots that ``trajectory`` holds now; what is in ``path`` is replaced, since it holds nothing of its own.

    ``path`` lies in the folder of the trajectory, or above it.  Raises DataError where it cannot be written.
    """
    source = trajectory.path.resolve().relative_to(path.parent.resolve()).as_posix()
    beside = path.with_name(f"{path.name}.h5")
    size, lattice = np.dtype(trajectory.number).itemsize, hamiltonian.lattice
    cells = (*lattice.extent, *((len(lattice.basis),) if len(lattice.basis) > 1 else ()))
    stored = [*_components("density", source, "density", cells, 1, size)]
    for name in _FIELDS[:2]:
        stored += _components(name, source, name, cells, hamiltonian.components, size)
    with replaced(beside) as temporary, h5py.File(temporary, "w") as file:
        file["points"] = np.pad(positions(lattice).reshape(lattice.sites, -1), ((0, 0), (0, 3 - len(lattice.extent))))
        for order in orders:
            stored += _write_order(file, beside.name, trajectory, hamiltonian, order)
    top = ET.Element("Xdmf", Version="2.0")
    series = ET.SubElement(ET.SubElement(top, "Domain"), "Grid", Name="run", GridType="Collection", CollectionType="Temporal")
    for index, time in enumerate(trajectory.times):
        grid = ET.SubElement(series, "Grid", Name=f"step {trajectory.steps[index]}", GridType="Uniform")
        ET.SubElement(grid, "Time", Value=repr(float(time)))
        _geometry(grid, lattice, beside.name)
        for one in stored:
            _attribute(grid, one, index, len(trajectory), _points(lattice))
    ET.indent(top)
    with replaced(path) as temporary:
        ET.ElementTree(top).write(temporary, encoding="utf-8", xml_declaration=True)


def _write_order(
    file: h5py.File, beside: str, trajectory: Trajectory, hamiltonian: Hamiltonian, order: Order
) -> Iterator[_Stored]:
    """Store ``phi`` of all snapshots: real numbers, or real and imaginary parts, of each component."""
    name, domain = order.scalar("phi"), CartesianDomain(hamiltonian.lattice, SerialTransport())
    shape = (hamiltonian.lattice.sites,)
    for index in range(len(trajectory)):
        snapshot = trajectory.snapshot(index)
        phi = local_order(order.values(*fields_of(snapshot, hamiltonian)), order, domain).flatten(0, -2).numpy()
        for part, values in _parts(name, phi).items():
            if part not in file:
                file.create_dataset(part, (len(trajectory), *shape), values.dtype)
            file[part][index] = values
    return (_Stored(part, beside, part, shape, 8) for part in _parts(name, phi))


def _parts(name: str, phi: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Real arrays by their names, of ``phi [sites, components]``."""
    names = [name] if phi.shape[1] == 1 else [f"{name}_{axis}" for axis in "xyz"[: phi.shape[1]]]
    if not np.iscomplexobj(phi):
        return dict(zip(names, phi.T, strict=True))
    parts = [(f"{one}_real", values.real) for one, values in zip(names, phi.T, strict=True)]
    return dict([*parts, *((f"{one}_imag", values.imag) for one, values in zip(names, phi.T, strict=True))])


def _components(name: str, file: str, dataset: str, cells: tuple[int, ...], components: int, size: int) -> list[_Stored]:
    if components == 1:
        return [_Stored(name, file, dataset, cells, size)]
    shape = (*cells, components)
    return [_Stored(f"{name}_{axis}", file, dataset, shape, size, c) for c, axis in enumerate("xyz"[:components])]


def _geometry(grid: ET.Element, lattice: Lattice, beside: str) -> None:
    """A regular grid where the lattice is one, a bent one of the same cells where it is skewed, else single points."""
    vectors, layers = np.asarray(lattice.vectors), _points(lattice)
    if len(lattice.basis) == 1 and np.array_equal(vectors, np.eye(len(vectors))[::-1]):
        ET.SubElement(grid, "Topology", TopologyType="3DCoRectMesh", Dimensions=layers)
        geometry = ET.SubElement(grid, "Geometry", GeometryType="ORIGIN_DXDYDZ")
        for numbers in ("0 0 0", "1 1 1"):
            ET.SubElement(geometry, "DataItem", Format="XML", NumberType="Float", Dimensions="3").text = numbers
        return
    if len(lattice.basis) == 1:
        ET.SubElement(grid, "Topology", TopologyType="3DSMesh", Dimensions=layers)
    else:
        ET.SubElement(grid, "Topology", TopologyType="Polyvertex", NumberOfElements=str(lattice.sites))
    geometry = ET.SubElement(grid, "Geometry", GeometryType="XYZ")
    _whole(geometry, f"{beside}:/points", (lattice.sites, 3), 8)


def _points(lattice: Lattice) -> str:
    """Dimensions of a field of the points: ``(z, y, x)`` of a grid, their number if there is none."""
    return _shown((*(1,) * (3 - len(lattice.extent)), *lattice.extent) if len(lattice.basis) == 1 else (lattice.sites,))


def _attribute(grid: ET.Element, stored: _Stored, index: int, snapshots: int, points: str) -> None:
    """A scalar of the points: one snapshot, and one component, of a stored field."""
    attribute = ET.SubElement(grid, "Attribute", Name=stored.name, AttributeType="Scalar", Center="Node")
    single = stored.component is not None
    count = (*stored.shape[:-1], 1) if single else stored.shape
    slab = ET.SubElement(attribute, "DataItem", ItemType="HyperSlab", Type="HyperSlab", Dimensions=points)
    axes = len(count) + 1
    start = (index, *(0 for _ in count[1:]), stored.component or 0)
    selection = ET.SubElement(slab, "DataItem", Format="XML", NumberType="Int", Dimensions=f"3 {axes}")
    selection.text = "  ".join(map(_shown, (start, (1,) * axes, (1, *count))))  # start, stride, count
    _whole(slab, f"{stored.file}:/{stored.dataset}", (snapshots, *stored.shape), stored.bytes)


def _whole(parent: ET.Element, place: str, shape: tuple[int, ...], size: int) -> None:
    item = ET.SubElement(parent, "DataItem", Format="HDF", NumberType="Float", Precision=str(size), Dimensions=_shown(shape))
    item.text = place


def _shown(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))
