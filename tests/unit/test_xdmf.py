"""The file for ParaView: each of its references, followed by hand, gives the numbers of the trajectory."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import h5py
import numpy as np
import pytest

from hpc_holstein.cli import main


@pytest.fixture(params=["gather", "per-rank"])
def quench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    given = ["run", "--preset", "paper-2601.04104", "--lattice", "8x6", "--force", "atomic", "--steps", "12", "--output", "r"]
    assert main([*given, "--set", f"output.writer={request.param}", "--set", "output.snapshot_every=5"]) == 0
    return tmp_path / "r"


def numbers(item: ET.Element) -> list[float]:
    assert item.text is not None
    return [float(word) for word in item.text.split()]


def resolved(slab: ET.Element | None, folder: Path) -> np.ndarray:
    """What a hyperslab refers to."""
    assert slab is not None
    selection, whole = slab.findall("DataItem")
    start, stride, count = np.array(numbers(selection), dtype=int).reshape(3, -1)
    assert (stride == 1).all()
    assert whole.text is not None
    name, _, dataset = whole.text.partition(":")
    with h5py.File(folder / name) as file:
        found = file[dataset]
        assert found.shape == tuple(map(int, whole.attrib["Dimensions"].split()))
        assert (found.dtype.kind, found.dtype.itemsize) == ("f", int(whole.attrib["Precision"]))
        part = found[tuple(slice(a, a + n) for a, n in zip(start, count, strict=True))]
    assert part.size == int(slab.attrib["Dimensions"])
    return part


def test_every_reference_gives_the_numbers_of_the_trajectory(quench: Path) -> None:
    assert main(["analyze", "r", "--xdmf"]) == 0
    assert not (quench / "analysis").exists()
    root = ET.parse(quench / "trajectory.xdmf").getroot()
    (series,) = root.findall("Domain/Grid")
    assert series.attrib["CollectionType"] == "Temporal"
    grids = series.findall("Grid")
    with h5py.File(quench / "trajectory.h5") as file:
        assert [float(grid.find("Time").attrib["Value"]) for grid in grids] == file["time"][...].tolist()  # type: ignore[union-attr]
        assert [grid.attrib["Name"] for grid in grids] == [f"step {step}" for step in (0, 5, 10, 12)]
        for index, grid in enumerate(grids):
            assert grid.find("Topology").attrib == {"TopologyType": "3DCoRectMesh", "Dimensions": "1 8 6"}  # type: ignore[union-attr]
            assert [numbers(item) for item in grid.findall("Geometry/DataItem")] == [[0, 0, 0], [1, 1, 1]]
            attributes = {item.attrib["Name"]: item for item in grid.findall("Attribute")}
            assert set(attributes) == {"q", "velocity", "density", "phi"}
            found = {name: resolved(item.find("DataItem"), quench).reshape(8, 6) for name, item in attributes.items()}
            for name in ("q", "velocity", "density"):
                assert np.array_equal(found[name], file[name][index])
            n = file["density"][index]
            around = sum(np.roll(n, step, axis) for step in (1, -1) for axis in (0, 1)) / 4
            assert np.allclose(found["phi"], (n - around) * (-1.0) ** np.add.outer(np.arange(8), np.arange(6)), atol=1e-14)


def test_it_is_made_anew_as_a_run_grows(quench: Path) -> None:
    (quench / "trajectory.xdmf").write_text("old")
    assert main(["analyze", "r/trajectory.h5", "--xdmf"]) == 0
    assert (quench / "trajectory.xdmf").read_text().count("<Time") == 4


@pytest.mark.slow
def test_vtk_reads_it(quench: Path) -> None:
    """As ParaView does."""
    vtk = pytest.importorskip("vtk", reason="vtk is not installed")
    from vtk.util.numpy_support import vtk_to_numpy

    assert main(["analyze", "r", "--xdmf"]) == 0
    reader = vtk.vtkXdmfReader()
    reader.SetFileName(str(quench / "trajectory.xdmf"))
    reader.UpdateInformation()
    with h5py.File(quench / "trajectory.h5") as file:
        for index in (1, 3):
            reader.UpdateTimeStep(file["time"][index])
            image = reader.GetOutputDataObject(0)
            assert image.GetDimensions() == (6, 8, 1)
            assert np.array_equal(vtk_to_numpy(image.GetPointData().GetArray("q")).reshape(8, 6), file["q"][index])
