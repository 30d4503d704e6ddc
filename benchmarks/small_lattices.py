"""Error of a network on lattices of few cells, the part of the lattice in it, and the chemical potential.

    python benchmarks/small_lattices.py RECORD.json [--model MODEL] [--quenches 4] [--seed 1]

On a lattice smaller than its window a network takes one site for several, so that at its best it gives the forces of an
infinite lattice, filled periodically with the state.  On states along quenches that exact forces drive, and on random ones, in
(t_nn/a)^2:

    network    force of the network against exact diagonalization, each at the chemical potential that it finds
    lattice    exact force of the state repeated to at least 18 cells a side against that of the state: the error of a perfect
               network, which no training removes

Commands refuse a network on lattices below its window; this script makes the same forces without asking.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from force_rate import machine  # beside this file

from hpc_holstein.config import load_config
from hpc_holstein.config.builders import build_integrator, build_system, forces_maker
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.forces import exact
from hpc_holstein.forces._exact import ExactForces
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.interfaces import State
from hpc_holstein.network.checkpoint import load_model
from hpc_holstein.network.packaged import model_path
from hpc_holstein.training.paths import QuenchPlan, even_steps, quench_snapshots
from hpc_holstein.training.regimes import Regimes

EXTENTS = ((4, 4), (6, 6), (6, 8), (8, 8), (9, 9), (10, 10), (12, 12))
WIDTHS = (5.27, 2.0, 1.0, 0.3)  # of random states; the first is the start of the quench
RANDOM = 20  # random states of a width
WHOLE = 18  # cells a side of a repeated state, at least
Extent = tuple[int, ...]


@cache
def providers(extent: Extent, model: str | None) -> NeuralForces | ExactForces:
    """A network, or exact diagonalization, on a lattice of any extent."""
    system = build_system(load_config(None, "paper-2601.04104", {"lattice.extent": list(extent)}))
    domain = CartesianDomain(system.lattice, SerialTransport())
    if model is None:
        return exact.build(exact.Options(), system.hamiltonian, domain, system.ensemble)
    module, _ = load_model(model_path(model), system.lattice)
    with patch("hpc_holstein.forces._neural.require_supported"):  # which refuses what is measured here
        return NeuralForces(module, system.hamiltonian, domain, system.ensemble)


def errors(q: torch.Tensor, model: str) -> dict[str, float]:
    """Mean square errors of a state ``[y, x, 1, 1]``, and how far the network is off with the chemical potential."""
    extent, times = tuple(q.shape[:2]), -(-WHOLE // min(q.shape[:2]))
    reference = providers(extent, None)(State.at_rest(q))
    found = providers(extent, model)(State(q=q, velocity=torch.zeros_like(q), forces=reference))
    repeated = q.repeat(times, times, 1, 1)
    whole = providers(tuple(repeated.shape[:2]), None)(State.at_rest(repeated)).force[: extent[0], : extent[1]]
    return {
        "network": float((found.force - reference.force).square().mean()),
        "lattice": float((whole - reference.force).square().mean()),
        "mu": float(found.chemical_potential - reference.chemical_potential) ** 2,
    }


def states(extent: Extent, quenches: int, seed: int) -> Iterator[tuple[str, torch.Tensor]]:
    """States by their regime: along quenches driven by exact forces, every 40 of 2,000 steps, and random ones."""
    config = load_config(None, "paper-2601.04104", {"lattice.extent": list(extent), "force.kind": "exact"})
    system, start = build_system(config), config.initial
    assert start.q_std is not None
    plan = QuenchPlan(
        count=quenches,
        steps=even_steps(2000, 40),
        q_std=start.q_std,
        velocity_std=start.velocity_std,
        seed=seed,
        integrator=build_integrator(config, system),
        make_forces=forces_maker(system, config.force),
        path="exact",
    )
    regimes = Regimes(system.lattice)
    for q in quench_snapshots(plan, system.lattice, SerialTransport()).fields():
        yield regimes.of(q) or "quench", q
    draw = np.random.default_rng(seed)
    for width in WIDTHS:
        for _ in range(RANDOM):
            yield f"random {width}", torch.from_numpy(width * draw.normal(size=(*extent, 1, 1)))


def row(extent: Extent, model: str, quenches: int, seed: int) -> dict[str, Any]:
    """Errors of one extent by regime: means over states; ``mu`` rms [t_nn]."""
    by_regime: dict[str, list[dict[str, float]]] = {}
    for regime, q in states(extent, quenches, seed):
        by_regime.setdefault(regime, []).append(errors(q, model))

    def mean(found: Sequence[dict[str, float]], name: str) -> float:
        return float(np.mean([one[name] for one in found]))

    return {
        regime: {
            "states": len(found),
            "network": mean(found, "network"),
            "lattice": mean(found, "lattice"),
            "lattice_worst": max(one["lattice"] for one in found),
            "mu": mean(found, "mu") ** 0.5,
        }
        for regime, found in by_regime.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--quenches", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for extent in EXTENTS:
        name = "x".join(map(str, extent))
        rows[name] = row(extent, args.model, args.quenches, args.seed)
        for regime, found in rows[name].items():
            numbers = ", ".join(f"{key} {value:.2e}" for key, value in found.items() if key != "states")
            print(f"{name}, {regime} ({found['states']} states): {numbers}", flush=True)
    settings = {"quenches": args.quenches, "seed": args.seed, "random": RANDOM, "unit": "(t_nn/a)^2"}
    content = {"benchmark": "small_lattices", **settings, "machine": machine(), "rows": rows}
    args.record.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
