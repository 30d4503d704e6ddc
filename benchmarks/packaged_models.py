"""Rate of every model that comes with the package on one core, float32: the network alone, and a force with all that it needs.

    python benchmarks/packaged_models.py RECORD.json

network      sites/s of one evaluation on a window of about 64x64 sites with its halo
force        sites/s of a force at the chemical potential that is given: halo, elements of H, network, force
multiply_adds  of the dense kernels, a site of the window: taps times pairs of channels
per_multiply_add  time of the network for each of these over that of the model of the square Holstein lattice; compiled code
             does fewer, in the irreps of the point group

Times are the best of many, in turn, in processor time, so that other work on the machine does not decide.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from force_rate import machine  # beside this file

from hpc_holstein.config import kinds
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.forces import neural
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.network.checkpoint import load_model, read_card
from hpc_holstein.network.packaged import packaged

_SITES = 4096
_STD = {"holstein": 2.0, "peierls": 0.1, "jahn_teller": 1.0}


def cases() -> dict[str, tuple[Callable[[], object], Callable[[], object], int, int]]:
    """Evaluation and force of each model, sites of one call, and multiply-adds of a site."""
    found = {}
    for name, path in packaged().items():
        card = read_card(path)
        source = kinds.resolve("lattice", card.lattice)
        dimension, basis = len(card.extent), len(source.build(card.extent).basis)
        lattice = source.build((round((_SITES / basis) ** (1 / dimension)),) * dimension)
        module: Any = load_model(path, lattice)[0].float().eval()
        hamiltonian_file = kinds.resolve("hamiltonian", card.hamiltonian)
        hamiltonian = hamiltonian_file.build(hamiltonian_file.Options(**card.parameters), lattice)
        ensemble = Ensemble("grand-canonical", kT=card.kT)
        domain = CartesianDomain(lattice, SerialTransport())
        forces = neural.build(neural.Options(model=str(path)), hamiltonian, domain, ensemble)
        shape = *lattice.extent, len(lattice.basis), hamiltonian.components
        state = State.at_rest(_STD[card.hamiltonian] * torch.randn(shape, generator=torch.Generator().manual_seed(0)))
        edges = [count + 2 * module.reach for count in lattice.extent]
        numbers = [len(module.elements)] if module.field == "matrix" else [basis] if basis > 1 else []
        field = torch.randn(1, *edges, *numbers, generator=torch.Generator().manual_seed(1))

        def evaluate(module: Any = module, field: torch.Tensor = field) -> object:
            with torch.inference_mode():
                return module.response(field)

        kernels = module._kernels(module.kT)
        parts = [part for layer in kernels for part in (layer.even, layer.odd) if part is not None]
        if module.field != "matrix" and module.particle_hole:
            parts = parts[1:]  # the lifting layer reads the odd part alone
        multiply_adds = sum(part.numel() for part in parts) // basis
        found[name] = evaluate, (lambda forces=forces, state=state: forces(state)), lattice.sites, multiply_adds
    return found


def measured(seconds: float) -> dict[str, dict[str, float]]:
    """Best times, the calls in turn until so much processor time is spent."""
    calls = cases()
    best = {name: [float("inf")] * 2 for name in calls}
    for evaluate, force, *_ in calls.values():
        evaluate(), force()
    end = time.process_time() + seconds
    while time.process_time() < end:
        for name, (evaluate, force, *_) in calls.items():
            for number, call in enumerate((evaluate, force)):
                start = time.process_time()
                call()
                best[name][number] = min(best[name][number], time.process_time() - start)
    first = next(iter(calls))
    unit = best[first][0] / (calls[first][2] * calls[first][3])
    return {
        name: {
            "network": sites / best[name][0],
            "force": sites / best[name][1],
            "multiply_adds": float(multiply_adds),
            "per_multiply_add": best[name][0] / (sites * multiply_adds) / unit,
        }
        for name, (*_, sites, multiply_adds) in calls.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, help="JSON record to write")
    parser.add_argument("--seconds", type=float, default=60.0, help="of processor time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rates = measured(arguments.seconds)
    arguments.record.write_text(json.dumps({"machine": machine(), "rates": rates}, indent=1) + "\n", encoding="utf-8")
    for name, row in rates.items():
        print(f"{name:<20} network {row['network']:.2e} sites/s, force {row['force']:.2e}", end=", ")
        print(f"{row['multiply_adds']:.0f} multiply-adds a site, {row['per_multiply_add']:.2f} of the time for each")


if __name__ == "__main__":
    main()
