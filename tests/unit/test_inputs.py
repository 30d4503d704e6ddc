"""HDF5 files of users: what is not plain numbers in the file itself is refused in one sentence, before it is read."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
import written

from hpc_holstein import inputs
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import DataError
from hpc_holstein.storage.trajectory import Snapshot, open_trajectory
from hpc_holstein.training import dataset

STATES = np.random.default_rng(0).normal(0, 2, (3, 8, 6))


def virtual(file: h5py.File, source: str) -> None:
    layout = h5py.VirtualLayout(STATES.shape, "f8")
    layout[...] = h5py.VirtualSource(source, "q", STATES.shape)
    file.create_virtual_dataset("q", layout, fillvalue=0)


def links(file: h5py.File, *targets: str) -> None:
    for name, target in zip(("q", *targets), targets, strict=False):
        file[name] = h5py.SoftLink(target)


def chunked(file: h5py.File, **options: object) -> h5py.Dataset:
    return file.create_dataset("q", shape=(3, 8, 6), dtype="f8", chunks=(1, 8, 6), **options)


def through_an_external_group(file: h5py.File) -> None:
    file["other"] = h5py.ExternalLink("not-copied.h5", "/")
    links(file, "/other/q")


def half_written(file: h5py.File) -> None:
    chunked(file)[:2] = STATES[:2]


REFUSED: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "dangling": (lambda f: links(f, "/gone"), "q of .* is a link to nothing: store"),
    "circle": (lambda f: links(f, "/a", "/b", "/a"), "is a link in a circle: store"),
    "own circle": (lambda f: links(f, "/q"), "is a link in a circle: store"),
    "external link": (lambda f: f.__setitem__("q", h5py.ExternalLink("b.h5", "/q")), r"link into another file \(b.h5\): copy"),
    "through an external group": (through_an_external_group, r"link into another file \(not-copied.h5\): copy"),
    "empty": (lambda f: f.__setitem__("q", h5py.Empty("f8")), "q of .* is empty .*: store an array"),
    "virtual, no source": (lambda f: virtual(f, "not-copied.h5"), "is a virtual dataset, .*: store the numbers"),
    "virtual over itself": (lambda f: virtual(f, "."), "is a virtual dataset, .*: store the numbers"),
    "raw storage elsewhere": (
        lambda f: f.create_dataset("q", (1, 10, 10), "f4", external=[("/etc/hostname", 0, 400)]),
        r"lies in another file \(external storage\): store",
    ),
    "never written": (lambda f: f.create_dataset("q", (3, 8, 6), "f8"), "declares 3x8x6 numbers and holds none of them"),
    "never written, packed": (lambda f: chunked(f, compression="gzip", fillvalue=1.5), "and holds none of them: write all"),
    "half written": (half_written, "and holds 2 of 3 chunks of them: write all"),
    "group": (lambda f: f.create_group("q"), "q of .* is a group: store a dataset"),
    "type": (lambda f: f.__setitem__("q", np.dtype("f8")), "q of .* is a datatype: store a dataset"),
    "text": (lambda f: f.__setitem__("q", "states"), "q of .* holds text: store plain numbers"),
    "bytes": (lambda f: f.__setitem__("q", np.full((3, 8, 6), b"a")), "holds text"),
    "records": (lambda f: f.__setitem__("q", np.zeros((3, 8, 6), [("re", "f8"), ("im", "f4")])), "holds records"),
    "complex": (lambda f: f.__setitem__("q", STATES.astype(complex)), "holds complex numbers"),
    "truth": (lambda f: f.__setitem__("q", STATES > 0), "holds truth values"),
    "opaque": (lambda f: f.__setitem__("q", np.zeros((3, 8, 6), "V4")), "holds arrays or opaque bytes"),
    "arrays": (lambda f: f.create_dataset("q", (3, 8), np.dtype(("f8", (6,)))), "holds arrays or opaque bytes"),
    "references": (lambda f: f.create_dataset("q", (3, 8, 6), h5py.ref_dtype), "holds references"),
    "ragged": (lambda f: f.create_dataset("q", (3,), h5py.vlen_dtype("f8")), "holds arrays of different lengths"),
    "enumeration": (lambda f: f.create_dataset("q", (3, 8, 6), h5py.enum_dtype({"up": 0, "down": 1})), "holds values of type"),
    "half precision": (lambda f: f.__setitem__("q", STATES.astype("f2")), "has type float16: store float32 or float64"),
    "more than double": (lambda f: f.__setitem__("q", STATES.astype("g")), "has type float128: store float32 or float64"),
    "scalar": (lambda f: f.__setitem__("q", 1.0), r"has shape \[\]: give \[snapshot, y, x\]"),
    "no snapshot": (lambda f: f.__setitem__("q", STATES[:0]), "none of them empty"),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "states.h5"


def told(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        dataset.read(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert ": " in text  # and a remedy
    return text


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_array_of_numbers_in_the_file_is_refused(file: Path, kind: str) -> None:
    make, words = REFUSED[kind]
    with h5py.File(file, "w") as opened:
        make(opened)
    text = told(file)
    assert re.search(words, text), text


@pytest.mark.parametrize("name", ["force", "density", "chemical_potential", "quench", "step", "more_density"])
@pytest.mark.parametrize("kind", ["dangling", "empty", "virtual over itself", "group", "text", "never written"])
def test_the_same_of_every_dataset_of_the_schema(file: Path, name: str, kind: str) -> None:
    make, _ = REFUSED[kind]
    with h5py.File(file, "w") as opened:
        make(opened)
        opened.move("q", name)
        opened["q"] = STATES
    assert told(file).startswith(f"{name} of ")


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("step", np.array([0.0, 1.0, 2.0]), "step of .* has type float64: store integers"),
        ("quench", np.array([0, 1, 2**63], np.uint64), "quench of .* has 9223372036854775808: give integers from -1 to"),
        ("step", np.array([0, 1, 2**64 - 1], np.uint64), "step of .* has 18446744073709551615: give integers"),
        ("quench", np.array([0, -2, 1]), "quench of .* has -2: give integers from -1"),
        ("quench", np.arange(2), r"has shape \[2\]: q with \[3, 8, 6\] needs \[3\]"),
        ("force", STATES.astype("g"), "force of .* has type float128: store float32 or float64"),
        (
            "force",
            np.where(np.arange(144).reshape(3, 8, 6) == 50, np.inf, STATES),
            r"force of .* is inf in snapshot \d at site",
        ),
        ("chemical_potential", np.arange(3), "has type int64: store float32 or float64"),
    ],
)
def test_labels_and_numbers_that_do_not_fit(file: Path, name: str, array: np.ndarray, words: str) -> None:
    with h5py.File(file, "w") as opened:
        opened["q"], opened[name] = STATES, array
    with pytest.raises(DataError, match=words):
        dataset.read(file)


def test_what_is_in_the_file_is_read_however_it_is_stored(file: Path) -> None:
    """Packed, in the other byte order, behind a link within the file, unsigned, extensible: as ever."""
    with h5py.File(file, "w") as opened:
        opened["raw/here"] = h5py.SoftLink("../nothing")
        stored = opened.create_group("data").create_dataset(
            "states", data=STATES.astype(">f8"), maxshape=(None, 8, 6), chunks=(2, 8, 6), compression="gzip", shuffle=True
        )
        stored.attrs["note"] = "theirs"
        opened["alias"] = h5py.SoftLink("data/./states")
        opened["q"] = h5py.SoftLink("/alias")
        opened["quench"] = np.arange(3, dtype=np.uint8)
    read = dataset.read(file)
    np.testing.assert_array_equal(read.q, STATES)
    assert read.q.dtype == np.float64
    assert read.quench.tolist() == [0, 1, 2]


def test_the_declared_size_is_compared_with_the_memory_before_anything_is_read(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(file, "w") as opened:
        opened.create_dataset("q", data=np.zeros((30, 200, 200)), chunks=(30, 200, 200), compression="gzip")
    declared = 30 * 200 * 200 * 8
    assert file.stat().st_size < declared / 100
    monkeypatch.setattr(inputs, "free_bytes", lambda: 2.0 * declared)
    assert len(dataset.read(file)) == 30  # it fits
    monkeypatch.setattr(inputs, "free_bytes", lambda: 1.9 * declared)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda *_: pytest.fail("read"))
    assert "declares 0.00894 GiB, which takes 0.0179 GiB to read, and 0.017 GiB are free: give fewer" in told(file)


def test_a_chunk_larger_than_the_dataset_counts(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is unpacked whole."""
    with h5py.File(file, "w") as opened:
        opened.create_dataset("q", data=STATES, maxshape=(None, 8, 6), chunks=(10**6, 8, 6), compression="gzip")
    monkeypatch.setattr(inputs, "free_bytes", lambda: 1e8)
    assert "declares 0.358 GiB" in told(file)


