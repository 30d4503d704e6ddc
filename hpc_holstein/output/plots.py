"""Figures of forces, training, spectra, scaling, and the look of all: units, colours that colour-blind readers tell apart."""

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
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from hpc_holstein.files import replaced
from hpc_holstein.interfaces import Lattice
from hpc_holstein.output.geometry import Raster
from hpc_holstein.output.spectrum import Curve

Array = NDArray[np.floating]
Parameters = ParamSpec("Parameters")
Points = tuple[Sequence[int], Sequence[Sequence[float]], Sequence[float]]

TIME = r"$t$ [$\hbar/t_\mathrm{nn}$]"
FORCE = r"[$t_\mathrm{nn}/a$]"
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
    """Histogram of ``|dF|`` over the sites: equal bins of its logarithm, and how many have more than a value."""
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
def error_map(path: Path, error: Array, lattice: Lattice, step: int, names: tuple[str, str]) -> Figure:
    """``|dF|`` of every site of one state ``[*cells, basis]``, on a logarithmic scale of at most eight decades."""
    figure = Figure(figsize=(4.4, 3.6))
    axes = figure.add_subplot()
    top = max(float(error.max()), _ROUND_OFF)
    low = min(max(float(error.min()), 1e-8 * top), 0.1 * top)
    raster = Raster(lattice)
    pixels = np.ma.masked_equal(raster.picture(np.maximum(error, low)), 0)
    image = axes.imshow(pixels, norm=LogNorm(low, top), cmap="magma", origin="lower", extent=raster.box)
    label_plane(axes, lattice)
    axes.set_title(f"{names[0]} against {names[1]}, step {step}", fontsize=9)
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
    panels["T"].set(ylabel=r"DOS [1/(state $t_\mathrm{nn}$)]")
    panels["I"].set(ylabel="integrated DOS [1/state]")
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


@_styled
def scaling(path: Path, lines: Mapping[str, Points]) -> Figure:
    """Site-steps/s with the ideal line, and efficiency, against ranks.

    lines   name -> ranks, rates ``[point, (median, least, largest)]`` and efficiencies
    """
    figure = Figure(figsize=(7.6, 3.4))
    speed, efficiency = figure.subplots(1, 2)
    for index, (name, (ranks, rates, efficient)) in enumerate(lines.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        median, least, largest = np.array(rates).T
        errors = np.maximum(0, [median - least, largest - median])
        speed.errorbar(ranks, median, yerr=errors, fmt="o", color=colour, label=name, capsize=2)
        speed.plot(ranks, median[0] * np.array(ranks) / ranks[0], color=colour, linewidth=0.8)
        efficiency.plot(ranks, 100 * np.array(efficient), "o-", color=colour, linewidth=0.8)
    efficiency.axhline(100, color="0.6", linewidth=0.9, zorder=0)
    efficiency.set(ylabel="efficiency [%]", ylim=(0, None))
    speed.set(ylabel="site-steps/s", yscale="log")
    every = sorted({rank for ranks, _, _ in lines.values() for rank in ranks})
    for axes in (speed, efficiency):
        axes.set_xscale("log", base=2)
        axes.set_xticks(every, [str(rank) for rank in every])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="ranks")
    figure.legend(loc="outside upper left", fontsize=7.5, title="points: measured; thin: ideal", title_fontsize=7.5)
    return figure


def label_plane(axes: Axes, lattice: Lattice) -> None:
    """Names of the axes of a picture of a lattice; a chain has one."""
    axes.set_xlabel("$x$ [$a$]")
    axes.grid(visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    if len(lattice.extent) == 1:
        axes.set(yticks=[], aspect="auto")
    else:
        axes.set_ylabel("$y$ [$a$]")
