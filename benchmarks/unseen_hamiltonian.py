"""A network of several Hamiltonians on ones that it never saw: both couplings at once, and static disorder of the sites.

    python benchmarks/unseen_hamiltonian.py MODEL.safetensors RECORD.json [--cells 32] [--seed 1]

On the square lattice, ``e`` static and random, ``q = (ux, uy, Q, e)``:

    H = -sum_<ij> (t - alpha (u_j - u_i).e_ij) (c_i^+ c_j + h.c.) + sum_i (e_i - g Q_i) n_i

States are independent random numbers of given widths, at the temperatures that the network was trained at, half filling and
0.4, with the chemical potential that the network finds itself.  Errors are those of the force on ``u`` and ``Q``, beside the
variance of these forces and the floor of the reach: embedded clusters (``local``) that see as many cells.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from force_rate import machine  # beside this file
from torch import Tensor

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.fields import Field
from hpc_holstein.forces import exact, local
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.hamiltonian import LatticeHamiltonian, displaced, ends, joined
from hpc_holstein.hamiltonian.peierls import bond_direction
from hpc_holstein.interfaces import Ensemble, Lattice, State
from hpc_holstein.lattice import square
from hpc_holstein.network.checkpoint import load_model, read_card

_T2 = 0.2  # hopping between second neighbours over t, as in the Peierls states of the training


class BothCouplings(LatticeHamiltonian):
    """Displacements change the hopping, a coordinate and a static energy the level of each site; energies in units of ``t``."""

    name, elastic, coordinates = "both couplings", ("k", "kappa"), Field("q", "a", "ux, uy, Q and a static energy")

    def __init__(self, lattice: Lattice, alpha: float, g: float, t2: float) -> None:
        self.alpha, self.g, self.t2 = alpha, g, t2
        self._near, self._far = lattice.bonds(1), lattice.bonds(2) if t2 else ()
        super().__init__(lattice, 4, self._near + self._far)

    @property
    def parameters(self) -> dict[str, float]:
        """Name and value of every parameter, of springs that exert no force here."""
        return {"alpha": self.alpha, "g": self.g, "t2": self.t2, "k": 1.0, "kappa": 0.0}

    def matrix(self, ghosted_q: Tensor, halo: int) -> Tensor:
        """``e - g Q`` on site, ``-(t - alpha (u_j - u_i).e_ij)`` and ``-t2`` on bonds."""
        own = displaced(ghosted_q, halo, (0, 0))
        on_site = own[..., 3] - self.g * own[..., 2]
        near = []
        for bond in self._near:
            here, there = ends(ghosted_q, halo, bond)
            along = ghosted_q.new_tensor(bond_direction(self.lattice, bond))
            near.append(self.alpha * ((there - here)[..., :2] * along).sum(dim=-1, keepdim=True) - 1)
        far = on_site.new_full((*on_site.shape[:-1], len(self._far)), -self.t2)
        return joined(on_site, *near, far)

    def energy(self, ghosted_q: Tensor, halo: int) -> Tensor:
        """Zero: forces are those of the electrons."""
        return 0 * displaced(ghosted_q, halo, (0, 0))[..., 0].sum(dim=-1)


CASES = {  # coupling g, widths of the dimensionless hopping change, of g Q and of the static energies, hopping t2
    "bonds and sites": (0.1, 1.0, 0.0, 0.0),
    "bonds, sites and disorder": (0.1, 1.0, 0.5, 0.0),
    "bonds with t2 and disorder": (0.1, 0.0, 0.5, _T2),
    "strong sites, weak bonds": (0.05, 4.0, 0.0, 0.0),
}


def coordinates(cells: int, widths: tuple[float, ...], seed: int) -> Tensor:
    """``[y, x, 1, 4]``: displacements, ``g Q`` and energies of these widths, with alpha = g = 1."""
    noise = torch.randn(cells, cells, 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    bonds, sites, energies = widths
    return noise * torch.tensor([bonds, bonds, sites, energies], dtype=torch.float64)


def judged(model: Path, cells: int, seed: int, reach: int) -> list[dict[str, Any]]:
    """A row for each case, temperature and filling."""
    card = read_card(model)
    lattice = square.build((cells, cells))
    module, domain = load_model(model, lattice)[0], CartesianDomain(lattice, SerialTransport())
    temperatures = card.ranges.get("kT/t") or (card.options["kT"],)
    rows = []
    for number, (name, (*widths, t2)) in enumerate(CASES.items()):
        hamiltonian = BothCouplings(lattice, alpha=1.0, g=1.0, t2=t2)
        q = coordinates(cells, tuple(widths), seed + number)
        for kT in temperatures:
            for filling in (0.5, 0.4):
                ensemble = Ensemble("canonical", kT=kT, filling=filling)
                truth = exact.build(exact.Options(), hamiltonian, domain, ensemble)(State.at_rest(q))
                found = NeuralForces(module.double(), hamiltonian, domain, ensemble)(State.at_rest(q))
                options = local.Options(reach=reach, embedding=3, sites=cells, seed=seed)
                known = State(q=q, velocity=torch.zeros_like(q), forces=truth)
                seen = local.build(options, hamiltonian, domain, ensemble)(known)
                wanted = truth.force[..., :3]
                row = {
                    "case": name,
                    "kT/t": kT,
                    "filling": filling,
                    "mse": float((found.force[..., :3] - wanted).square().mean()),
                    "variance": float(wanted.flatten(0, -2).var(dim=0).mean()),
                    "floor": float((seen.force[..., :3] - wanted).square().nanmean()),
                    "mu_error": float((found.chemical_potential - truth.chemical_potential).abs()),
                }
                row["r2"] = 1 - row["mse"] / row["variance"]
                rows.append(row)
                print(
                    f"{name}, kT/t = {kT:g}, filling {filling:g}: force MSE {row['mse']:.2e}, R2 {row['r2']:.4f}, "
                    f"floor {row['floor']:.1e}, mu off by {row['mu_error']:.3f}",
                    flush=True,
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("record", type=Path)
    parser.add_argument("--cells", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.record.exists():
        parser.error(f"{args.record} exists: remove it or choose another file")
    reach = load_model(args.model)[0].local_reach
    rows = judged(args.model, args.cells, args.seed, reach)
    settings = {"model": args.model.stem, "cells": args.cells, "seed": args.seed, "reach": reach, "unit": "(t/a)^2"}
    args.record.write_text(json.dumps({**settings, "rows": rows, "machine": machine()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
