"""Floor of a reach for the Peierls model: clusters with open edges and in the undistorted lattice, against exact forces.

    python benchmarks/peierls_floor.py RECORD.json [--cells 50] [--sites 150] [--seed 1]

The state is the start of the published quench (preset paper-2510.20659): the elastic system alone in equilibrium, sampled mode
by mode, ``<|u_k|^2> = kT / (k0 + kappa s_k)``.  At sampled sites, at the chemical potential of the whole lattice.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from force_rate import machine  # beside this file

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.forces import exact, local
from hpc_holstein.hamiltonian import peierls
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square

KT_ELASTIC, KT = 0.025, 1e-3
WHOLE = 23  # cells along the edge of the largest embedded cluster


def start(options: peierls.Options, cells: int, seed: int) -> torch.Tensor:
    """Thermal displacements of the elastic system, ``[y, x, 1, component]`` [a]."""
    k = 2 * np.pi * np.arange(cells) / cells
    stiffness = options.k0 + 2 * options.kappa * (np.cos(k)[:, None] + np.cos(k))
    noise = np.fft.fft2(np.random.default_rng(seed).normal(size=(2, cells, cells)))
    u = np.fft.ifft2(noise * np.sqrt(KT_ELASTIC / stiffness)).real
    return torch.from_numpy(np.ascontiguousarray(u.transpose(1, 2, 0)[:, :, None]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--cells", type=int, default=50)
    parser.add_argument("--sites", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.record.exists():
        parser.error(f"{args.record} exists: remove it or choose another file")
    lattice = square.build((args.cells, args.cells))
    hamiltonian, domain = peierls.build(peierls.Options(), lattice), CartesianDomain(lattice, SerialTransport())
    ensemble, q = Ensemble("canonical", KT), start(hamiltonian.options, args.cells, args.seed)
    reference = exact.build(exact.Options(), hamiltonian, domain, ensemble)(State.at_rest(q))
    state, rows = State(q=q, velocity=torch.zeros_like(q), forces=reference), []
    for reach in (2, 3, 4):
        for embedding in (0, 3, (WHOLE - 1) // 2 - reach):
            options = local.Options(reach=reach, embedding=embedding, sites=args.sites, seed=args.seed)
            began = time.perf_counter()
            error = (local.build(options, hamiltonian, domain, ensemble)(state).force - reference.force).square().nanmean()
            rows.append({"reach": reach, "embedding": embedding, "mse": float(error), "seconds": time.perf_counter() - began})
            print(f"R = {reach}, E = {embedding}: force MSE {float(error):.2e} (t_nn/a)^2", flush=True)
    settings = {"cells": args.cells, "sites": args.sites, "seed": args.seed, "variance": float(reference.force.var())}
    args.record.write_text(json.dumps({**settings, "unit": "(t_nn/a)^2", "rows": rows, "machine": machine()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
