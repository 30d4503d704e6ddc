"""Figures of the record that ``accuracy.py`` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from _drawing import STYLE  # beside this file
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

REGIMES = ("all", "hot", "coarsening", "ordered")
FLOORS = {"all": (9.8e-5, 4.6e-6, 1.5e-7, 1.4e-9), "hot": (6.9e-4, 4.2e-5, 1.3e-6, 1.2e-8)}
"""Force MSE of ``hpc-holstein validate --input TEST.h5 --force local --reach R --reference labels`` for R = 1, 2, 3, 4."""

_COLOURS = {"all": "C0", "hot": "C3", "coarsening": "C1", "ordered": "C2"}
_BESIDE = {"left": (-6, -3), "right": (6, -3), "above": (0, 6), "below": (0, -11)}
_ALIGNED = {"left": "right", "right": "left", "above": "center", "below": "center"}
_PLACES = {"enn reach 1": "left"}
_PLACES |= {"enn reach 2": "above", "enn reach 3": "below"}
_UNIT = r"force MSE $[(t_{nn}/a)^2]$"


def draw(record: dict[str, Any], folder: Path) -> None:
    """``accuracy_cost.png``, ``accuracy_data.png`` and ``accuracy_reach.png`` in ``folder``."""
    with mpl.rc_context(STYLE):
        for name, panel in (("cost", _cost), ("data", _data), ("reach", _reach)):
            figure = Figure(figsize=(5.4, 3.8), layout="constrained")
            FigureCanvasAgg(figure)
            axes = figure.add_subplot()
            axes.set_yscale("log")
            axes.set_ylabel(_UNIT)
            panel(record, axes)
            figure.savefig(folder / f"accuracy_{name}.png", dpi=150)


def _cost(record: dict[str, Any], axes: Any) -> None:
    """Error of the whole test against measured time, a colour for each training budget."""
    times = record["time"]["ns_per_site"]
    rows = [entry for entry in record["results"].values() if entry["snapshots"] == 600]
    for colour, budget in enumerate(sorted({entry["budget"] for entry in rows})):
        chosen = [entry for entry in rows if entry["budget"] == budget]
        for ours, marker in ((True, "o"), (False, "s")):
            kept = [entry for entry in chosen if entry["network"].startswith("enn") == ours]
            x, y = [times[e["network"]] for e in kept], [e["test"]["all"]["mse"] for e in kept]
            kind = "enn" if ours else "others"
            axes.plot(
                x, y, marker, color=f"C{colour}", mfc=f"C{colour}" if ours else "w", label=f"{kind}, {budget:.0e} sites seen"
            )
            for name, a, b in zip([e["network"] for e in kept], x, y, strict=True):
                _named(axes, name.removeprefix("enn "), (a, b), _PLACES.get(name, "right"))
    models = [(times[e["network"]], e["test"]["all"]["mse"]) for e in record.get("models", {}).values()]
    axes.plot(*zip(*models, strict=True), "k*", ms=7, label="enn copies 4, trained for longer")
    _named(axes, "300 passes", models[0], "right")
    _named(axes, "packaged", models[-1], "right")
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel("time of one evaluation of a site on one core [ns]")
    axes.legend(fontsize=7)


def _named(axes: Any, name: str, point: tuple[float, float], place: str) -> None:
    """A label beside a point."""
    axes.annotate(name, point, _BESIDE[place], textcoords="offset points", fontsize=7, ha=_ALIGNED[place])


def _data(record: dict[str, Any], axes: Any) -> None:
    """Error against the number of snapshots, at one training budget."""
    rows = [e for e in record["results"].values() if e["network"] == "enn copies 4" and e["budget"] == 1e7]
    rows.sort(key=lambda entry: entry["snapshots"])
    for regime in REGIMES:
        line = [(e["snapshots"], e["test"][regime]["mse"]) for e in rows]
        axes.plot(*zip(*line, strict=True), "o-", color=_COLOURS[regime], label=regime)
    axes.set_xscale("log")
    axes.set_xlabel("labelled snapshots of 40x40")
    axes.legend(title="enn copies 4, 1e7 sites seen", fontsize=7, title_fontsize=7)


def _reach(record: dict[str, Any], axes: Any) -> None:
    """Error against reach, beside the diagonalization of the same neighbourhood."""
    rows = [e for e in record["results"].values() if e["network"].startswith(("enn reach", "enn copies 4"))]
    rows = [e for e in rows if e["budget"] == 1e7 and e["snapshots"] == 600]
    rows.sort(key=lambda entry: entry["reach"])
    for regime in REGIMES:
        line = [(e["reach"], e["test"][regime]["mse"]) for e in rows]
        axes.plot(*zip(*line, strict=True), "o-", color=_COLOURS[regime], label=f"enn copies 4, {regime}")
        if regime in FLOORS:
            axes.plot(range(1, 5), FLOORS[regime], "x--", color=_COLOURS[regime], label=f"floor, {regime}")
    axes.set_xlabel("reach [cells]")
    axes.set_xticks(range(1, 6))
    axes.legend(fontsize=7)


def tables(record: dict[str, Any]) -> str:
    """The same numbers as Markdown: error and 1 - R2 by regime."""
    head = f"| network | snapshots | sites seen | reach | weights | multiply-adds | ns/site | {' | '.join(REGIMES)} |"
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    entries = {**record["results"], **record.get("models", {})}
    for key, e in entries.items():
        about = [e.get(name, "") for name in ("snapshots", "budget", "reach", "weights", "multiply_adds")]
        name = e["network"] if "snapshots" in e else key
        ns = record["time"]["ns_per_site"][e["network"]]
        errors = [f"{e['test'][r]['mse']:.1e} ({1 - e['test'][r]['r2']:.0e})" for r in REGIMES]
        cells = [name, *(f"{a:.0e}" if isinstance(a, float) else str(a) for a in about), f"{ns:.0f}", *errors]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
