"""How well NVE dynamics keeps its energy: exact forces, a direct network and one whose force is a gradient.

    python benchmarks/energy_drift.py record.json figure.png --direct enn.safetensors --energy enn_energy.safetensors

Velocity Verlet (``gamma = 0``) at the preset, canonical at half filling, from two states of a quench with exact forces: hot
(after 20 steps) and ordered (after ``--relax`` steps).  The energy per site is kinetic + classical + Omega + mu N, with

    conserved   the ``Omega`` of the force provider itself, which its own dynamics should keep,
    exact       the ``Omega`` of exact diagonalization at the states of its trajectory, every ``--every`` steps:
                what a thermostat would see.

A direct network has no energy of its own.  ``drift`` is the slope of a straight line through the energies [t_nn per site and
unit of time], ``largest`` the largest deviation from the start [t_nn per site].  Kinetic energy per site is of the order of
``kT / 2 = 0.05`` in equilibrium.  ``--plot`` draws a record again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import _drawing  # beside this file
import matplotlib as mpl
import numpy as np
import torch
from force_rate import ENSEMBLE, SETTING, hamiltonian_options, machine  # beside this file
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hpc_holstein import dynamics
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.noise import NoiseField, Stream
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.forces import exact, neural
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import ForceProvider, State
from hpc_holstein.lattice import square
from hpc_holstein.output.observables import energies

HOT_STEPS = 20
COLOURS = {"exact": "#000000", "direct": "#D55E00", "energy": "#0072B2"}
DYNAMICS = {name: SETTING["dynamics"][name] for name in ("mass", "gamma", "dt")}


class Bench:
    """Lattice, providers and states that all measurements share."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        lattice = square.build((arguments.length, arguments.length))
        self.domain = CartesianDomain(lattice, SerialTransport())
        self.hamiltonian = holstein.build(holstein.Options(**hamiltonian_options()), lattice)
        self.exact = exact.build(exact.Options(), self.hamiltonian, self.domain, ENSEMBLE)

    def network(self, path: Path) -> ForceProvider:
        """Of a model file, in float64 with ``mu`` solved for in each step: round-off and ``mu`` add nothing to the drift."""
        return neural.build(neural.Options(model=str(path), following=0.0), self.hamiltonian, self.domain, ENSEMBLE)

    def states(self) -> dict[str, State]:
        """Along one quench with exact forces, noise and friction of the preset."""
        seed = self.arguments.seed
        streams = (Stream.INITIAL_Q, Stream.INITIAL_VELOCITY, Stream.DYNAMICS)
        q, velocity, noise = (NoiseField(seed, stream, self.domain, dtype=torch.float64) for stream in streams)
        initial = SETTING["initial"]
        scheme = dynamics.build("verlet-ou", kT=ENSEMBLE.kT, **DYNAMICS)
        state = scheme.init(State(initial["q_std"] * q(0), initial["velocity_std"] * velocity(0)), self.exact)
        found = {}
        for step in range(1, self.arguments.relax + 1):
            state = scheme.step(state, self.exact, noise)
            if step in (HOT_STEPS, self.arguments.relax):
                found["hot" if step == HOT_STEPS else "ordered"] = State(state.q, state.velocity)
        return found

    def total(self, state: State) -> float | None:
        """Conserved energy per site of a state with forces, None where these have no energy."""
        found = energies(state, DYNAMICS["mass"], self.hamiltonian, self.domain, ENSEMBLE).get("total")
        return None if found is None else float(found)

    def trajectory(self, forces: ForceProvider, start: State) -> dict[str, Any]:
        """Energies along NVE dynamics, and the processor time of a step."""
        arguments = self.arguments
        scheme = dynamics.build("verlet-ou", DYNAMICS["mass"], 0.0, DYNAMICS["dt"], ENSEMBLE.kT)
        state = scheme.init(start, forces)
        rows: list[tuple[float, float | None, float]] = []
        spent = 0.0
        for step in range(arguments.steps + 1):
            if step % arguments.every == 0:
                truth = self.total(state if forces is self.exact else state.moved(forces=self.exact(state)))
                assert truth is not None
                rows.append((step * DYNAMICS["dt"], self.total(state), truth))
            began = time.process_time()
            state = scheme.step(state, forces, torch.zeros)  # without friction no noise is drawn
            spent += time.process_time() - began
        times, own, truth = ([row[i] for row in rows] for i in range(3))
        found: dict[str, Any] = {"time": times, "exact": _measures(times, truth) | {"energy": truth}}
        if own[0] is not None:
            found["conserved"] = _measures(times, own) | {"energy": own}
        return {**found, "seconds_per_step": spent / (arguments.steps + 1)}


