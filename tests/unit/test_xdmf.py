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


def numbers_of(text: str) -> list[float]:
    return [float(word) for word in text.split()]


def numbers(item: ET.Element) -> list[float]:
    assert item.text is not None
    return numbers_of(item.text)


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
    assert part.size == np.prod(numbers_of(slab.attrib["Dimensions"]))
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


OTHERS = {
    "triangular": ("[6,9]", {"phi_real", "phi_imag", "q", "velocity", "density"}),
    "honeycomb": ("[4,6]", {"phi", "q", "velocity", "density"}),
    "chain": ("[12]", {"phi", "q", "velocity", "density"}),
    "cubic": ("[2,4,6]", {"phi", "q", "velocity", "density"}),
    "kagome": ("[3,4]", {"q", "velocity", "density"}),
}


def run_on(kind: str, force: str = "atomic") -> None:
    periodic = [True] * OTHERS[kind][0].count(",") + [True]
    given = ["run", "--preset", "paper-2601.04104", "--force", force, "--steps", "2", "--output", "r", "--k", "2"]
    given += ["--set", f"lattice.kind={kind}", "--set", f"lattice.extent={OTHERS[kind][0]}"]
    assert main([*given, "--set", f"lattice.periodic={str(periodic).lower()}"]) == 0
    assert main(["analyze", "r", "--xdmf"]) == 0


@pytest.mark.parametrize("kind", OTHERS)
def test_places_and_fields_of_every_lattice(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_on(kind)
    grid = ET.parse("r/trajectory.xdmf").getroot().findall("Domain/Grid/Grid")[-1]
    found = {item.attrib["Name"]: resolved(item.find("DataItem"), tmp_path / "r") for item in grid.findall("Attribute")}
    assert set(found) == OTHERS[kind][1]
    with h5py.File("r/trajectory.h5") as file:
        assert np.array_equal(found["q"].ravel(), file["q"][-1].ravel())
        sites = file["q"][-1].size
    with h5py.File("r/trajectory.xdmf.h5") as file:
        points = file["points"][...]
    assert points.shape == (sites, 3)
    apart = np.linalg.norm(points[None] - points[:, None], axis=-1) + 9 * np.eye(sites)
    assert apart.min() == pytest.approx(1)
    topology = grid.find("Topology")
    assert topology is not None
    kinds = {"triangular": "3DSMesh", "honeycomb": "Polyvertex", "kagome": "Polyvertex"}
    assert topology.attrib["TopologyType"] == kinds.get(kind, "3DCoRectMesh")


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHERS)
def test_vtk_reads_it(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ParaView does."""
    vtk = pytest.importorskip("vtk", reason="vtk is not installed")
    from vtk.util.numpy_support import vtk_to_numpy

    monkeypatch.chdir(tmp_path)
    run_on(kind)
    reader = vtk.vtkXdmfReader()
    reader.SetFileName("r/trajectory.xdmf")
    reader.UpdateInformation()
    with h5py.File("r/trajectory.h5") as file:
        reader.UpdateTimeStep(file["time"][-1])
        data = reader.GetOutputDataObject(0).GetPointData()
        assert {data.GetArrayName(index) for index in range(data.GetNumberOfArrays())} == OTHERS[kind][1]
        for name in ("q", "density"):
            assert np.array_equal(vtk_to_numpy(data.GetArray(name)), file[name][-1].ravel())
