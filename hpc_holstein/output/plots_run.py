"""Figures of a run on any lattice: maps of the order in Cartesian coordinates, growth, energies, ``S(q)``, ``C(r)``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from hpc_holstein.output import observables
from hpc_holstein.output.analysis import Frames, OrderFrames, figure_names
from hpc_holstein.output.geometry import Raster
from hpc_holstein.output.order import Order
from hpc_holstein.output.plots import TIME, _styled, label_plane

Array = NDArray[np.floating]

_ENERGY = r"[$t_\mathrm{nn}$/site]"
_PHASES = ("#0072B2", "#D55E00", "#009E73")
_DIRECTIONS = ("#0072B2", "#E69F00", "#D55E00", "#009E73")
_PIXELS = 600  # along a side of the picture of S(q)
_LENGTHS = {
    "domain_length_inverse_moment": r"1 / first moment of $S(|q-Q|)$",
    "domain_length_half_height": r"half height of $C(r)$",
    "domain_length_first_zero": r"first zero of $C(r)$",
}


class Colours:
    """Colours of a local order: of its sign where it is one real number, else of its phase or direction in the plane."""

    def __init__(self, order: Order | None, values: NDArray[Any]) -> None:
        """``values [..., components]``: what sets the scale of the order of coordinates; ``order`` None: a density."""
        self._plain = values.shape[-1] != 2 and not np.iscomplexobj(values)
        of_density = order is None or order.field == "density"
        limit = 1.0 if of_density else max(float(np.abs(values).max()), 1e-12)
        self._norm, self._limit = Normalize(0 if order is None else -limit, limit), limit
        self._map: Colormap = mpl.colormaps["viridis" if order is None else "RdBu_r"]
        if not self._plain:  # a turn through the colours of three phases, or of four directions
            turn = _PHASES if np.iscomplexobj(values) else _DIRECTIONS
            self._map = LinearSegmentedColormap.from_list("turn", [*turn, turn[0]])
        name, unit = ("CDW order", "") if of_density else (f"order of {order.field if order else ''}", r" [$a$]")
        turned = "phase" if np.iscomplexobj(values) else "direction"
        self._label = rf"local {name} $\phi${unit}" if self._plain else rf"{turned} of the local {name} $\phi$ [$\pi$]"
        if order is None:
            self._label = "$n_i$ [electrons/site]"

    def __call__(self, phi: NDArray[Any]) -> Array:
        """``[..., components] -> [..., RGBA]``."""
        if self._plain:
            return np.asarray(self._map(self._norm(phi[..., 0])))
        number = phi[..., 0] + 1j * phi[..., 1] if phi.shape[-1] == 2 else phi[..., 0]
        colours = np.asarray(self._map(np.angle(number) / (2 * math.pi) % 1))
        strength = np.minimum(np.abs(number) / self._limit, 1)[..., None]
        colours[..., :3] = 1 - strength * (1 - colours[..., :3])
        return colours

    def bar(self, figure: Figure, axes: Sequence[Axes]) -> None:
        """The colour bar beside ``axes``."""
        norm = self._norm if self._plain else Normalize(0, 2)
        figure.colorbar(ScalarMappable(norm, self._map), ax=list(axes), label=self._label, shrink=0.8)


def draw(folder: Path, frames: Frames) -> list[Path]:
    """All figures of a run; returns their paths."""
    of_order = {found.order: found for found in frames.orders}
    drawn = []
    for name, kind, order in figure_names(list(of_order), frames.lattice):
        drawn.append(folder / name)
        _FIGURES[kind](folder / name, frames, None if order is None else of_order[order])
    return drawn


@_styled
def maps(path: Path, frames: Frames, found: OrderFrames | None) -> Figure:
    """Local order of each frame, whose signs, or phases, are the ordered domains; without an order, the density.

    Of a chain, many snapshots in one picture, place against time.
    """
    if frames.history and found is not None and found is frames.orders[0]:
        return _space_time(frames, found.order)
    values = frames.density[..., None] if found is None else found.phi
    raster, colours = Raster(frames.lattice), Colours(found.order if found else None, values)
    columns = min(3, len(frames.times))
    rows = -(-len(frames.times) // columns)
    shape = (raster.box[3] - raster.box[2]) / (raster.box[1] - raster.box[0])
    figure = Figure(figsize=(2.5 * columns + 0.7, (2.5 * min(max(shape, 0.3), 2) + 0.3) * rows))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(frames.times) :]:
        panel.set_axis_off()
    for panel, time, shown in zip(panels, frames.times, values, strict=False):
        panel.imshow(raster.picture(colours(shown)), origin="lower", extent=raster.box)
        panel.set_title(f"$t$ = {time:g} $\\hbar/t_\\mathrm{{nn}}$", fontsize=9)
        label_plane(panel, frames.lattice)
    colours.bar(figure, panels.tolist())
    return figure


@_styled
def domain_growth(path: Path, frames: Frames, found: OrderFrames) -> Figure:
    """Order parameter and domain length against time, both axes logarithmic for the length."""
    series, named = frames.series, found.order.scalar
    figure = Figure(figsize=(7.6, 3.2))
    order, length = figure.subplots(1, 2)
    order.plot(series["time"], series[named("order_parameter")])
    unit, top = ("", 1.05) if found.order.field == "density" else (" [$a$]", None)
    order.set(xlabel=TIME, ylabel=rf"order parameter $|\langle\phi\rangle|${unit}", ylim=(0, top))
    lengths = {label: series[named(name)] for name, label in _LENGTHS.items()}
    drawn = [_loglog(length, series["time"], values, label) for label, values in lengths.items()]
    length.set(xlabel=TIME, ylabel="domain length $L$ [$a$]")
    if any(drawn):
        length.set(xscale="log", yscale="log")
        for axis in (length.xaxis, length.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        _square_root_guide(length, series["time"], series[named("domain_length_inverse_moment")])
        length.legend(fontsize=7.5)
    return figure


@_styled
def energies_and_temperature(path: Path, frames: Frames, found: OrderFrames | None) -> Figure:
    """Energies per site, those that are known, and the kinetic temperature against the bath."""
    series = frames.series
    figure = Figure(figsize=(7.6, 3.2))
    energy, temperature = figure.subplots(1, 2)
    for name in ("kinetic_energy", "classical_energy", "electronic_energy", "total_energy"):
        if np.isfinite(series[name]).any():
            energy.plot(series["time"], series[name], label=name.removesuffix("_energy"))
    energy.set(xlabel=TIME, ylabel=f"energy {_ENERGY}")
    energy.legend(fontsize=8)
    temperature.plot(series["time"], series["kinetic_temperature"], label=r"kinetic, $m\langle v^2\rangle$")
    temperature.axhline(frames.kT, color="0.3", linestyle="--", linewidth=0.9, label="bath")
    temperature.set(xlabel=TIME, ylabel=r"temperature $kT$ [$t_\mathrm{nn}$]", yscale="log")
    temperature.legend(fontsize=8)
    return figure


@_styled
def structure_factor(path: Path, frames: Frames, found: OrderFrames | None) -> Figure:
    """``S(q)`` on a logarithmic scale: of all frames of a chain, else of the last one, in the plane of its largest value."""
    assert frames.structure is not None
    figure = Figure(figsize=(4.2, 3.5))
    axes = figure.add_subplot()
    if len(frames.lattice.extent) == 1:
        _structure_lines(axes, frames, frames.structure)
        return figure
    numbers, side, place = _reciprocal_plane(frames)
    values = observables.structure_factor(torch.from_numpy(frames.density[-1]), frames.lattice, numbers).numpy()
    shown = np.log10(np.maximum(values, max(float(values.max()) * 1e-6, 1e-12)))
    image = axes.imshow(shown, origin="lower", extent=(-side, side, -side, side), cmap="magma", interpolation="nearest")
    axes.set(xlabel="$q_x$ [$1/a$]", ylabel="$q_y$ [$1/a$]")
    axes.set_title(f"$t$ = {frames.times[-1]:g} $\\hbar/t_\\mathrm{{nn}}${place}", fontsize=9)
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label=r"$\log_{10}\, S(q)$ [electrons$^2$/site]")
    return figure


@_styled
def correlations(path: Path, frames: Frames, found: OrderFrames) -> Figure:
    """``C(r)`` of the frames, and scaled by its value at zero and by the domain length."""
    figure = Figure(figsize=(7.6, 3.2))
    plain, scaled = figure.subplots(1, 2)
    lengths = [scalars[found.order.scalar("domain_length_half_height")] for scalars in frames.scalars]
    for time, row, length, colour in zip(frames.times, found.correlation, lengths, _shades(frames), strict=True):
        plain.plot(found.radii, row, color=colour, label=f"{time:g}")
        if np.isfinite(length) and length > 0:
            scaled.plot(found.radii / length, row / row[0], color=colour)
    plain.set(xlabel="$r$ [$a$]", ylabel="$C(r)$" if found.order.field == "density" else "$C(r)$ [$a^2$]")
    plain.legend(title=TIME, fontsize=7.5, title_fontsize=8)
    scaled.set(xlabel="$r / L$", ylabel="$C(r) / C(0)$", xlim=(0, 4))
    return figure


def _space_time(frames: Frames, order: Order) -> Figure:
    times, phi = np.array([time for time, _ in frames.history]), np.stack([one for _, one in frames.history])
    colours = Colours(order, phi)
    figure = Figure(figsize=(5.6, 3.8))
    axes = figure.add_subplot()
    wanted = np.linspace(times[0], times[-1], 400)
    shown = phi[np.abs(times[:, None] - wanted).argmin(axis=0)]
    raster = Raster(frames.lattice)
    pixels = np.stack([raster.picture(colours(one))[0] for one in shown], axis=1)  # [x, time]
    axes.imshow(pixels, origin="lower", aspect="auto", extent=(times[0], times[-1] or 1.0, *raster.box[:2]))
    axes.set(xlabel=TIME, ylabel="$x$ [$a$]")
    axes.grid(visible=False)
    colours.bar(figure, [axes])
    return figure


def _structure_lines(axes: Axes, frames: Frames, structure: Array) -> None:
    q = observables.wave_vectors(frames.lattice)[:, 0]
    rising, floor = np.argsort(q), 1e-6 * max(float(structure.max()), 1e-6)
    for time, values, colour in zip(frames.times, structure, _shades(frames), strict=True):
        axes.plot(q[rising], np.maximum(values[rising], floor), color=colour, label=f"{time:g}")
    axes.set(xlabel="$q$ [$1/a$]", ylabel="$S(q)$ [electrons$^2$/site]", yscale="log")
    axes.legend(title=TIME, fontsize=7.5, title_fontsize=8)


def _reciprocal_plane(frames: Frames) -> tuple[list[NDArray[np.int64]], float, str]:
    """Wave numbers of the pixels in a square around ``q = 0``, half of its side [1/a], and its place in three dimensions."""
    assert frames.structure is not None
    lattice, values = frames.lattice, frames.structure[-1]
    vectors, cells = np.asarray(lattice.vectors)[-2:, :2], np.array(lattice.extent[-2:])
    side = 1.15 * float(np.linalg.norm(2 * math.pi * np.linalg.inv(vectors), axis=0).max())
    q = (np.arange(_PIXELS) + 0.5) * (2 * side / _PIXELS) - side
    inside = np.rint(np.stack(np.meshgrid(q, q), axis=-1) @ vectors.T / (2 * math.pi) * cells).astype(np.int64)
    plane = [inside[..., 0], inside[..., 1]]
    if values.ndim == 2:
        return plane, side, ""
    layer = int(np.unravel_index(values.argmax(), values.shape)[0])
    height = observables.wave_vectors(lattice)[layer, 0, 0, 2]
    return [np.full_like(plane[0], observables.wave_numbers(lattice)[0][layer]), *plane], side, f", $q_z$ = {height:.3g} $/a$"


def _shades(frames: Frames) -> Array:
    """A colour for each frame, darker ones first."""
    return np.asarray(mpl.colormaps["viridis"](np.linspace(0, 0.88, len(frames.times))))


def _loglog(axes: Axes, times: Array, lengths: Array, label: str) -> bool:
    """Draw the points that a logarithm can show, with gaps where there is no length; whether there were any."""
    usable = (times > 0) & np.isfinite(lengths) & (lengths > 0)
    if usable.any():
        axes.plot(times, np.where(usable, lengths, np.nan), label=label)
    return bool(usable.any())


def _square_root_guide(axes: Axes, times: Array, lengths: Array) -> None:
    """``t^(1/2)``, the Allen-Cahn law, along the later half of a curve."""
    usable = (times > 0) & np.isfinite(lengths) & (lengths > 0)
    if usable.sum() > 2:
        late = times[usable] >= np.sqrt(times[usable][0] * times[usable][-1])  # of the logarithmic axis
        t, length = times[usable][late], lengths[usable][late]
        axes.plot(t, 0.8 * length[0] * np.sqrt(t / t[0]), color="0.5", linestyle=":", linewidth=1.0, label=r"$\propto t^{1/2}$")


_FIGURES: dict[str, Callable[..., None]] = {
    drawing.__name__: drawing for drawing in (maps, domain_growth, energies_and_temperature, structure_factor, correlations)
}
