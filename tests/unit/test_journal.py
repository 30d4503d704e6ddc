"""Files that change in whole steps: the last commit is what is found, wherever the process ends."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hpc_holstein.output import journal
from hpc_holstein.output.journal import JournaledFile, journal_of, read_journal

FIRST = bytes(range(256)) * 40  # 2.5 pages


class CrashError(BaseException):
    """The process ends here."""


def put(file: JournaledFile, offset: int, data: bytes) -> None:
    file.seek(offset)
    file.write(data)


def contents(path: Path) -> bytes:
    file = JournaledFile(path, "read")
    try:
        return file.read()
    finally:
        file.close()


def write_first(path: Path) -> None:
    file = JournaledFile(path, "create")
    put(file, 0, FIRST)
    file.commit()
    file.close()


def change(file: JournaledFile) -> bytes:
    """Changes inside, across pages, at the end and beyond it, and a shorter file again."""
    expected = bytearray(FIRST) + bytearray(30000)
    for offset, data in ((10, b"inside"), (4090, b"across pages"), (10235, b"over the end"), (20000, b"far" * 3000)):
        put(file, offset, data)
        expected[offset : offset + len(data)] = data
    file.truncate(25000)
    return bytes(expected[:25000])


def test_nothing_is_seen_before_the_commit_and_all_after_it(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_first(path)
    file = JournaledFile(path, "append")
    expected = change(file)
    file.seek(0)
    assert file.read() == expected  # the writer sees its own changes
    assert contents(path)[: len(FIRST)] == FIRST
    file.commit()
    assert contents(path) == expected
    file.truncate(100)
    file.commit()
    file.close()
    assert path.read_bytes() == expected[:100]
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("torn", [False, True])
def test_a_crash_at_any_system_call_leaves_one_of_the_two_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    """``torn``: half of the bytes of that write are on the disk."""
    seen = set()
    for moment in range(100):
        path = tmp_path / f"f{moment}"
        write_first(path)
        file = JournaledFile(path, "append")
        calls = 0

        def counted(name: str, real: Any, at: int = moment) -> Any:
            def call(descriptor: int, *arguments: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > at:
                    if torn and name == "pwrite" and calls == at + 1:
                        real(descriptor, arguments[0][: len(arguments[0]) // 2], arguments[1])
                    raise CrashError
                return real(descriptor, *arguments)

            return call

        with monkeypatch.context() as patch:
            for name in ("pwrite", "fsync", "ftruncate", "truncate"):
                patch.setattr(journal.os, name, counted(name, getattr(os, name)))
            try:
                expected = change(file)
                file.commit()
                ended = True
            except CrashError:
                ended = False
        found = contents(path)
        reopened = JournaledFile(path, "append")
        reopened.seek(0)
        assert reopened.read() == found
        reopened.close()
        after = not found.startswith(FIRST)
        assert found == expected if after else found[: len(FIRST)] == FIRST
        assert after or not ended
        seen.add(after)
        if ended:
            break
    assert seen == {False, True}
    assert moment > 8


def test_a_journal_that_was_cut_off_or_damaged_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_first(path)
    file = JournaledFile(path, "append")
    change(file)
    file._write_journal()
    whole = journal_of(path).read_bytes()
    assert read_journal(path) is not None
    for damaged in (whole[:-1], whole[:30], b"", whole[:100] + b"\xff" + whole[101:]):
        journal_of(path).write_bytes(damaged)
        assert read_journal(path) is None


def test_a_full_disk_is_told_by_the_commit_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 writes, flushes and closes as if nothing had happened."""
    path = tmp_path / "t.h5"
    stream = JournaledFile(path, "create")
    file = h5py.File(stream, "w", libver=("v108", "v108"))
    data = file.create_dataset("x", (0, 5000), "f8", maxshape=(None, 5000), chunks=(1, 5000))

    def append(value: float) -> None:
        data.resize(len(data) + 1, axis=0)
        data[-1] = value
        file.flush()

    append(1.0)
    stream.commit()

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "pwrite", full)
        append(2.0)
        append(3.0)
        with pytest.raises(OSError, match="No space"):
            stream.commit()
        file.close()
    with pytest.raises(OSError, match="No space"):
        stream.commit()
    assert stream.failure is not None
    stream.close()
    with h5py.File(path) as left:
        assert np.array_equal(left["x"], np.ones((1, 5000)))


def test_readers_see_the_last_commit_while_a_commit_is_being_applied(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_first(path)
    file = JournaledFile(path, "append")
    expected = change(file)
    file._write_journal()  # and then the process is killed
    assert contents(path) == expected
    again = JournaledFile(path, "append")
    assert not journal_of(path).exists()
    again.close()
    assert path.read_bytes() == expected


def test_a_new_file_takes_no_journal_of_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_first(path)
    file = JournaledFile(path, "append")
    change(file)
    file._write_journal()
    path.unlink()
    write_first(path)
    assert contents(path) == FIRST
    with pytest.raises(FileExistsError):
        JournaledFile(path, "create")
