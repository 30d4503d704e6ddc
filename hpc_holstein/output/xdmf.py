"""``trajectory.xdmf`` beside a trajectory: what ParaView and VisIt open, a regular grid for each snapshot, by references to it.

Sites are the points of the grid, ``x`` and ``y`` in units of the lattice constant, one layer thick, since the readers of VTK
turn two-dimensional grids on their side; ``q``, ``velocity`` and ``density`` are hyperslabs of the datasets, so that nothing
is copied.  Format: XDMF 2, https://www.xdmf.org.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np

from hpc_holstein.files import replaced
from hpc_holstein.output.hdf5 import Trajectory

_FIELDS = ("q", "velocity", "density")


def write_xdmf(path: Path, trajectory: Trajectory) -> None:
    """All snapshots that ``trajectory`` holds now; what is in ``path`` is replaced, since it holds nothing of its own.

    ``path`` lies in the folder of the trajectory, or above it.  Raises DataError where it cannot be written.
    """
    source = trajectory.path.resolve().relative_to(path.parent.resolve()).as_posix()
    top = ET.Element("Xdmf", Version="2.0")
    series = ET.SubElement(ET.SubElement(top, "Domain"), "Grid", Name="run", GridType="Collection", CollectionType="Temporal")
    for index, time in enumerate(trajectory.times):
        _snapshot(series, trajectory, source, index, float(time))
    ET.indent(top)
    with replaced(path) as temporary:
        ET.ElementTree(top).write(temporary, encoding="utf-8", xml_declaration=True)


def _snapshot(series: ET.Element, trajectory: Trajectory, source: str, index: int, time: float) -> None:
    """One uniform grid."""
    layer = _shown((1, *trajectory.extent))
    grid = ET.SubElement(series, "Grid", Name=f"step {trajectory.steps[index]}", GridType="Uniform")
    ET.SubElement(grid, "Time", Value=repr(time))
    ET.SubElement(grid, "Topology", TopologyType="3DCoRectMesh", Dimensions=layer)
    geometry = ET.SubElement(grid, "Geometry", GeometryType="ORIGIN_DXDYDZ")
    for numbers in ("0 0 0", "1 1 1"):
        ET.SubElement(geometry, "DataItem", Format="XML", NumberType="Float", Dimensions="3").text = numbers
    for name in _FIELDS:
        attribute = ET.SubElement(grid, "Attribute", Name=name, AttributeType="Scalar", Center="Node")
        slab = ET.SubElement(attribute, "DataItem", ItemType="HyperSlab", Type="HyperSlab", Dimensions=layer)
        selection = ET.SubElement(slab, "DataItem", Format="XML", NumberType="Int", Dimensions="3 3")
        selection.text = f"{index} 0 0  1 1 1  {layer}"  # start, stride, count
        size = str(np.dtype(trajectory.number).itemsize)
        shape = _shown((len(trajectory), *trajectory.extent))
        whole = ET.SubElement(slab, "DataItem", Format="HDF", NumberType="Float", Precision=size, Dimensions=shape)
        whole.text = f"{source}:/{name}"


def _shown(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers))
