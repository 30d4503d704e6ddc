"""Seconds of one force evaluation against the number of sites: exact, kpm and local on one core, and where they cross.

    python benchmarks/force_cost.py benchmarks/records/force_cost.json docs/figures/force_cost.png

States are the hot start of the preset and an ordered one, canonical at half filling. As in a run, calls start from the chemical
potential of the one before; the first call, which compiles, is not counted. Seconds are processor time of one thread, which
is wall time where nothing else runs. Largest force errors are against exact diagonalization, where that was measured too. A
size whose call would take more than ``--limit`` seconds, judged from the size before, is left out. ``--plot`` draws a record
again. The mean ``crossings`` of kpm in float64 stand behind ``forces/auto.py``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _drawing  # beside this file
import matplotlib as mpl
import numpy as np
import torch
from force_rate import ENSEMBLE, SETTING, hamiltonian_options, machine  # beside this file
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray
from torch import Tensor

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.noise import NoiseField, Stream
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.forces import exact, kpm, local
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import State
from hpc_holstein.lattice import square

Row = dict[str, float]
STATES = ("hot", "ordered")
POWER = {"exact": 3.0, "kpm": 1.0, "local": 1.0}  # of the cost in the sites, to guess what the next size takes
_AMPLITUDE, _SPREAD = 6.25, 0.35  # of the ordered state: g / 2 = (k - 4 kappa) Q, and thermal motion at kT = 0.1
_FIT_FROM = {"exact": 500, "kpm": 4000, "local": 500}  # sites: below, other costs than the asymptotic one count


@dataclass(frozen=True)
class Case:
    """A provider with its options."""

    name: str
    module: Any
    options: Any
    dtype: torch.dtype

    @property
    def kind(self) -> str:
        return self.name.partition(" ")[0]


def cases() -> list[Case]:
    """Everything that is measured."""
    f32, f64 = torch.float32, torch.float64
    found = [Case("exact", exact, exact.Options(), f64)]
    for dtype, tolerance in ((f64, 1e-6), (f64, 1e-3), (f32, 1e-4), (f32, 1e-3)):
        label = f"kpm {tolerance:.0e} {'float32' if dtype == f32 else 'float64'}"
        found.append(Case(label, kpm, kpm.Options(tolerance=tolerance), dtype))
    for reach in (2, 3, 4):
        for core in (1, 4):
            options = local.Options(reach=reach, core=core)
            found.append(Case(f"local R={reach} core={core}", local, options, f64))
    return found


def coordinates(state: str, domain: CartesianDomain) -> Tensor:
    """``q [*cells, basis, 1]`` in float64, a function of the global site."""
    noise = NoiseField(0, Stream.INITIAL_Q, domain, dtype=torch.float64)(0)
    if state == "hot":
        return SETTING["initial"]["q_std"] * noise
    rows, columns = (torch.arange(n) for n in domain.lattice.extent)
    sign = 1 - 2 * ((rows[:, None] + columns) % 2).double()[..., None, None]
    return _AMPLITUDE * sign + _SPREAD * noise


def measure(case: Case, state: str, length: int, seconds: float, reference: Tensor | None) -> tuple[Row, Tensor]:
    """Best processor time of a warm call, over at least two calls and ``seconds``; and the force."""
    lattice = square.build((length, length))
    domain = CartesianDomain(lattice, SerialTransport())
    forces = case.module.build(
        case.options, holstein.build(holstein.Options(**hamiltonian_options()), lattice), domain, ENSEMBLE
    )
    at = State.at_rest(coordinates(state, domain).to(case.dtype))
    result = forces(at)
    times: list[float] = []
    walls: list[float] = []
    while len(times) < 2 or (sum(times) < seconds and len(times) < 50):
        wall, start = time.perf_counter(), time.process_time()
        result = forces(at.moved(forces=result))
        times.append(time.process_time() - start)
        walls.append(time.perf_counter() - wall)
    force = result.force.double()
    row = {"length": length, "sites": length**2, "calls": len(times), "seconds": min(times), "wall_seconds": min(walls)}
    if reference is not None:
        row["max_error"] = float((force - reference).abs().max())
    return {**row, **{f"info.{key}": value for key, value in result.info.items()}}, force


def sweep(arguments: argparse.Namespace) -> dict[str, dict[str, list[Row]]]:
    """``{state: {case: rows}}``."""
    found: dict[str, dict[str, list[Row]]] = {}
    for state in STATES:
        references: dict[int, Tensor] = {}
        found[state] = {}
        for case in cases():
            rows: list[Row] = []
            for length in sorted(arguments.sizes):
                if case.kind == "exact" and length > arguments.largest_exact:
                    break
                if rows and rows[-1]["seconds"] * (length / rows[-1]["length"]) ** (2 * POWER[case.kind]) > arguments.limit:
                    break
                row, force = measure(case, state, length, arguments.seconds, references.get(length))
                rows.append(row)
                if case.kind == "exact":
                    references[length] = force
                error = f"  max error {row['max_error']:.1e}" if "max_error" in row else ""
                print(f"{state:8s} {case.name:20s} {length:4d}^2  {row['seconds']:10.3e} s{error}", flush=True)
            found[state][case.name] = rows
    return found


def fit(name: str, rows: list[Row]) -> tuple[float, float] | None:
    """Exponent and prefactor of ``seconds = c N^p`` over the larger sizes; None for fewer than two of them."""
    kept = [row for row in rows if row["sites"] >= _FIT_FROM[name.partition(" ")[0]]]
    if len(kept) < 2:
        return None
    power, logarithm = np.polyfit(*(np.log([row[key] for row in kept]) for key in ("sites", "seconds")), 1)
    return float(power), float(math.exp(logarithm))


def seconds_at(name: str, rows: list[Row], sites: NDArray[np.float64]) -> NDArray[np.float64]:
    """Between the points on straight lines of the logarithms, beyond the last one along the fitted power."""
    x, y = (np.log([row[key] for row in rows]) for key in ("sites", "seconds"))
    power = (fit(name, rows) or (POWER[name.partition(" ")[0]], 0.0))[0]
    grid = np.log(sites)
    return np.exp(np.interp(grid, x, y) + power * np.maximum(grid - x[-1], 0))


def crossing(name: str, measured: dict[str, list[Row]]) -> float | None:
    """Sites from which on ``name`` is cheaper than exact; None where that is never."""
    grid = np.geomspace(100, 1e6, 20001)
    dearer = seconds_at("exact", measured["exact"], grid) <= seconds_at(name, measured[name], grid)
    last = int(np.flatnonzero(dearer)[-1]) if dearer.any() else -1
    return None if last + 1 >= len(grid) else float(grid[last + 1])


def crossings(measured: dict[str, dict[str, list[Row]]]) -> dict[str, dict[str, float | None]]:
    """Sites from which each case is cheaper than exact: by state, and the geometric mean of the states."""
    found: dict[str, dict[str, float | None]] = {}
    for name in next(iter(measured.values())):
        if name == "exact":
            continue
        found[name] = {state: crossing(name, rows) for state, rows in measured.items()}
        known = [sites for sites in found[name].values() if sites is not None]
        found[name]["mean"] = math.exp(float(np.mean(np.log(known)))) if len(known) == len(measured) else None
    return found


def draw(record: dict[str, Any], path: Path) -> None:
    """Cost against sites, a panel for each state, crossings with exact circled."""
    colours = {"exact": "#000000", "kpm": "#0072B2", "local": "#D55E00"}
    dashes, marks = ["-", "--", "-.", ":"], ["o", "s", "D", "^", "v", "x"]
    with mpl.rc_context(_drawing.STYLE):
        figure = Figure(figsize=(10.5, 5.2), layout="constrained")
        for axes, (state, measured) in zip(figure.subplots(1, 2, sharey=True), record["seconds"].items(), strict=True):
            seen = dict.fromkeys(colours, 0)
            for name, rows in measured.items():
                kind = name.partition(" ")[0]
                label = name
                if name in record["exponents"][state]:
                    label += f"  $N^{{{record['exponents'][state][name]:.2f}}}$"
                sites = record["crossings"].get(name, {}).get(state)
                if sites is not None:
                    label += f",  exact up to {sites:.0f}"
                    there = seconds_at(name, rows, np.array([sites]))
                    axes.plot([sites], there, "o", markersize=11, markerfacecolor="none", markeredgecolor=colours[kind])
                line = {"color": colours[kind], "linestyle": dashes[seen[kind] % 4], "marker": marks[seen[kind]]}
                x, y = ([row[key] for row in rows] for key in ("sites", "seconds"))
                axes.loglog(x, y, label=label, markersize=4, linewidth=1.2, **line)
                seen[kind] += 1
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set(xlabel="sites $N$", title=f"{state} state")
            axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
        figure.axes[0].set_ylabel("seconds per force, one core")
        path.parent.mkdir(parents=True, exist_ok=True)
        FigureCanvasAgg(figure).print_figure(path, dpi=160)


def main() -> None:
    parser = _drawing.parser(__doc__)
    sizes = [12, 16, 24, 32, 40, 48, 64, 96, 128, 192, 256]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes, help="lattice lengths, even numbers")
    parser.add_argument("--largest-exact", type=int, default=48, metavar="L", help="largest length of exact diagonalization")
    parser.add_argument("--seconds", type=float, default=0.5, help="measure each case at least this long")
    parser.add_argument("--limit", type=float, default=60.0, help="longest single call")
    arguments = _drawing.asked(parser)
    if not arguments.plot:
        torch.set_num_threads(1)
        setting = {"threads": 1, "ranks": 1, "ensemble": "canonical, half filling", "ordered": [_AMPLITUDE, _SPREAD]}
        measured = sweep(arguments)
        fits = {state: {name: fit(name, rows) for name, rows in each.items()} for state, each in measured.items()}
        exponents = {state: {name: one[0] for name, one in each.items() if one is not None} for state, each in fits.items()}
        record = {"benchmark": "force_cost", "machine": machine(), "setting": setting, "exponents": exponents}
        record |= {"crossings": crossings(measured), "seconds": measured}
        arguments.record.parent.mkdir(parents=True, exist_ok=True)
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")
    record = json.loads(arguments.record.read_text())
    draw(record, arguments.figure)
    for name, states in record["crossings"].items():
        told = ", ".join(f"{state} {'never' if sites is None else f'{sites:.0f}'}" for state, sites in states.items())
        print(f"{name:20s} cheaper than exact above sites: {told}")


if __name__ == "__main__":
    main()
