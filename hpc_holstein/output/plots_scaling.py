"""The figure of scaling benchmarks, in the look of :mod:`output.plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from hpc_holstein.output.plots import _COLOURS, _styled

Points = tuple[Sequence[int], Sequence[Sequence[float]], Sequence[float]]


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
