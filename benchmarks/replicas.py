"""Replicas of a quench in lock step, one evaluation of the forces for all, against one after another: site-steps per second.

    python benchmarks/replicas.py replicas.json

Both advance the same replicas of the preset by the same steps with the network that comes with the package, with scalars every
10 steps as in a run but without files, in one process, in turn, ``--repeats`` times; the best time of each counts (processor
time on a CPU, so that other work on the machine does not decide): from the hot start, where the chemical potential takes
several evaluations of the network a step, and after ``--relax`` steps; ``evaluations`` is their mean in the last step.
``largest_difference`` is that of ``q`` between the two after all steps, over all sites of all replicas: 0 is bit for bit.

Expected before it was measured, on one core (EXPECTED): a small lattice spends half of its step on calls and sums, which a
batch of 16 does once; at 100x100 the network is nearly everything, and costs as much for each site in a batch.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hpc_holstein.bench import record
from hpc_holstein.config import Config, load_config
from hpc_holstein.config.builders import build_simulation, initial_state
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.interfaces import State
from hpc_holstein.simulation import Lockstep, Recorder, Simulation, Summary

EXPECTED = {"20": 1.9, "40": 1.1, "100": 1.0}
"""Ratio of the rates on one core, by the length of the lattice."""

Ended = tuple[State, Summary]


class Replicas:
    """The replicas of one lattice; each start begins where the last measurement of its kind has ended."""

    def __init__(self, config: Config, count: int, device: str) -> None:
        self.config, self.count, self.device = config, count, device
        self.runs: list[Simulation] = []
        self.first: list[State] = []
        for seed in range(count):
            one = config.model_copy(update={"dynamics": config.dynamics.model_copy(update={"seed": seed})})
            self.runs.append(build_simulation(one, SerialTransport(), device))
            self.first.append(initial_state(one, self.runs[-1]))

    def together(self, states: list[State], steps: int) -> list[Ended]:
        """In lock step."""
        lockstep: Lockstep[Ended] = Lockstep(self.count)

        def work(run: Simulation, state: State) -> Ended:
            run.together = lockstep.join(self.runs[0].forces, self.runs[0].transport, self.count)
            return self._advance(run, state, steps)

        return lockstep.run([partial(work, run, state) for run, state in zip(self.runs, states, strict=True)])

    def in_turn(self, states: list[State], steps: int) -> list[Ended]:
        """One after another."""
        for run in self.runs:
            run.together = None
        return [self._advance(run, state, steps) for run, state in zip(self.runs, states, strict=True)]

    def _advance(self, run: Simulation, state: State, steps: int) -> Ended:
        return run.run(state, steps, Recorder(self.config.output.observables_every, run), [])

    def seconds(self, advance: Callable[[list[State], int], list[Ended]], states: list[State], steps: int) -> Any:
        """Time of all replicas, and how they ended."""
        now = time.perf_counter if self.device.startswith("cuda") else time.process_time
        start = now()
        ended = advance(states, steps)
        return now() - start, ended


def measure(length: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Hot, and after ``--relax`` steps, when the chemical potential has settled."""
    overrides: dict[str, Any] = {"lattice.extent": [length, length], "parallel.deterministic": arguments.deterministic}
    config = load_config(preset_name="paper-2601.04104", overrides=overrides)
    replicas = Replicas(config, arguments.replicas, arguments.device)
    hot = compare(replicas, replicas.first, f"{length}^2, hot", arguments)
    relaxed = [state for state, _ in replicas.together(replicas.first, arguments.relax)]
    return {"length": length, "hot": hot, "relaxed": compare(replicas, relaxed, f"{length}^2, relaxed", arguments)}


def compare(replicas: Replicas, start: list[State], name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both ways alternately from the same states; a first round starts everything that is compiled or kept."""
    ways = {"together": replicas.together, "in_turn": replicas.in_turn}
    states = dict.fromkeys(ways, start)
    best = dict.fromkeys(ways, float("inf"))
    for repeat in range(-1, arguments.repeats):
        for way, advance in ways.items():
            seconds, ended = replicas.seconds(advance, states[way], arguments.steps)
            states[way] = [state for state, _ in ended]
            best[way] = min(best[way], seconds) if repeat >= 0 else best[way]
    difference = max(float((a.q - b.q).abs().max()) for a, b in zip(*states.values(), strict=True))
    site_steps = start[0].q.numel() * arguments.replicas * arguments.steps
    rates = {way: site_steps / seconds for way, seconds in best.items()}
    ratio = rates["together"] / rates["in_turn"]
    print(
        f"{name}: together {rates['together']:.3e}, in turn {rates['in_turn']:.3e} site-steps/s, ratio {ratio:.2f}, largest "
        f"difference of q {difference:.1e}",
        flush=True,
    )
    compared = {"steps_compared": (arguments.repeats + 1) * arguments.steps, "largest_difference": difference}
    evaluations = [state.forces.info["evaluations"] for state in states["in_turn"] if state.forces is not None]
    compared["evaluations"] = sum(evaluations) / len(evaluations)
    return {"site_steps_per_s": rates, "ratio": ratio, **compared}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON record to write")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 40, 100], help="lattice lengths")
    parser.add_argument("--replicas", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20, help="of each repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--relax", type=int, default=300, help="steps before the second measurement")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--deterministic", action="store_true", help="as parallel.deterministic")
    arguments = parser.parse_args()
    if arguments.output.exists():
        parser.error(f"{arguments.output} exists: remove it or choose another file")
    torch.set_num_threads(1)
    setting = {name: getattr(arguments, name) for name in ("replicas", "steps", "repeats", "relax", "deterministic")}
    setting |= {"threads": 1, "ranks": 1, "dtype": "mixed", "force": "neural, the model of the package"}
    written = {
        "benchmark": "replicas",
        "machine": record.machine(arguments.device, 1, os.cpu_count() or 1, None),
        "setting": setting,
        "expected_ratio": EXPECTED,
        "sizes": [measure(length, arguments) for length in arguments.sizes],
    }
    arguments.output.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