ATTRIBUTES = {
    "single": (np.float32(0.1), 0.1),
    "array of one": (np.array([0.1], "f4"), [0.1]),
    "other byte order": (np.array(3, ">i4"), 3),
    "bytes": (np.bytes_(b"square"), "square"),
    "no text": (np.bytes_(b"\xff"), "\ufffd"),
    "text": ("square", "square"),
    "texts": (["a", "b"], ["a", "b"]),
    "truth": (np.array([True, False]), [True, False]),
    "empty": (h5py.Empty("f8"), "<empty>"),
    "complex": (1j, "<1j>"),
    "record": (np.array((1, 2.0), [("a", "i4"), ("b", "f8")]), "<(1, 2.0)>"),
}


def test_attributes_are_plain_values(file: Path) -> None:
    with h5py.File(file, "w") as opened:
        opened["q"] = STATES
        for name, (value, _) in ATTRIBUTES.items():
            opened.attrs[name] = value
        opened.attrs["reference"] = opened["q"].ref
        opened.attrs["references"] = np.array([opened["q"].ref], h5py.ref_dtype)
    read = dataset.read(file).attributes
    assert {name: read[name] for name in ATTRIBUTES} == {name: plain for name, (_, plain) in ATTRIBUTES.items()}
    assert read["reference"] == "<reference>"
    assert read["references"] == ["<reference>"]


