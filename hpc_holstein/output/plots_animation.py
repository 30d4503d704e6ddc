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
from numpy.typing import NDArray
from PIL import Image

from hpc_holstein.errors import ConfigError, DataError
from hpc_holstein.files import replaced
from hpc_holstein.interfaces import Lattice
from hpc_holstein.output.geometry import Raster
from hpc_holstein.output.order import Order
from hpc_holstein.output.plots import _STYLE, label_plane
from hpc_holstein.output.plots_run import Colours

_PER_SECOND = 12  # frames
_DPI = 100
_COLOURS = 128  # of a frame of a GIF

Frame = tuple[float, NDArray[Any]]
"""Time [hbar/t_nn] and local order ``[*cells, basis, components]``."""


def require_film(path: Path) -> None:
    """ConfigError where ``path`` is neither a GIF nor an MP4 that can be made here."""
    if path.suffix not in (".gif", ".mp4"):
        raise ConfigError(f"--animate {path} is neither *.gif nor *.mp4: give one of them")
    if path.suffix == ".mp4" and _ffmpeg() is None:
        raise ConfigError(f"--animate {path} needs ffmpeg and there is none: install it or imageio-ffmpeg, or give a *.gif")


def order_film(path: Path, lattice: Lattice, order: Order, frames: Iterable[Frame]) -> int:
    """Local order in time, drawn frame by frame as ``frames`` come; returns how many there were."""
    require_film(path)
    with replaced(path) as temporary, mpl.rc_context({**_STYLE, "animation.ffmpeg_path": _ffmpeg() or "ffmpeg"}):
        drawn = _drawn(lattice, order, frames)
        return _gif(temporary, drawn) if path.suffix == ".gif" else _mp4(temporary, drawn)


def _drawn(lattice: Lattice, order: Order, frames: Iterable[Frame]) -> Iterator[Figure]:
    """One figure, anew for each frame."""
    figure, raster = Figure(figsize=(4.8, 4.2), dpi=_DPI), Raster(lattice)
    FigureCanvasAgg(figure)
    image, colours = None, None
    for time, phi in frames:
        if image is None or colours is None:
            axes, colours = figure.add_subplot(), Colours(order, phi)
            image = axes.imshow(raster.picture(colours(phi)), origin="lower", extent=raster.box)
            label_plane(axes, lattice)
            colours.bar(figure, [axes])
        image.set_data(raster.picture(colours(phi)))
        figure.axes[0].set_title(f"$t$ = {time:.2f} $\\hbar/t_\\mathrm{{nn}}$", fontsize=10)
        yield figure


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