def _measures(times: list[float], values: list[float]) -> dict[str, float]:
    """Slope of a straight line, and the largest deviation from the start."""
    slope = np.polyfit(times, values, 1)[0]
    return {"drift": float(slope), "largest": float(np.abs(np.asarray(values) - values[0]).max())}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The record without its header."""
    bench = Bench(arguments)
    providers: dict[str, ForceProvider] = {"exact": bench.exact}
    providers |= {name: bench.network(getattr(arguments, name)) for name in ("direct", "energy")}
    found: dict[str, Any] = {}
    for state, start in bench.states().items():
        found[state] = {}
        for name, forces in providers.items():
            row = found[state][name] = bench.trajectory(forces, start)
            told = ", ".join(
                f"{key} drift {row[key]['drift']:+.2e}, largest {row[key]['largest']:.2e}"
                for key in ("conserved", "exact")
                if key in row
            )
            print(f"{state:8s} {name:7s} {told}", flush=True)
    return found


def draw(record: dict[str, Any], path: Path) -> None:
    """Deviation of both energies from the start against time, a panel for each state."""
    with mpl.rc_context(_drawing.STYLE):
        figure = Figure(figsize=(9.5, 3.8), layout="constrained")
        for axes, (state, rows) in zip(figure.subplots(1, 2), record["trajectories"].items(), strict=True):
            for name, row in rows.items():
                for kind, line in (("exact", "-"), ("conserved", "--")):
                    if kind in row and not (name == "exact" and kind == "conserved"):
                        energy = np.asarray(row[kind]["energy"])
                        label = f"{name}: {'its own' if kind == 'conserved' else 'exact'} energy"
                        axes.plot(row["time"], energy - energy[0], line, color=COLOURS[name], label=label, linewidth=1.2)
            axes.set(xlabel=r"time  [$\hbar/t_{nn}$]", title=f"{state} state")
            axes.set_yscale("symlog", linthresh=1e-4)
        figure.axes[0].set_ylabel("energy per site minus that of the start  [$t_{nn}$]")
        figure.axes[0].legend(fontsize=7)
        path.parent.mkdir(parents=True, exist_ok=True)
        FigureCanvasAgg(figure).print_figure(path, dpi=160)


def main() -> None:
    parser = _drawing.parser(__doc__)
    parser.add_argument("--direct", type=Path, help="model file of a network that predicts the density")
    parser.add_argument("--energy", type=Path, help="model file of a network that predicts the grand potential")
    parser.add_argument("--length", type=int, default=24, metavar="L", help="L x L lattice")
    parser.add_argument("--steps", type=int, default=2000, help="steps of NVE dynamics")
    parser.add_argument("--relax", type=int, default=1000, help="steps of the quench to the ordered state")
    parser.add_argument("--every", type=int, default=20, help="steps between two exact energies")
    parser.add_argument("--seed", type=int, default=5, help="of the quench")
    arguments = _drawing.asked(parser)
    if not arguments.plot:
        if arguments.direct is None or arguments.energy is None:
            parser.error("two networks are compared: give --direct FILE and --energy FILE")
        torch.set_num_threads(1)
        setting = {**DYNAMICS, "gamma": 0.0, "kT": ENSEMBLE.kT, "dtype": "float64", "threads": 1}
        setting |= {name: getattr(arguments, name) for name in ("length", "steps", "relax", "every", "seed")}
        record = {"benchmark": "energy_drift", "machine": machine(), "setting": setting, "trajectories": measure(arguments)}
        arguments.record.parent.mkdir(parents=True, exist_ok=True)
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")
    draw(json.loads(arguments.record.read_text()), arguments.figure)


if __name__ == "__main__":
    main()