def test_a_number_in_single_precision_equals_its_own_value_and_no_other() -> None:
    def of(value: float) -> inputs.Single:
        return inputs.Single(str(np.float32(value)))

    for value in (0.1, 1 / 3, 3.5, 1e-30, 2 / 7):
        assert inputs.same_number(of(value), value)
        assert inputs.same_number(value, of(value))
        assert not inputs.same_number(of(value), value * (1 + 1e-6) + 1e-11)
    assert not inputs.same_number(0.1, 0.1 * (1 + 5e-8))  # in double precision
    assert not inputs.same_number(of(float("nan")), 0.1)


def whole_file(path: Path) -> bytes:
    with h5py.File(path, "w") as opened:
        opened.create_dataset("q", data=STATES, chunks=(1, 8, 6), compression="gzip")
        opened["quench"], opened["step"] = np.arange(3), np.arange(3)
        opened.attrs.update(kT=0.1, lattice="square", periodic=[True, True])
    return path.read_bytes()


def test_cut_anywhere_it_is_refused(file: Path) -> None:
    whole = whole_file(file)
    for length in range(0, len(whole), 100):
        file.write_bytes(whole[:length])
        told(file)


def test_with_bytes_changed_anywhere_it_is_read_or_refused(file: Path) -> None:
    whole, chance = whole_file(file), random.Random(1)
    for _ in range(400):
        changed = bytearray(whole)
        for _ in range(chance.choice([1, 1, 2, 8])):
            changed[chance.randrange(chance.choice([200, 2500, len(whole)]))] = chance.randrange(256)
        file.write_bytes(changed)
        with suppress(DataError):
            dataset.read(file)


TRAJECTORIES: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "virtual over itself": (lambda f: virtual_field(f, "."), r"q of .* lies in \., which is no part of a run: use"),
    "virtual elsewhere": (lambda f: virtual_field(f, "../other.d/0000/rank-00000.h5"), "which is no part of a run"),
    "part that is gone": (lambda f: virtual_field(f, "t.d/0000/rank-00000.h5"), "cannot be read as HDF5 .*No such file"),
    "no q": (lambda f: f.__delitem__("q"), "q of .* is not there"),
    "text": (lambda f: (f.__delitem__("q"), f.__setitem__("q", "states")), "is damaged .q, time and step"),
    "dangling": (lambda f: (f.__delitem__("q"), links(f, "/gone")), "is a link to nothing"),
    "fewer q": (lambda f: f["q"].resize(1, axis=0), "is damaged .q, time and step"),
    "fewer velocities": (lambda f: f["velocity"].resize(1, axis=0), "snapshot 1 of .* cannot be read"),
    "steps are no integers": (lambda f: (f.__delitem__("step"), f.__setitem__("step", [0.0, 1.0])), "is damaged"),
    "no configuration": (lambda f: f.attrs.__delitem__("config"), "does not hold the configuration of its run .*: use"),
}


def virtual_field(file: h5py.File, source: str) -> None:
    shape = file["q"].shape
    layout = h5py.VirtualLayout(shape, "f8")
    layout[...] = h5py.VirtualSource(source, "q", shape)
    del file["q"]
    file.create_virtual_dataset("q", layout)


def last_state(path: Path) -> tuple[Snapshot, str]:
    with open_trajectory(path) as trajectory:
        return trajectory.snapshot(1), trajectory.config


@pytest.mark.parametrize("kind", TRAJECTORIES)
def test_a_trajectory_refers_to_nothing_but_parts_of_its_run(tmp_path: Path, kind: str) -> None:
    make, words = TRAJECTORIES[kind]
    path = tmp_path / "t.h5"
    written.write(path, SerialTransport(), range(2))
    with h5py.File(path, "r+") as file:
        make(file)
    with pytest.raises(DataError, match=words) as caught:
        last_state(path)
    assert "\n" not in str(caught.value)
