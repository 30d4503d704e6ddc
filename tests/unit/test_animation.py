"""Films of the order: frames at the right times, that change as the order does, and a sentence where none can be made."""

from __future__ import annotations

import shutil
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpc_holstein.cli import main
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import ConfigError, DataError
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.lattice import square
from hpc_holstein.output import plots_animation
from hpc_holstein.output.analysis import fields_of, order_frames
from hpc_holstein.output.order import Order, default_orders, local_order
from hpc_holstein.storage.trajectory import open_trajectory

ORDER = Order((Fraction(1, 2),) * 2)


def order_film(path: Path, frames: list[tuple[float, np.ndarray]]) -> int:
    """Of one number on each site of a square lattice."""
    extent = frames[0][1].shape if frames else (2, 2)
    return plots_animation.order_film(path, square.build(extent), ORDER, [(t, phi[..., None, None]) for t, phi in frames])


@pytest.fixture
def quench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    given = ["run", "--preset", "paper-2601.04104", "--lattice", "8x6", "--force", "atomic", "--steps", "20", "--output", "r"]
    assert main([*given, "--set", "output.snapshot_every=5"]) == 0
    return tmp_path / "r"


def pages(path: Path) -> list[np.ndarray]:
    with Image.open(path) as film:
        return [np.asarray((film.seek(index), film.convert("RGB"))[1]) for index in range(film.n_frames)]


def test_a_film_has_a_frame_for_each_snapshot(quench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "r", "--animate"]) == 0
    assert "wrote r/analysis/order.gif with 5 frames" in capsys.readouterr().out
    found = pages(quench / "analysis" / "order.gif")
    assert len(found) == 5
    assert found[0].shape == (420, 480, 3)
    for one, other in pairwise(found):
        title, map_ = (np.abs(one[rows].astype(int) - other[rows]).max() for rows in (slice(0, 40), slice(60, 350)))
        assert title > 50  # the time
        assert map_ > 50
    assert main(["analyze", "r", "--animate"]) == 2  # never overwritten


def test_colours_are_those_of_the_order(tmp_path: Path) -> None:
    """Red where phi = 1, blue where it is -1, with the origin below."""
    phi = np.array([[1.0, -1.0], [-1.0, -1.0]])
    assert order_film(tmp_path / "f.gif", [(0.0, phi), (1.0, -phi)]) == 2
    first, second = (page.astype(int) for page in pages(tmp_path / "f.gif"))
    reddish, bluish = ((first[..., 0] - first[..., 2]) > 60), ((first[..., 2] - first[..., 0]) > 60)
    left = slice(48, 372)  # of the map, without the colour bar
    ys, xs = np.nonzero(reddish[:, left])
    assert ys.mean() > 200
    assert xs.mean() < 130
    assert bluish[:, left].sum() == pytest.approx(3 * reddish[:, left].sum(), rel=0.05)
    assert ((second[..., 0] - second[..., 2]) > 60)[:, left].sum() == pytest.approx(3 * reddish[:, left].sum(), rel=0.05)


def test_frames_are_spread_over_the_run(quench: Path) -> None:
    hamiltonian = holstein.build(holstein.Options(), square.build((8, 6)))
    order = default_orders(hamiltonian)[0]
    with open_trajectory(quench / "trajectory.h5") as trajectory:
        found = list(order_frames(trajectory, hamiltonian, order, 3))
        assert [time for time, _ in found] == [0.0, 0.5, 1.0]
        assert len(list(order_frames(trajectory, hamiltonian, order, 100))) == 5
        density, _ = fields_of(trajectory.snapshot(2), hamiltonian)
        expected = local_order(density[..., None], order, CartesianDomain(hamiltonian.lattice, SerialTransport()))
        assert np.array_equal(found[1][1], expected)


def test_what_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"film.avi is neither \*.gif nor \*.mp4: give one of them"):
        order_film(tmp_path / "film.avi", [])
    monkeypatch.setattr(plots_animation, "_ffmpeg", lambda: None)
    with pytest.raises(ConfigError, match=r"film.mp4 needs ffmpeg and there is none: install it or imageio-ffmpeg, or give a"):
        order_film(tmp_path / "film.mp4", [])


def stand_in(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_mp4_is_what_ffmpeg_makes_of_the_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in keeps the pixels that it is given, another one fails."""
    phi = np.ones((2, 2))
    keeps = stand_in(tmp_path / "ffmpeg", 'for last; do :; done; cat > "$last"')
    monkeypatch.setattr(plots_animation, "_ffmpeg", lambda: keeps)
    assert order_film(tmp_path / "f.mp4", [(0.0, phi), (1.0, -phi), (2.0, phi)]) == 3
    pixels = np.fromfile(tmp_path / "f.mp4", np.uint8).reshape(3, 420, 480, 4)
    assert np.abs(pixels[0].astype(int) - pixels[1]).max() > 100
    fails = stand_in(tmp_path / "fails", "cat > /dev/null; exit 3")
    monkeypatch.setattr(plots_animation, "_ffmpeg", lambda: fails)
    with pytest.raises(DataError, match="ffmpeg ended with code 3: give a"):
        order_film(tmp_path / "g.mp4", [(0.0, phi)])
    assert not (tmp_path / "g.mp4").exists()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg")
def test_ffmpeg_makes_an_mp4(tmp_path: Path) -> None:
    order_film(tmp_path / "f.mp4", [(float(t), np.full((4, 4), 0.1 * t)) for t in range(10)])
    assert (tmp_path / "f.mp4").read_bytes()[4:8] == b"ftyp"
