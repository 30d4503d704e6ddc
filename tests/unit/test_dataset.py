"""The snapshot schema: round trips, refusals, and labelling that changes nothing else."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from hpc_holstein.errors import DataError
from hpc_holstein.fields import SiteAxes
from hpc_holstein.lattice import honeycomb
from hpc_holstein.training import dataset
from hpc_holstein.training.dataset import Snapshots


def labelled(dtype=np.float64, count=4):
    rng = np.random.default_rng(0)
    q, force, density = (rng.normal(size=(count, 6, 8)).astype(dtype) for _ in range(3))
    return Snapshots.of(
        q,
        quench=np.arange(count) % 3 - 1,
        step=np.arange(count) * 20,
        force=force,
        density=density,
        chemical_potential=rng.normal(size=count),
        attributes={"kT": 0.1, "lattice": "square", "periodic": [True, True]},
        label_attributes={"provider": "exact", "kT": 0.1},
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip_keeps_arrays_types_and_attributes(tmp_path, dtype):
    made = labelled(dtype)
    dataset.write(tmp_path / "new" / "a.h5", made)
    back = dataset.read(tmp_path / "new" / "a.h5", require_labels=True)
    for name in ("q", "quench", "step", *dataset.LABELS):
        assert getattr(back, name).dtype == getattr(made, name).dtype
        np.testing.assert_array_equal(getattr(back, name), getattr(made, name))
    assert back.data_hash == made.data_hash
    assert back.label_attributes == made.label_attributes
    assert back.attributes["kT"] == 0.1
    assert back.attributes["units"] == dataset.UNITS
    assert back.attributes["extent"] == [6, 8]
    assert back.attributes["index_order"] == "q[snapshot, y, x]"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.h5"]


def test_dimensions_and_units_are_written(tmp_path):
    dataset.write(tmp_path / "a.h5", labelled())
    with h5py.File(tmp_path / "a.h5") as file:
        assert [d.label for d in file["force"].dims] == ["snapshot", "y", "x"]
        assert file["force"].attrs["units"] == "t_nn/a"


def test_foreign_file_with_q_alone_gets_defaults(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["q"] = np.zeros((2, 3, 5), dtype=">f4")
    read = dataset.read(tmp_path / "a.h5")
    assert read.extent == (3, 5)
    assert read.quench.tolist() == [-1, -1]
    assert read.step.tolist() == [0, 0]
    assert not read.labelled
    assert read.fields().shape == (2, 3, 5, 1, 1)


def test_several_components_come_last(tmp_path):
    dataset.write(tmp_path / "a.h5", Snapshots.of(np.zeros((2, 3, 5, 2))))
    assert dataset.read(tmp_path / "a.h5").fields().shape == (2, 3, 5, 1, 2)


def test_selection_by_quench_and_hash():
    made = labelled()
    assert made.of_quench(-1).step.tolist() == [0, 60]
    assert made.of_quench(0, 1).quench.tolist() == [0, 1]
    assert made.select([2, 0]).chemical_potential.tolist() == made.chemical_potential[[2, 0]].tolist()
    changed = made.q.copy()
    changed[1, 2, 3] += 1e-15
    assert Snapshots.of(changed).data_hash != Snapshots.of(made.q).data_hash != made.data_hash


def broken(kind):
    q = np.zeros((2, 4, 4))
    arrays = {"q": q}
    if kind == "two-dimensional":
        arrays["q"] = q[0]
    elif kind == "scalar":
        arrays["q"] = np.float64(1.0)
    elif kind == "integers":
        arrays["q"] = q.astype(int)
    elif kind == "empty":
        arrays["q"] = q[:0]
    elif kind == "no q":
        arrays = {"Q": q}
    elif kind == "nan":
        q[1, 2, 3] = np.nan
    elif kind == "infinity":
        q[0, 3, 1] = np.inf
    elif kind == "label of another shape":
        arrays["force"] = q[:, :2]
    elif kind == "quench of another length":
        arrays["quench"] = np.arange(3)
    elif kind == "fractional step":
        arrays["step"] = np.array([0.5, 1.5])
    elif kind == "extent":
        arrays["extent"] = None
    return arrays


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("two-dimensional", r"shape \[4, 4\].*\[snapshot, y, x\]"),
        ("scalar", r"shape \[\]"),
        ("integers", "int64: store float32 or float64"),
        ("empty", "none of them empty"),
        ("no q", r"no dataset q \(it holds Q\)"),
        ("nan", r"nan in snapshot 1 at site \(y, x\) = \(2, 3\)"),
        ("infinity", r"inf in snapshot 0 at site \(y, x\) = \(3, 1\)"),
        ("label of another shape", r"force.*needs \[2, 4, 4\]"),
        ("quench of another length", r"quench.*needs \[2\]"),
        ("fractional step", "store integers"),
        ("extent", "4x4 cells but its attribute extent"),
    ],
)
def test_bad_contents_are_refused_in_one_sentence(tmp_path, kind, words):
    arrays = broken(kind)
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        if arrays.pop("extent", 0) is None:
            file.attrs["extent"] = [5, 4]
        for name, array in arrays.items():
            file[name] = array
    with pytest.raises(DataError, match=words) as caught:
        dataset.read(tmp_path / "bad.h5")
    assert "bad.h5" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_folder_text_and_group_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        dataset.read(tmp_path / "none.h5")
    with pytest.raises(DataError, match="does not exist"):
        dataset.read(tmp_path)
    (tmp_path / "text.h5").write_text("q = 1")
    with pytest.raises(DataError, match="cannot be read as HDF5"):
        dataset.read(tmp_path / "text.h5")
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file["q"] = np.zeros((1, 2, 2))
        file.create_group("quench")
    with pytest.raises(DataError, match=r"quench of .* is a group"):
        dataset.read(tmp_path / "group.h5")


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file_is_refused(tmp_path, kept):
    path = tmp_path / "a.h5"
    dataset.write(path, labelled(count=200))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(DataError, match="truncated"):
        dataset.read(path)


def test_unlabelled_file_is_refused_where_labels_are_needed(tmp_path):
    dataset.write(tmp_path / "a.h5", Snapshots.of(np.zeros((1, 2, 2))))
    with pytest.raises(DataError, match=r"no force, density, chemical_potential.*hpc-holstein label"):
        dataset.read(tmp_path / "a.h5", require_labels=True)


def test_nothing_is_overwritten_and_a_failed_write_leaves_nothing(tmp_path):
    path = tmp_path / "a.h5"
    path.write_text("precious")
    with pytest.raises(DataError, match="exists already"):
        dataset.write(path, labelled())
    assert path.read_text() == "precious"
    with pytest.raises(TypeError):
        dataset.write(tmp_path / "b.h5", Snapshots.of(np.zeros((1, 2, 2)), attributes={"bad": object()}))
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


def foreign_file(path):
    """A file with things that this package knows nothing of."""
    with h5py.File(path, "w") as file:
        rng = np.random.default_rng(1)
        file.create_dataset("q", data=rng.normal(size=(3, 6, 8)).astype(np.float32), chunks=(1, 6, 8), compression="gzip")
        file["q"].attrs["note"] = "theirs"
        file.attrs["author"] = np.bytes_(b"someone else")
        file.create_group("setup/deep").attrs["x"] = np.arange(3)
        file["setup/table"] = np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])
        file["alias"] = h5py.SoftLink("/q")


def contents(path):
    found = {}
    with h5py.File(path) as file:
        found["/"] = {k: np.asarray(v).tobytes() for k, v in file.attrs.items()}

        def visit(name, item):
            data = (item[()].tobytes(), item.dtype, item.chunks, item.compression) if isinstance(item, h5py.Dataset) else None
            found[name] = (data, {k: np.asarray(v).tobytes() for k, v in item.attrs.items()})

        file.visititems(visit)
        found["link"] = file.get("alias", getlink=True).path
    return found


def test_labelling_adds_three_datasets_and_changes_nothing_else(tmp_path):
    foreign_file(tmp_path / "a.h5")
    states = dataset.read(tmp_path / "a.h5")
    rng = np.random.default_rng(2)
    labels = {"force": rng.normal(size=(3, 6, 8)), "density": rng.random((3, 6, 8)), "chemical_potential": rng.random(3)}
    made = Snapshots.of(states.q, label_attributes={"provider": "exact"}, **labels)
    dataset.write_labelled(tmp_path / "a.h5", tmp_path / "b.h5", made)
    before, after = contents(tmp_path / "a.h5"), contents(tmp_path / "b.h5")
    assert set(after) - set(before) == set(dataset.LABELS)
    assert {name: after[name] for name in before} == before
    back = dataset.read(tmp_path / "b.h5", require_labels=True)
    np.testing.assert_array_equal(back.force, labels["force"])
    assert back.label_attributes == {"provider": "exact"}
    with pytest.raises(DataError, match="holds force, density, chemical_potential already"):
        dataset.write_labelled(tmp_path / "b.h5", tmp_path / "c.h5", made)
    with pytest.raises(DataError, match="exists already"):
        dataset.write_labelled(tmp_path / "a.h5", tmp_path / "b.h5", made)


def test_output_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        dataset.write(tmp_path / "file" / "a.h5", labelled())


def test_axes_are_named_and_a_file_of_another_lattice_is_refused(tmp_path):
    lattice = honeycomb.build((3, 4))
    made = Snapshots.on(lattice, np.random.default_rng(0).normal(size=(2, 3, 4, 2, 2)))
    dataset.write(tmp_path / "a.h5", made)
    with h5py.File(tmp_path / "a.h5") as file:
        assert [axis.label for axis in file["q"].dims] == ["snapshot", "y", "x", "site", "component"]
        assert file.attrs["index_order"] == "q[snapshot, y, x, site, component]"
    back = dataset.read(tmp_path / "a.h5")
    assert (back.extent, back.components, back.fields().shape) == ((3, 4), 2, (2, 3, 4, 2, 2))
    assert back.axes == SiteAxes.of(lattice)
    with pytest.raises(DataError, match=r"has the axes snapshot, y, x, site, component \(2 site\(s\) a cell\)"):
        dataset.read(tmp_path / "a.h5", axes=SiteAxes(2, 1))
    with h5py.File(tmp_path / "bare.h5", "w") as file:
        file["q"] = np.zeros((2, 3, 4, 2))
    assert dataset.read(tmp_path / "bare.h5", axes=SiteAxes(2, 2)).components == 1
    assert dataset.read(tmp_path / "bare.h5", axes=SiteAxes(3, 1)).extent == (3, 4, 2)
    assert dataset.read(tmp_path / "bare.h5").components == 2
    with pytest.raises(DataError, match=r"shape \[2, 3, 4, 2\]: give \[snapshot, y, x, site\] with 3 sites a cell"):
        dataset.read(tmp_path / "bare.h5", axes=SiteAxes(2, 3))
