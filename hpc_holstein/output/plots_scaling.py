"""Figures of scaling benchmarks, in the look of :mod:`output.plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from hpc_holstein.output.plots import _COLOURS, _styled


@dataclass(frozen=True)
class Line:
    """One line of a sweep over ``ranks``: measured ``seconds`` of a step with the range of the repeats.

    efficiency      of each point, against the first one
    rates           site-steps/s
    parts           name -> seconds of that part of a step, at each point
    predicted       ranks, seconds and efficiency of the model; empty where there is none
    """

    name: str
    ranks: Sequence[int]
    seconds: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    efficiency: Sequence[float]
    rates: Sequence[float]
    parts: Mapping[str, Sequence[float]] = field(default_factory=dict)
    predicted: tuple[Sequence[int], Sequence[float], Sequence[float]] = ((), (), ())


@_styled
def strong(path: Path, lines: Sequence[Line]) -> Figure:
    """Speed-up with the ideal line, and efficiency, of sweeps of one lattice each."""
    figure = Figure(figsize=(7.6, 3.4))
    speed, efficiency = figure.subplots(1, 2)
    for line, colour in zip(lines, _cycled(len(lines)), strict=True):
        ranks = np.array(line.ranks)
        speed.plot(ranks, np.array(line.efficiency) * ranks / ranks[0], "o", color=colour, label=line.name)
        efficiency.plot(ranks, 100 * np.array(line.efficiency), "o", color=colour)
        predicted = np.array(line.predicted[0])
        if len(predicted):
            speed.plot(predicted, np.array(line.predicted[2]) * predicted / ranks[0], color=colour, linestyle="--")
            efficiency.plot(predicted, 100 * np.array(line.predicted[2]), color=colour, linestyle="--")
    every = [rank for line in lines for rank in (*line.ranks, *line.predicted[0])]
    for first in dict.fromkeys(line.ranks[0] for line in lines):
        ideal = np.array([first, max(every)])
        speed.plot(ideal, ideal / first, color="0.6", linewidth=0.9, zorder=0)
    speed.set(ylabel="speed-up against the fewest ranks")
    speed.set_yscale("log", base=2)
    speed.yaxis.set_major_formatter("{x:g}")
    efficiency.axhline(100, color="0.6", linewidth=0.9, zorder=0)
    efficiency.set(ylabel="efficiency [%]", ylim=(0, 110 * max(1.0, *(max(line.efficiency) for line in lines))))
    return _with_ranks(figure, (speed, efficiency), every, lines)


@_styled
def weak(path: Path, lines: Sequence[Line]) -> Figure:
    """Time of a step at a constant tile, with the range of its repeats, and efficiency."""
    figure = Figure(figsize=(7.6, 3.4))
    seconds, efficiency = figure.subplots(1, 2)
    for line, colour in zip(lines, _cycled(len(lines)), strict=True):
        median = 1e3 * np.array(line.seconds)
        error = np.maximum(0, [median - 1e3 * np.array(line.low), 1e3 * np.array(line.high) - median])
        seconds.errorbar(line.ranks, median, yerr=error, fmt="o", color=colour, label=line.name, capsize=2)
        seconds.axhline(float(median[0]), color="0.6", linewidth=0.9, zorder=0)
        efficiency.plot(line.ranks, 100 * np.array(line.efficiency), "o", color=colour)
        if len(line.predicted[0]):
            seconds.plot(line.predicted[0], 1e3 * np.array(line.predicted[1]), color=colour, linestyle="--")
            efficiency.plot(line.predicted[0], 100 * np.array(line.predicted[2]), color=colour, linestyle="--")
    seconds.set(ylabel="time of a step or an epoch [ms]", ylim=(0, None))
    efficiency.axhline(100, color="0.6", linewidth=0.9, zorder=0)
    efficiency.axhline(90, color="0.6", linewidth=0.9, linestyle=":", zorder=0)
    efficiency.set(ylabel="efficiency [%]", ylim=(0, 110 * max(1.0, *(max(line.efficiency) for line in lines))))
    every = [rank for line in lines for rank in (*line.ranks, *line.predicted[0])]
    return _with_ranks(figure, (seconds, efficiency), every, lines)


@_styled
def time_split(path: Path, lines: Sequence[Line]) -> Figure:
    """Parts of a step at each point, stacked, one panel a line."""
    figure = Figure(figsize=(max(4.6, 3.4 * len(lines)), 3.4))
    panels = figure.subplots(1, len(lines), squeeze=False).ravel()
    for panel, line in zip(panels, lines, strict=True):
        bottom, place = np.zeros(len(line.ranks)), np.arange(len(line.ranks))
        for (name, values), colour in zip(line.parts.items(), _cycled(len(line.parts)), strict=True):
            panel.bar(place, 1e3 * np.array(values), bottom=bottom, color=colour, label=name)
            bottom = bottom + 1e3 * np.array(values)
        panel.set(xlabel="ranks", ylabel="time of a step [ms]")
        panel.set_xticks(place, [f"{rank}" for rank in line.ranks])
        panel.set_title(line.name, fontsize=7.5)
        panel.grid(visible=False, axis="x")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=7.5)
    return figure


@_styled
def rates(path: Path, lines: Sequence[Line]) -> Figure:
    """Site-steps per second against ranks, with the ideal line of each."""
    figure = Figure(figsize=(5.2, 3.6))
    axes = figure.add_subplot()
    for line, colour in zip(lines, _cycled(len(lines)), strict=True):
        ranks = np.array([line.ranks[0], line.ranks[-1]])
        axes.plot(line.ranks, line.rates, "o", color=colour, label=line.name)
        axes.plot(ranks, line.rates[0] * ranks / ranks[0], color=colour, linewidth=0.8)
    axes.set(ylabel="sites of a step or an epoch [1/s]")
    axes.set_yscale("log")
    return _with_ranks(figure, (axes,), [rank for line in lines for rank in line.ranks], lines)


@_styled
def percent_of_ceilings(path: Path, rows: Sequence[tuple[str, float]]) -> Figure:
    """How near each kernel, ``(name, percent)``, comes to its yardstick."""
    figure = Figure(figsize=(6.4, 0.9 + 0.34 * len(rows)))
    axes = figure.add_subplot()
    place = np.arange(len(rows))[::-1]
    axes.barh(place, [percent for _, percent in rows], color=_COLOURS[0], height=0.6)
    axes.axvline(100, color="0.3", linewidth=0.9)
    axes.set_yticks(place, [name for name, _ in rows], fontsize=7.5)
    axes.set(xlabel="speed in percent of the yardstick", xscale="log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(visible=False, axis="y")
    return figure


def _with_ranks(figure: Figure, panels: Sequence[Axes], ranks: Sequence[int], lines: Sequence[Line]) -> Figure:
    """Logarithmic axes of ranks, and one legend."""
    ticks = sorted(set(ranks))
    if len(ticks) > 8:
        powers = [2**n for n in range(int(np.log2(ticks[-1])) + 1)]
        ticks = powers[:: -(-len(powers) // 7)]
    for axes in panels:
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{rank:g}" for rank in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="ranks")
    modelled = any(len(line.predicted[0]) for line in lines)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside upper left",
        fontsize=7.5,
        title="points: measured" + ("; dashed: model without output" if modelled else "") + "; thin: ideal",
        title_fontsize=7.5,
    )
    return figure


def _cycled(count: int) -> list[str]:
    return [_COLOURS[index % len(_COLOURS)] for index in range(count)]
