"""The order of a run as a film, in the look of :mod:`output.plots`: GIF always, MP4 where there is an ffmpeg."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.animation import FFMpegWriter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from PIL import Image

from hpc_holstein.errors import ConfigError, DataError
from hpc_holstein.files import replaced
from hpc_holstein.output.plots import _STYLE

_PER_SECOND = 12  # frames
_DPI = 100
_COLOURS = 128  # of a frame of a GIF
_DRAWN_AS_SQUARES = 400  # cells along an axis, at most; more are averaged to pixels

Frame = tuple[float, NDArray[np.floating]]
"""Time [hbar/t_nn] and local CDW order ``[y, x]``."""


def require_film(path: Path) -> None:
    """ConfigError where ``path`` is neither a GIF nor an MP4 that can be made here."""
    if path.suffix not in (".gif", ".mp4"):
        raise ConfigError(f"--animate {path} is neither *.gif nor *.mp4: give one of them")
    if path.suffix == ".mp4" and _ffmpeg() is None:
        raise ConfigError(f"--animate {path} needs ffmpeg and there is none: install it or imageio-ffmpeg, or give a *.gif")


def order_film(path: Path, frames: Iterable[Frame]) -> int:
    """Local CDW order in time, drawn frame by frame as ``frames`` come; returns how many there were."""
    require_film(path)
    with replaced(path) as temporary, mpl.rc_context({**_STYLE, "animation.ffmpeg_path": _ffmpeg() or "ffmpeg"}):
        drawn = _drawn(frames)
        return _gif(temporary, drawn) if path.suffix == ".gif" else _mp4(temporary, drawn)


def _drawn(frames: Iterable[Frame]) -> Iterator[Figure]:
    """One figure, anew for each frame."""
    figure, image = Figure(figsize=(4.8, 4.2), dpi=_DPI), None
    FigureCanvasAgg(figure)
    for time, phi in frames:
        if image is None:
            image = _axes(figure, phi)
        image.set_data(phi)
        figure.axes[0].set_title(f"$t$ = {time:.2f} $\\hbar/t_\\mathrm{{nn}}$", fontsize=10)
        yield figure


def _axes(figure: Figure, phi: NDArray[np.floating]) -> AxesImage:
    axes = figure.add_subplot()
    kind = "nearest" if max(phi.shape) <= _DRAWN_AS_SQUARES else "antialiased"
    image = axes.imshow(phi, cmap="RdBu_r", vmin=-1, vmax=1, origin="lower", interpolation=kind)
    axes.set(xlabel="$x$ [$a$]", ylabel="$y$ [$a$]")
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label=r"local CDW order $\phi$ [electrons/site]", shrink=0.9)
    return image


def _gif(path: Path, figures: Iterable[Figure]) -> int:
    pages = []
    for figure in figures:
        figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]
        pages.append(Image.fromarray(pixels).convert("RGB").quantize(_COLOURS))
    first, *others = pages
    first.save(path, format="GIF", save_all=True, append_images=others, duration=1000 // _PER_SECOND, loop=0)
    return len(pages)


def _mp4(path: Path, figures: Iterator[Figure]) -> int:
    writer = FFMpegWriter(_PER_SECOND, codec="h264", extra_args=["-f", "mp4", "-pix_fmt", "yuv420p"])
    logging.getLogger("matplotlib.animation").setLevel(logging.WARNING)  # it tells the command otherwise
    count, first = 1, next(figures)
    try:
        with writer.saving(first, str(path), _DPI):
            writer.grab_frame()
            for _ in figures:
                writer.grab_frame()
                count += 1
    except CalledProcessError as error:
        raise DataError(f"the film was not made, since ffmpeg ended with code {error.returncode}: give a *.gif") from None
    return count


def _ffmpeg() -> str | None:
    """The program, of the system or of the package imageio-ffmpeg."""
    found = shutil.which("ffmpeg")
    if found is None and find_spec("imageio_ffmpeg") is not None:
        module: Any = import_module("imageio_ffmpeg")
        found = str(module.get_ffmpeg_exe())
    return found
