"""Rates at which the checks of a card miss states with wrong forces, and flag states with right ones.

    python benchmarks/trust.py RECORD.json [--model MODEL] [--lattice 24] [--seed 1] [--quick]

The true error is that of the force against exact diagonalization, with the network at the chemical potential that it finds.  A
state is bad where the rms error over its sites is more than ten times the validation rms on the card.  It is flagged

by the surroundings   where the part of sites in unfamiliar surroundings is beyond what the card calls usual
by the range          where a site lies outside of the range of the field

The states: random fields, patterns of many sorts and amplitudes, bare and with noise, at several fillings; single defects;
and states along quenches (driven by the atomic limit) at the parameters of the training and at others.  All are judged with
the electrons of the model.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from force_rate import machine  # beside this file
from numpy.typing import NDArray

from hpc_holstein.config import load_config
from hpc_holstein.config.builders import build_integrator, build_system, forces_maker
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.forces import exact, neural
from hpc_holstein.forces._exact import ExactForces
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.network.checkpoint import read_card
from hpc_holstein.network.field_range import outside
from hpc_holstein.network.packaged import model_path
from hpc_holstein.training.paths import QuenchPlan, quench_snapshots

_PRESET = "paper-2601.04104"
_BAD = 10.0  # times the rms error on the card
_QUENCHES: dict[str, dict[str, Any]] = {
    "of the preset": {},
    "g = 2": {"hamiltonian.g": 2.0},
    "kT = 0.5": {"ensemble.kT": 0.5},
    "kappa = -0.1": {"hamiltonian.kappa": -0.1},
    "k = 3": {"hamiltonian.k": 3.0},
    "filling 0.3": {"ensemble.filling": 0.3},
    "q_std = 1": {"initial.q_std": 1.0},
}


class Case(NamedTuple):
    """A state: its family, what it is, ``q [y, x]`` and the filling."""

    family: str
    name: str
    q: NDArray[np.float64]
    filling: float = 0.5


def cases(cells: int, seed: int, quick: bool) -> Iterator[Case]:
    """All states of ``cells`` x ``cells`` sites, a multiple of 12."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:cells, :cells]
    checkerboard = (-1.0) ** (x + y)

    def noise(width: float) -> NDArray[np.float64]:
        return width * draw.normal(size=(cells, cells))

    patterns = {
        "checkerboard": checkerboard,
        "quarter-filled pattern": np.where((x % 2 == 0) & (y % 2 == 0), 1.0, -1.0),
        "stripes of 1": (-1.0) ** x,
        "stripes of 2": (-1.0) ** (x // 2),
        "stripes of 3": (-1.0) ** (x // 3),
        "diagonal stripes of 2": (-1.0) ** ((x + y) // 2),
        "period 3": np.where(x % 3 == 0, 1.0, -1.0),
        "diagonal period 3": np.where((x + y) % 3 == 0, 1.0, -1.0),
        "period 4": np.where(x % 4 == 0, 1.0, -1.0),
        "two domains": checkerboard * np.where(x < cells // 2, 1, -1),
        "random signs": draw.choice([-1.0, 1.0], size=(cells, cells)),
        "one wave": np.cos(2 * np.pi * x / cells),
        "two waves": np.cos(4 * np.pi * x / cells) * np.cos(4 * np.pi * y / cells),
    }
    amplitudes, widths = ((3.0,), (0.1,)) if quick else ((0.5, 1.0, 2.0, 3.0, 4.5, 7.0), (0.0, 0.1, 0.5))
    for name, pattern in patterns.items():
        for amplitude in amplitudes:
            for width in widths:
                yield Case(name, f"amplitude {amplitude}, noise {width}", amplitude * pattern + noise(width))
    for width in (0.2, 5.27) if quick else (0.1, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 4.0, 5.27, 7.0, 10.0):
        yield Case("random", f"standard deviation {width}", noise(width))
    if quick:
        return
    for filling in (0.25, 1 / 3, 0.4):
        for name in ("quarter-filled pattern", "checkerboard", "period 3", "random signs"):
            for amplitude in (1.0, 2.0, 3.0, 4.5):
                told = f"{name} of amplitude {amplitude} at filling {filling:.2f}"
                yield Case("other fillings", told, amplitude * patterns[name] + noise(0.1), filling)
        for width in (1.0, 3.0, 5.27):
            yield Case("other fillings", f"random, standard deviation {width}, at filling {filling:.2f}", noise(width), filling)
    for shift in (0.5, 2.0, 8.0):
        yield Case("shifted", f"checkerboard of 3 moved by {shift}", 3 * checkerboard + shift + noise(0.2))
        yield Case("shifted", f"random, standard deviation 5.27, moved by {shift}", noise(5.27) + shift)
    for value in (-40.0, -15.0, 8.0, 15.0, 40.0):
        for name, field in (("checkerboard of 3.3", 3.3 * checkerboard + noise(0.2)), ("hot state", noise(5.27))):
            field[cells // 2, cells // 2] = value
            yield Case("one defect", f"Q = {value} in a {name}", field)


def along_quenches(cells: int, seed: int) -> Iterator[Case]:
    """States along quenches at the parameters of the training and at others."""
    for name, changes in _QUENCHES.items():
        config = load_config(None, _PRESET, {"lattice.extent": [cells, cells], "force.kind": "atomic", **changes})
        system = build_system(config)
        assert config.initial.q_std is not None
        plan = QuenchPlan(
            count=2,
            steps=(0, 20, 60),
            q_std=config.initial.q_std,
            velocity_std=config.initial.velocity_std,
            seed=seed,
            integrator=build_integrator(config, system),
            make_forces=forces_maker(system, config.force),
            path="atomic",
        )
        made = quench_snapshots(plan, system.lattice, SerialTransport())
        for q, step in zip(made.q, made.step, strict=True):
            yield Case(f"quench, {name}", f"step {step}", q, config.ensemble.filling)


@cache
def providers(cells: int, filling: float, model: str) -> tuple[NeuralForces, ExactForces]:
    """The network and the reference."""
    system = build_system(load_config(None, _PRESET, {"lattice.extent": [cells, cells]}))
    domain, ensemble = CartesianDomain(system.lattice, SerialTransport()), Ensemble("canonical", system.ensemble.kT, filling)
    network = neural.build(neural.Options(model=model), system.hamiltonian, domain, ensemble)
    return network, exact.build(exact.Options(), system.hamiltonian, domain, ensemble)


def judged(case: Case, model: str) -> dict[str, Any]:
    """The error and what the checks say of it."""
    network, reference = providers(len(case.q), case.filling, model)
    domain = network.domain
    assert network.surroundings is not None
    state = State.at_rest(torch.as_tensor(case.q)[..., None, None])
    state = state.moved(forces=network(state))
    assert state.forces is not None
    error = (state.forces.force - reference(state).force)[..., 0]
    field = network.field(state)
    unfamiliar = network.surroundings.unfamiliar(field, domain)
    squares = error.square()
    return {
        "family": case.family,
        "state": case.name,
        "rms_error": math.sqrt(float(squares.mean())),
        "largest_error": float(error.abs().max()),
        "unfamiliar": float(unfamiliar.double().mean()),
        "flagged": float(unfamiliar.double().mean()) > network.surroundings.limit(domain.lattice.sites),
        "outside": float(outside(field, network.field_range, domain).double().mean()),
        "error_at_unfamiliar": float(squares[unfamiliar].sum() / squares.sum().clamp_min(1e-30)),
    }


def summed_up(rows: list[dict[str, Any]], threshold: float) -> dict[str, Any]:
    """Rates over states, of all and of each family."""

    def rates(chosen: list[dict[str, Any]]) -> dict[str, Any]:
        bad = [row for row in chosen if row["rms_error"] > threshold]
        good = [row for row in chosen if row["rms_error"] <= threshold]
        return {
            "bad": len(bad),
            "bad_passed": sum(not row["flagged"] for row in bad),
            "bad_passed_by_range_alone": sum(not row["outside"] for row in bad),
            "largest_rms_error_passed": max((row["rms_error"] for row in chosen if not row["flagged"]), default=0.0),
            "good": len(good),
            "good_flagged": sum(row["flagged"] for row in good),
        }

    return {"all": rates(rows)} | {
        name: rates([row for row in rows if row["family"] == name]) for name in dict.fromkeys(row["family"] for row in rows)
    }


def main() -> None:
    """Judge all states and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--lattice", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few states, to see that all works")
    args = parser.parse_args()
    torch.set_num_threads(1)
    threshold = _BAD * math.sqrt(read_card(model_path(args.model)).metrics["validation.all.mse"])
    rows = []
    for case in chain(
        cases(args.lattice, args.seed, args.quick), [] if args.quick else along_quenches(args.lattice, args.seed)
    ):
        rows.append(judged(case, args.model))
        print({name: round(value, 4) if isinstance(value, float) else value for name, value in rows[-1].items()}, flush=True)
    content = {
        "benchmark": "trust",
        "machine": machine(),
        "lattice": args.lattice,
        "seed": args.seed,
        "threshold": threshold,
        "rates": summed_up(rows, threshold),
        "states": rows,
    }
    args.record.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(content["rates"]["all"], indent=1))


if __name__ == "__main__":
    main()
