"""All figures: one look, axes with units, colours that colour-blind readers tell apart."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from hpc_holstein.files import replaced
from hpc_holstein.output.analysis import Frames
from hpc_holstein.output.spectrum import Curve

Array = NDArray[np.floating]
Parameters = ParamSpec("Parameters")

TIME = r"$t$ [$\hbar/t_\mathrm{nn}$]"
FORCE = r"[$t_\mathrm{nn}/a$]"
ENERGY = r"[$t_\mathrm{nn}$/site]"
_ROUND_OFF = 1e-16  # a force of order 1: what a logarithmic axis shows of no difference
_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]  # Okabe and Ito
_STYLE: Any = {
    "font.size": 9,
    "axes.prop_cycle": cycler(color=_COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "savefig.dpi": 160,
    "figure.constrained_layout.use": True,
}


def _styled(draw: Callable[Parameters, Figure]) -> Callable[Parameters, None]:
    """Draw in the style of the package and write, whole or not at all; the first argument is the path."""

    @functools.wraps(draw)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        path = Path(str(args[0]))
        with replaced(path) as temporary, mpl.rc_context(_STYLE):
            figure = draw(*args, **kwargs)
            FigureCanvasAgg(figure).print_figure(temporary, format=path.suffix.removeprefix(".") or "png")

    return wrapped


@_styled
def force_parity(
    path: Path, predicted: Array, reference: Array, metrics: Mapping[str, float | None], names: tuple[str, str]
) -> Figure:
    """Predicted against reference force of every site, as a logarithmic density; ``names`` of the two providers.

    ``metrics``: ``mse`` and ``r2``, which stand in the title.
    """
    figure = Figure(figsize=(4.2, 3.7))
    axes = figure.add_subplot()
    low, high = float(min(predicted.min(), reference.min())), float(max(predicted.max(), reference.max()))
    bins = axes.hexbin(reference.ravel(), predicted.ravel(), gridsize=90, bins="log", mincnt=1, cmap="viridis", linewidths=0.1)
    axes.plot([low, high], [low, high], color="0.35", linewidth=0.7, linestyle="--")
    axes.set(xlabel=f"{names[1]} force {FORCE}", ylabel=f"{names[0]} force {FORCE}", aspect="equal")
    shown = "" if metrics["r2"] is None else f",  $R^2$ = {metrics['r2']:.6f}"
    axes.set_title(f"MSE = {metrics['mse']:.2e} $(t_\\mathrm{{nn}}/a)^2${shown}", fontsize=9)
    figure.colorbar(bins, ax=axes, label="sites in a bin", shrink=0.8)
    return figure


@_styled
def force_errors(path: Path, steps: Array, mse: Array, regimes: Mapping[str, NDArray[np.bool_]]) -> Figure:
    """Mean squared force error of each snapshot against its step in the quench, coloured by the ``regimes [snapshot]``."""
    figure = Figure(figsize=(5.2, 3.2))
    axes = figure.add_subplot()
    shown = np.maximum(mse, _ROUND_OFF**2)
    rest = ~np.logical_or.reduce(list(regimes.values())) if regimes else np.ones(len(steps), dtype=bool)
    groups = {**regimes, **({"other" if regimes else "states": rest} if rest.any() else {})}
    for name, mask in groups.items():
        axes.plot(steps[mask], shown[mask], "o", markersize=3.5, alpha=0.8, label=name)
    axes.set_yscale("log" if mse.max() > _ROUND_OFF**2 else "linear")
    last = float(max(steps.max(), 1))
    axes.set(xlabel="step of the quench", ylabel=r"force MSE [$(t_\mathrm{nn}/a)^2$]", xlim=(-0.02 * last, 1.02 * last))
    axes.legend(fontsize=8)
    return figure


@_styled
def error_histogram(path: Path, errors: Array, names: tuple[str, str]) -> Figure:
    """How many sites have which ``|dF|``: equal bins of its logarithm, and how many have more than a value."""
    figure = Figure(figsize=(5.2, 3.2))
    axes = figure.add_subplot()
    positive = errors[errors > 0]
    if len(positive) == 0:
        axes.text(0.5, 0.5, "the forces are equal", transform=axes.transAxes, ha="center")
        axes.set_axis_off()
        return figure
    low, high = np.floor(np.log10(positive.min())), np.ceil(np.log10(positive.max()))
    edges = np.logspace(low, max(high, low + 1), int(8 * max(high - low, 1)) + 1)
    share = 1 / len(errors)
    axes.hist(
        positive, bins=edges.tolist(), weights=np.full(len(positive), share), color=_COLOURS[0], alpha=0.55, label="in a bin"
    )
    ordered = np.sort(positive)
    axes.step(ordered, share * np.arange(len(ordered), 0, -1), color=_COLOURS[1], label=r"larger than $|\Delta F|$")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel=rf"$|\Delta F|$ of {names[0]} against {names[1]} {FORCE}",
        ylabel="part of the forces",
    )
    axes.legend(fontsize=8)
    return figure


@_styled
def error_map(path: Path, error: Array, step: int, names: tuple[str, str]) -> Figure:
    """``|dF|`` of every site of one state ``[y, x]``, on a logarithmic scale of at most eight decades."""
    figure = Figure(figsize=(4.4, 3.6))
    axes = figure.add_subplot()
    top = max(float(error.max()), _ROUND_OFF)
    low = min(max(float(error.min()), 1e-8 * top), 0.1 * top)
    image = axes.imshow(np.maximum(error, low), norm=LogNorm(low, top), cmap="magma", origin="lower", interpolation="nearest")
    axes.set(xlabel="$x$ [$a$]", ylabel="$y$ [$a$]")
    axes.set_title(f"{names[0]} against {names[1]}, step {step}", fontsize=9)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label=rf"$|\Delta F|$ {FORCE}")
    return figure


@_styled
def error_budget(path: Path, parts: Sequence[tuple[str, float, float]], names: tuple[str, str]) -> Figure:
    """Root mean square and largest value of each part ``(name, rms, max)`` of an error, and of the whole."""
    figure = Figure(figsize=(5.6, 0.9 + 0.42 * len(parts)))
    axes = figure.add_subplot()
    place = np.arange(len(parts))[::-1]
    floor = 0.3 * min((rms for _, rms, _ in parts if rms > 0), default=_ROUND_OFF)
    for shift, index, label, colour in ((0.19, 2, "largest", _COLOURS[5]), (-0.19, 1, "rms", _COLOURS[0])):
        values = [max(float(part[index]), floor) for part in parts]
        axes.barh(place + shift, values, height=0.36, left=0, label=label, color=colour)
    axes.set_yticks(place, [name for name, _, _ in parts])
    axes.set(xscale="log", xlim=(floor, None), xlabel=rf"$|\Delta F|$ of {names[0]} against {names[1]} {FORCE}")
    axes.grid(visible=False, axis="y")
    axes.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return figure


@_styled
def order_maps(path: Path, frames: Frames) -> Figure:
    """Local CDW order of each frame: the two signs are the two ordered domains."""
    count = len(frames.times)
    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(2.5 * columns + 0.7, 2.5 * rows))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[count:]:
        panel.set_axis_off()
    for panel, time, phi in zip(panels, frames.times, frames.phi, strict=False):
        image = panel.imshow(phi, cmap="RdBu_r", vmin=-1, vmax=1, origin="lower", interpolation="nearest")
        panel.set_title(f"$t$ = {time:g} $\\hbar/t_\\mathrm{{nn}}$", fontsize=9)
        panel.set(xlabel="$x$ [$a$]", ylabel="$y$ [$a$]")
        panel.grid(visible=False)
    figure.colorbar(image, ax=panels.tolist(), label=r"local CDW order $\phi$", shrink=0.8)
    return figure


@_styled
def domain_growth(path: Path, series: Mapping[str, Array]) -> Figure:
    """Order parameter and domain length against time, both axes logarithmic for the length."""
    figure = Figure(figsize=(7.6, 3.2))
    order, length = figure.subplots(1, 2)
    order.plot(series["time"], series["order_parameter"])
    order.set(xlabel=TIME, ylabel=r"order parameter $|\langle\phi\rangle|$", ylim=(0, 1.05))
    labels = {
        "domain_length_inverse_moment": r"1 / first moment of $S(|q-K|)$",
        "domain_length_half_height": r"half height of $C(r)$",
        "domain_length_first_zero": r"first zero of $C(r)$",
    }
    drawn = [_loglog(length, series["time"], series[name], label) for name, label in labels.items()]
    length.set(xlabel=TIME, ylabel="domain length $L$ [$a$]")
    if any(drawn):
        length.set(xscale="log", yscale="log")
        for axis in (length.xaxis, length.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        _square_root_guide(length, series["time"], series["domain_length_inverse_moment"])
        length.legend(fontsize=7.5)
    return figure


@_styled
def energies_and_temperature(path: Path, series: Mapping[str, Array], kT: float) -> Figure:
    """Energies per site, those that are known, and the kinetic temperature against the bath."""
    figure = Figure(figsize=(7.6, 3.2))
    energy, temperature = figure.subplots(1, 2)
    for name in ("kinetic_energy", "classical_energy", "electronic_energy", "total_energy"):
        if np.isfinite(series[name]).any():
            energy.plot(series["time"], series[name], label=name.removesuffix("_energy"))
    energy.set(xlabel=TIME, ylabel=f"energy {ENERGY}")
    energy.legend(fontsize=8)
    temperature.plot(series["time"], series["kinetic_temperature"], label=r"kinetic, $m\langle v^2\rangle$")
    temperature.axhline(kT, color="0.3", linestyle="--", linewidth=0.9, label="bath")
    temperature.set(xlabel=TIME, ylabel=r"temperature $kT$ [$t_\mathrm{nn}$]", yscale="log")
    temperature.legend(fontsize=8)
    return figure


@_styled
def structure_factor(path: Path, frames: Frames) -> Figure:
    """``S(q)`` of the last frame over the Brillouin zone, on a logarithmic scale."""
    figure = Figure(figsize=(4.2, 3.5))
    axes = figure.add_subplot()
    values = frames.structure[-1]
    floor = max(float(values.max()) * 1e-6, 1e-12)
    half_y, half_x = np.pi / values.shape[0], np.pi / values.shape[1]
    box = (-half_x, 2 * np.pi - half_x, -half_y, 2 * np.pi - half_y)
    image = axes.imshow(np.log10(np.maximum(values, floor)), origin="lower", extent=box, cmap="magma", interpolation="nearest")
    ticks = ([0, np.pi, 2 * np.pi * (1 - 0.5 / max(values.shape))], ["0", r"$\pi$", r"$2\pi$"])
    axes.set_xticks(*ticks)
    axes.set_yticks(*ticks)
    axes.set(xlabel="$q_x$ [$1/a$]", ylabel="$q_y$ [$1/a$]")
    axes.set_title(f"$t$ = {frames.times[-1]:g} $\\hbar/t_\\mathrm{{nn}}$", fontsize=9)
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label=r"$\log_{10}\, S(q)$ [electrons$^2$/site]")
    return figure


@_styled
def correlations(path: Path, frames: Frames) -> Figure:
    """``C(r)`` of the frames, and scaled by its value at zero and by the domain length."""
    figure = Figure(figsize=(7.6, 3.2))
    plain, scaled = figure.subplots(1, 2)
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.88, len(frames.times)))
    lengths = [scalars["domain_length_half_height"] for scalars in frames.scalars]
    for time, row, length, colour in zip(frames.times, frames.correlation, lengths, colours, strict=True):
        plain.plot(frames.radii, row, color=colour, label=f"{time:g}")
        if np.isfinite(length) and length > 0:
            scaled.plot(frames.radii / length, row / row[0], color=colour)
    plain.set(xlabel="$r$ [$a$]", ylabel="$C(r)$")
    plain.legend(title=TIME, fontsize=7.5, title_fontsize=8)
    scaled.set(xlabel="$r / L$", ylabel="$C(r) / C(0)$", xlim=(0, 4))
    return figure


@_styled
def training_curve(path: Path, history: Sequence[Mapping[str, float]], baseline: float) -> Figure:
    """Loss on the training and validation sets against the epoch, and that of a prediction without training."""
    figure = Figure(figsize=(5.2, 3.4))
    axes = figure.add_subplot()
    epochs = [row["epoch"] for row in history]
    for name, label in (("training_mse", "training"), ("validation_mse", "validation"), ("best_mse", "best validation")):
        axes.semilogy(epochs, [row[name] for row in history], label=label, linestyle="--" if name == "best_mse" else "-")
    axes.axhline(baseline, color="0.45", linestyle=":", linewidth=1.0, label="baseline")
    for before, after in pairwise(history):
        if before["stage"] != after["stage"]:
            axes.axvline(before["epoch"], color="0.7", linewidth=0.8, label="electron number from here on")
    axes.set(xlabel="epoch", ylabel=r"loss [$(t_\mathrm{nn}/a)^2$]")
    axes.legend(fontsize=8)
    return figure


@_styled
def density_of_states(
    path: Path, energies: Array, curves: Mapping[str, Curve], local: Mapping[str, Array], mu: float
) -> Figure:
    """Density of states and its integral with their standard errors, and the local ones of chosen sites.

    ``curves``: ``dos`` and ``integrated``; ``local``: name of a site -> values; the part below ``mu``, if that is known, is
    shaded.
    """
    figure = Figure(figsize=(7.6, 5.6 if local else 3.2))
    panels = figure.subplot_mosaic("TI;LL" if local else "TI")
    for axes, curve in ((panels["T"], curves["dos"]), (panels["I"], curves["integrated"])):
        axes.fill_between(energies, curve.value - curve.error, curve.value + curve.error, alpha=0.35, linewidth=0)
        axes.plot(energies, curve.value, linewidth=0.8)
    panels["T"].fill_between(energies, 0, curves["dos"].value, where=energies < mu, color="0.85", linewidth=0, zorder=0)
    panels["T"].set(ylabel=r"DOS [1/(site $t_\mathrm{nn}$)]")
    panels["I"].set(ylabel="integrated DOS [1/site]")
    if local:
        for name, values in local.items():
            panels["L"].plot(energies, values, label=name, linewidth=0.8)
        panels["L"].set(ylabel=r"local DOS [1/$t_\mathrm{nn}$]")
        panels["L"].legend(title="site $(y, x)$", fontsize=7.5, title_fontsize=8)
    for axes in panels.values():
        axes.set(xlabel=r"energy $E$ [$t_\mathrm{nn}$]")
        if np.isfinite(mu):
            axes.axvline(mu, color="0.4", linestyle=":", linewidth=0.9)
    return figure


def _loglog(axes: Axes, times: Array, lengths: Array, label: str) -> bool:
    """Draw the points that a logarithm can show; whether there were any."""
    usable = (times > 0) & np.isfinite(lengths) & (lengths > 0)
    if usable.any():
        axes.plot(times[usable], lengths[usable], label=label)
    return bool(usable.any())


def _square_root_guide(axes: Axes, times: Array, lengths: Array) -> None:
    """``t^(1/2)``, the Allen-Cahn law, along the later half of a curve."""
    usable = (times > 0) & np.isfinite(lengths) & (lengths > 0)
    if usable.sum() > 2:
        late = times[usable] >= np.sqrt(times[usable][0] * times[usable][-1])  # of the logarithmic axis
        t, length = times[usable][late], lengths[usable][late]
        axes.plot(t, 0.8 * length[0] * np.sqrt(t / t[0]), color="0.5", linestyle=":", linewidth=1.0, label=r"$\propto t^{1/2}$")
