r"""Quenches driven by a network against the same quenches driven by reference forces: correlations and order, with error bars.

    python benchmarks/quench_dynamics.py FOLDER benchmarks/records/quench_dynamics.json docs/figures/quench_dynamics.png

    python benchmarks/quench_dynamics.py FOLDER benchmarks/records/quench_dynamics-peierls.json peierls.png --reference exact \
        --preset paper-2510.20659 --model square --length 24 --steps 3000 --every 100

Each seed is run twice, from the same initial state and with the same noise: by the network and by the reference.  Compared are
the radial averages of ``C(r) = <phi_0 phi_r>`` at some times, in units of ``C(0)`` of the reference, and the order parameter:

    D(r, t) = [mean over seeds of C_network(r, t) - C_reference(r, t)] / mean C_reference(0, t)

with the standard error of that mean, and beside it that of ``C_reference`` itself, which says how much quenches differ anyhow.
Runs are kept in FOLDER and continued when the script is repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from force_rate import machine  # beside this file
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hpc_holstein.config import config_of_text
from hpc_holstein.config.builders import build_system
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.output.analysis import fields_of
from hpc_holstein.output.order import OrderScalars, default_orders, local_order
from hpc_holstein.storage.trajectory import open_trajectory

Array = NDArray[np.float64]
FIRST_SEED = 101
SIDES = ("reference", "network")


def run(folder: Path, seed: int, arguments: argparse.Namespace) -> None:
    """Both sides of one quench."""
    tolerance = ["--set", f"force.tolerance={arguments.tolerance:g}"] if arguments.reference == "kpm" else []
    forces = {"reference": ["--force", arguments.reference, *tolerance], "network": ["--force", arguments.model]}
    for side in SIDES:
        command = [sys.executable, "-m", "hpc_holstein", "run", "--preset", arguments.preset, *forces[side]]
        command += ["--lattice", f"{arguments.length}x{arguments.length}", "--steps", str(arguments.steps), "--seed", str(seed)]
        command += ["--set", f"output.snapshot_every={arguments.every}", "--output", str(folder / f"{side}-{seed}")]
        subprocess.run(command, check=True, stdout=sys.stderr)


def correlations(folder: Path) -> tuple[Array, Array, Array, Array, str]:
    """Times, radii, ``C(r) [time, radius]``, order parameter ``[time]`` of a run and the unit of that."""
    rows, parameter, times = [], [], []
    with open_trajectory(folder / "trajectory.h5") as trajectory:
        hamiltonian = build_system(config_of_text(str(trajectory.attributes["config"]))).hamiltonian
        order, transport = default_orders(hamiltonian)[0], SerialTransport()
        domain = CartesianDomain(hamiltonian.lattice, transport)
        measured = OrderScalars(domain, transport, [order])
        lengths = measured.lengths[order]
        for index in range(len(trajectory)):
            snapshot = trajectory.snapshot(index)
            density, q = fields_of(snapshot, hamiltonian)
            rows.append(lengths.correlation(local_order(order.values(density, q), order, domain)).numpy())
            parameter.append(measured(density, q)[order.scalar("order_parameter")])
            times.append(snapshot.time)
    unit = "electrons/site" if order.field == "density" else "a"
    return np.array(times), lengths.radii.numpy(), np.array(rows), np.array(parameter), unit


def standard_error(values: Array) -> Array:
    """Of the mean over the first axis."""
    result: Array = values.std(axis=0, ddof=1) / math.sqrt(len(values))
    return result


def compare(folder: Path, seeds: list[int]) -> dict[str, Any]:
    """What the record holds of all pairs."""
    found = {side: [correlations(folder / f"{side}-{seed}") for seed in seeds] for side in SIDES}
    times, radii, *_ = found["reference"][0]
    c, order = ({side: np.stack([one[part] for one in runs]) for side, runs in found.items()} for part in (2, 3))
    zero = c["reference"][:, :, 0].mean(axis=0)
    deviation = (c["network"] - c["reference"]) / zero[:, None]
    mean, error = deviation.mean(axis=0), standard_error(deviation)
    worst = np.abs(mean).argmax(axis=1)
    rows = []
    for k, time in enumerate(times):
        at = int(worst[k])
        rows.append(
            {
                "time": float(time),
                "largest_deviation": float(abs(mean[k, at])),
                "its_standard_error": float(error[k, at]),
                "its_radius": float(radii[at]),
                "standard_error_of_reference": float(standard_error(c["reference"][:, k] / zero[k])[at]),
                **{f"order_{side}": float(order[side][:, k].mean()) for side in SIDES},
                "order_difference_standard_error": float(standard_error(order["network"] - order["reference"])[k]),
                "correlation_reference": (c["reference"][:, k].mean(axis=0) / zero[k]).tolist(),
                "correlation_network": (c["network"][:, k].mean(axis=0) / zero[k]).tolist(),
                "correlation_reference_error": standard_error(c["reference"][:, k] / zero[k]).tolist(),
                "deviation_error": error[k].tolist(),
            }
        )
    return {"unit": found["reference"][0][4], "radii": radii.tolist(), "rows": rows}


def draw(record: dict[str, Any], path: Path) -> None:
    """Correlations at four times with error bars, and the largest deviation against time."""
    mpl.rcParams["font.size"] = 9
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    rows, radii = record["rows"], np.array(record["radii"])
    shown = [rows[k] for k in np.unique(np.linspace(1, len(rows) - 1, 4).round().astype(int))]
    for number, row in enumerate(shown):
        colour = f"C{number}"
        left.errorbar(
            radii, row["correlation_reference"], row["correlation_reference_error"], fmt="o", ms=2.5, lw=0.8, color=colour
        )
        left.plot(radii, row["correlation_network"], color=colour, label=f"t = {row['time']:g} $\\hbar/t_{{nn}}$")
    left.set(xlabel="distance $r$ [a]", ylabel="$C(r) / C(0)$", title="points: reference, lines: network")
    left.legend(frameon=False)
    times = [row["time"] for row in rows]
    middle.errorbar(
        times, [100 * r["largest_deviation"] for r in rows], [100 * r["its_standard_error"] for r in rows], fmt="o-"
    )
    middle.axhline(1, color="0.5", ls="--", label="1 %")
    middle.set(
        xlabel="time [$\\hbar/t_{nn}$]", ylabel="largest $|D(r, t)|$ [% of $C(0)$]", title="deviation of the mean $C(r)$"
    )
    middle.legend(frameon=False)
    for side, style in (("reference", "o"), ("network", "-")):
        right.plot(times, [r[f"order_{side}"] for r in rows], style, label=side)
    right.set(xlabel="time [$\\hbar/t_{nn}$]", ylabel=f"$|\\langle\\phi\\rangle|$ [{record['unit']}]", title="order parameter")
    right.legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the runs")
    parser.add_argument("record", type=Path, help="JSON record to write")
    parser.add_argument("figure", type=Path, help="figure to write")
    parser.add_argument("--seeds", type=int, default=8, help="quenches")
    parser.add_argument("--length", type=int, default=40, help="of the lattice")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--every", type=int, default=50, help="steps between two states that are compared")
    parser.add_argument("--model", default="neural", help="neural (that of the package), or a model file")
    parser.add_argument("--preset", default="paper-2601.04104")
    parser.add_argument("--reference", default="kpm", choices=("kpm", "exact"), help="who drives the quenches to compare with")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="of kpm")
    arguments = parser.parse_args()
    seeds = list(range(FIRST_SEED, FIRST_SEED + arguments.seeds))
    for seed in seeds:
        run(arguments.folder, seed, arguments)
    setting = {
        name: getattr(arguments, name) for name in ("preset", "reference", "length", "steps", "every", "model", "tolerance")
    }
    record = {
        "setting": {**setting, "seeds": seeds},
        "machine": machine(),
        **compare(arguments.folder, seeds),
    }
    arguments.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for row in record["rows"]:
        worst, error, scatter = (
            100 * row[name] for name in ("largest_deviation", "its_standard_error", "standard_error_of_reference")
        )
        print(f"t = {row['time']:5.1f}  C(r) off by {worst:.2f} +- {error:.2f} % at r = {row['its_radius']:.1f}", end="  ")
        print(f"(scatter {scatter:.2f} %), order {row['order_network']:.4f}, reference {row['order_reference']:.4f}")
    draw(record, arguments.figure)


if __name__ == "__main__":
    main()
