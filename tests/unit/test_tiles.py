"""Checkpoints of which each rank writes its tile: read on any ranks, passed over where one is damaged."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from written import EXTENT, state_at

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import Transport, run_in_process
from hpc_holstein.lattice import square
from hpc_holstein.output import checkpoint


def saved_by(ranks: int, folder: Path, step: int, dtype: torch.dtype) -> None:
    def save(transport: Transport) -> None:
        domain = CartesianDomain(square.build(EXTENT), transport)
        stored = checkpoint.saved_state(folder, state_at(step, domain, dtype)[0], domain, transport, gathers=False)
        if stored is not None:
            checkpoint.write(folder, replace(stored, account={"sessions": 2}, attributes={"seed": 3}), 2)

    run_in_process(ranks, save)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("ranks", [(1, 3), (6, 2), (2, 2), (4, 1)])
def test_a_checkpoint_of_tiles_is_read_on_any_ranks(tmp_path: Path, ranks: tuple[int, int], dtype: torch.dtype) -> None:
    saved_by(ranks[0], tmp_path, 7, dtype)

    def load(transport: Transport) -> None:
        domain = CartesianDomain(square.build(EXTENT), transport)
        stored = checkpoint.newest(tmp_path)[0] if transport.rank == 0 else None
        state, (expected, _) = checkpoint.restored(stored, domain, transport), state_at(7, domain, dtype)
        assert state.step == 7
        assert state.q.dtype == dtype
        assert state.forces is not None
        assert expected.forces is not None
        for found, wanted in (
            (state.q, expected.q),
            (state.velocity, expected.velocity),
            (state.forces.force, expected.forces.force),
            (state.forces.density, expected.forces.density),
            (state.forces.chemical_potential, expected.forces.chemical_potential),
        ):
            assert torch.equal(found, wanted)

    run_in_process(ranks[1], load)


@pytest.mark.parametrize("damage", ["gone", "short", "flipped", "of another checkpoint"])
def test_a_checkpoint_with_a_damaged_tile_is_passed_over(tmp_path: Path, damage: str) -> None:
    for step in (10, 20):
        saved_by(3, tmp_path, step, torch.float64)
    tile = tmp_path / "step-000000000020.d" / "00001.h5"
    content = bytearray(tile.read_bytes())
    content[-100] ^= 1
    match damage:
        case "gone":
            tile.unlink()
        case "short":
            tile.write_bytes(content[:-1000])
        case "flipped":
            tile.write_bytes(content)
        case _:
            shutil.copy(tmp_path / "step-000000000010.d" / "00001.h5", tile)
    stored, told = checkpoint.newest(tmp_path)
    assert stored is not None
    assert stored.step == 10
    assert len(told) == 1
    assert "step-000000000020.h5 is truncated or damaged (the checksum of its tile 00001.h5 is wrong)" in told[0]


def test_only_the_last_checkpoints_of_tiles_stay(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        saved_by(2, tmp_path, step, torch.float64)
    names = ["step-000000000020.d", "step-000000000020.h5", "step-000000000030.d", "step-000000000030.h5"]
    assert sorted(os.listdir(tmp_path)) == names
    (tmp_path / "step-000000000040.d").mkdir()  # of a run that was killed before the checkpoint was one
    checkpoint.clean(tmp_path, after=20)
    assert sorted(os.listdir(tmp_path)) == names[:2]
