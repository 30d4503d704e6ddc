"""Ablations of the network of matrix elements: errors with one thing changed at a time, on exact Peierls quenches.

    python benchmarks/matrix_ablations.py RECORD.json --data small1.h5 small2.h5 ... --test small6.h5 [--seconds 100]

Files as ``examples/packaged-models/make.sh square`` makes them.  Every network gets as many seconds of processor time
of one core, the same optimiser (SOAP, rate 2e-3 falling to 0, batches of 4 whole states, averaged weights) and the same seed;
it is judged by the force MSE on a quench that it has not seen, at the chemical potential of the labels.

as it is    enn_matrix: reads H, 4 copies, radii (2, 1, 1, 1), loss of the force
reads u     the displacement of a site along each of its four bonds in the place of the elements of H
no symmetry the identity in the place of D4, 32 copies: as many channels, so as many operations a site, and 8 times the weights
loss of rho mean square of the error of rho on bonds and sites, weighted as in a force of independent errors
reach ...   other radii
half, ...   every second or eighth state of the data
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from force_rate import machine  # beside this file
from pytorch_optimizer import SOAP
from torch import Tensor, nn

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.forces import exact
from hpc_holstein.hamiltonian import peierls
from hpc_holstein.interfaces import Ensemble
from hpc_holstein.lattice._bravais import BravaisLattice
from hpc_holstein.network.models import enn_matrix
from hpc_holstein.training import dataset
from hpc_holstein.training._fields import window
from hpc_holstein.training._matrix_fields import MatrixData
from hpc_holstein.training.dataset import Snapshots

KT = 1e-3
RATE, AVERAGE, BATCH, WARMUP = 2e-3, 0.99, 4, 0.03
D4 = (((0, 1), (-1, 0)), ((1, 0), (0, -1)))
IDENTITY = (((1, 0), (0, 1)),)


class OfDisplacements(MatrixData):
    """``alpha u_i.e_ij / t0 - 1`` on the directed bonds of nearest neighbours in the place of the elements of ``H``."""

    def __init__(self, snapshots: Snapshots, model: nn.Module, hamiltonian: peierls.Peierls, *rest: Any) -> None:
        super().__init__(snapshots, model, hamiltonian, *rest)
        elements, options = model.elements, hamiltonian.options  # type: ignore[union-attr]
        near = elements.slices[elements.first_shell]
        for index in range(near.start, near.stop):
            along = self._q.new_tensor(elements.bonds[index].offset[::-1])
            self.inputs[..., index] = options.alpha / options.t0 * (self._q[..., 0, :] * along).sum(dim=-1) - 1


class OfRho(MatrixData):
    """The loss of ``rho`` on the written pairs and sites."""

    def __init__(self, snapshots: Snapshots, model: nn.Module, hamiltonian: peierls.Peierls, *rest: Any) -> None:
        super().__init__(snapshots, model, hamiltonian, *rest)
        domain = CartesianDomain(hamiltonian.lattice, SerialTransport())
        solver = exact.build(exact.Options(), hamiltonian, domain, Ensemble("canonical", kT=KT))
        of_states = [solver._density_matrix(q, ())[0][..., 0, :] for q in self._q.double()]
        self._rho = torch.stack(of_states).to(self._q)

    def loss(self, model: nn.Module, index: Tensor, origin: Tensor, cells: Sequence[int]) -> Tensor:
        """Mean square of the error of ``rho``, on bonds and sites, times the square of the coupling."""
        halo = self._halo
        elements = window(self.inputs, index, origin, cells, self.reach + halo)
        rho = self._reader.on_pattern(model(elements), self._written)
        inner = rho[:, halo:-halo, halo:-halo]
        wanted = window(self._rho, index, origin, cells, 0)
        error = (inner - wanted)[..., : 1 + len(self._hamiltonian.lattice.bonds(1))]
        return self._scale * error.square().flatten(1).mean(dim=1).sum()


@dataclass(frozen=True)
class Case:
    """A change of the network, of its data or of its loss."""

    options: dict[str, Any] = field(default_factory=dict)
    generators: Any = D4
    data: type[MatrixData] = MatrixData
    every: int = 1


CASES = {
    "as it is": Case(),
    "reads u": Case(data=OfDisplacements),
    "no symmetry": Case({"copies": 32}, IDENTITY),
    "loss of rho": Case(data=OfRho),
    "reach 2": Case({"radii": (1, 0, 0, 0)}),
    "reach 3": Case({"radii": (1, 1, 0, 0)}),
    "reach 4": Case({"radii": (1, 1, 1, 0)}),
    "reach 7": Case({"radii": (2, 2, 1, 1)}),
    "half of the data": Case(every=2),
    "an eighth of the data": Case(every=8),
}


def trained(case: Case, states: Snapshots, test: Snapshots, seconds: float) -> dict[str, float]:
    """Force MSE of a trained network on the test states, and its steps, weights and states."""
    lattice = BravaisLattice("square", states.extent, (True, True), ((0.0, 1.0), (1.0, 0.0)), ((0.0, 0.0),), case.generators)
    hamiltonian = peierls.build(peierls.Options(), lattice)
    torch.manual_seed(0)
    options = enn_matrix.Options(**{"copies": 4, "radii": (2, 1, 1, 1), "kT": KT / hamiltonian.hopping, **case.options})
    model = enn_matrix.build(options, lattice)
    chosen = states.select(np.arange(0, len(states), case.every))
    data = case.data(chosen, model, hamiltonian, torch.float32, torch.device("cpu"))
    held_out = (OfDisplacements if case.data is OfDisplacements else MatrixData)(
        test, model, hamiltonian, torch.float32, torch.device("cpu")
    )
    averaged, parameters = copy.deepcopy(model), list(model.parameters())
    optimiser, generator = SOAP(parameters, lr=RATE, weight_decay=0.0), np.random.default_rng(0)
    started, steps, order = time.process_time(), 0, np.zeros(0, dtype=np.int64)
    while (spent := (time.process_time() - started) / seconds) < 1:
        if len(order) < BATCH:
            order = np.concatenate([order, generator.permutation(len(chosen))])
        index, order = torch.from_numpy(order[:BATCH].copy()), order[BATCH:]
        optimiser.param_groups[0]["lr"] = RATE * min(1.0, spent / WARMUP) * 0.5 * (1 + math.cos(math.pi * spent))
        optimiser.zero_grad()
        (data.loss(model, index, torch.zeros(BATCH, 2, dtype=torch.int64), states.extent) / BATCH).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        steps += 1
        decay = min(AVERAGE, (1 + steps) / (10 + steps))
        with torch.no_grad():
            for mean, weights in zip(averaged.parameters(), parameters, strict=True):
                mean.lerp_(weights, 1 - decay)
    averaged.eval()
    errors = []
    with torch.no_grad():
        for row in torch.arange(len(test)).split(8):
            errors.append(float(held_out.whole_errors(averaged, row).square().mean()) * len(row))
    return {
        "mse": sum(errors) / len(test),
        "steps": float(steps),
        "weights": float(sum(p.numel() for p in parameters)),
        "states": float(len(chosen)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=100.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    states, test = dataset.read_together(args.data), dataset.read(args.test)
    rows: dict[str, Any] = json.loads(args.record.read_text())["rows"] if args.record.exists() else {}
    for name, case in CASES.items():
        if name in rows:
            continue
        rows[name] = trained(case, states, test, args.seconds)
        print(f"{name:<22} " + ", ".join(f"{key} {value:.4g}" for key, value in rows[name].items()), flush=True)
        settings = {"seconds": args.seconds, "unit": "(t_nn/a)^2", "cells": list(states.extent)}
        args.record.write_text(json.dumps({**settings, "rows": rows, "machine": machine()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
