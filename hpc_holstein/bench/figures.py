"""The figures of a report, from its lines and models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hpc_holstein.bench.groups import Group
from hpc_holstein.bench.model import Model, Point
from hpc_holstein.bench.report import Report
from hpc_holstein.bench.step import PARTS
from hpc_holstein.output import plots_scaling
from hpc_holstein.output.plots_scaling import Line

_CURVE = 25  # points of a model's curve


def draw(report: Report, folder: Path, predicted: Sequence[int] = ()) -> list[Path]:
    """The figures that the records allow, in ``folder``; their paths."""
    drawn = []
    for kind, plot in (("strong", plots_scaling.strong), ("weak", plots_scaling.weak)):
        groups = [group for group in report.groups if group.benchmark == kind]
        if groups:
            plot(folder / f"{kind}.png", [_line(group, report.model_of(group), predicted) for group in groups])
            drawn.append(folder / f"{kind}.png")
    lines = [_line(group, None, ()) for group in report.groups]
    if lines:
        plots_scaling.rates(folder / "rates.png", lines)
        drawn.append(folder / "rates.png")
    split = [line for line in lines if line.parts]
    if split:
        plots_scaling.time_split(folder / "time_split.png", split)
        drawn.append(folder / "time_split.png")
    rows = [
        (f"{row['name']}\nagainst {row['yardstick']}, {record.ranks} rank(s)", 100 / row["times"])
        for record in report.tables
        for row in record.result["rows"]
    ]
    if rows:
        plots_scaling.percent_of_ceilings(folder / "ceilings.png", rows)
        drawn.append(folder / "ceilings.png")
    return drawn


def names(report: Report) -> list[str]:
    """Files that :func:`draw` writes."""
    kinds = [kind for kind in ("strong", "weak") if any(group.benchmark == kind for group in report.groups)]
    split = ["time_split"] * any(group.first.result["parts"] for group in report.groups)
    return [f"{name}.png" for name in [*kinds, *["rates"] * bool(report.groups), *split, *["ceilings"] * bool(report.tables)]]


def _line(group: Group, model: Model | None, predicted: Sequence[int]) -> Line:
    seconds = [record.result["seconds"] for record in group.records]
    with_parts = bool(group.first.result["parts"])
    return Line(
        name=f"{group.name} ({group.first.machine['host']})",
        ranks=group.ranks,
        seconds=[value["median"] for value in seconds],
        low=[value["min"] for value in seconds],
        high=[value["max"] for value in seconds],
        efficiency=group.efficiency,
        rates=[record.result["site_steps_per_second"]["median"] for record in group.records],
        parts={name: [record.part(name) for record in group.records] for name in PARTS} if with_parts else {},
        predicted=((), (), ()) if model is None else _curve(group, model, predicted),
    )


def _curve(group: Group, model: Model, predicted: Sequence[int]) -> tuple[list[int], list[float], list[float]]:
    """Ranks, seconds and efficiency of the model along a line, without output as all that it says."""
    first = group.first
    last = max(group.ranks[-1], *predicted) if predicted else group.ranks[-1]
    ranks = sorted({round(value) for value in np.geomspace(first.ranks, last, _CURVE)})
    strong = group.benchmark == "strong"
    evaluations = Point.of(first).evaluations
    seconds, efficiency = [], []
    for count in ranks:
        sites = first.setting["sites"] if strong else first.sites_per_rank * count
        seconds.append(model.seconds(sites / count, count, evaluations))
        efficiency.append(sites / seconds[-1] / count)
    return ranks, seconds, [rate / efficiency[0] for rate in efficiency]
