"""Epochs per minute of ``hpc-holstein train`` beside a plain PyTorch loop, and the loss curve of one rank and of several.

    mpirun -n 2 python -m mpi4py benchmarks/training.py speed training.json --data DATA.h5
    mpirun -n 2 python -m mpi4py benchmarks/training.py curves training.json --data DATA.h5

Each adds its numbers to the record; other numbers of ranks likewise.

DATA.h5: labelled snapshots; the record was made with the 600 of 40x40 of ``examples/paper-model/make.sh``.  The network is the
default one, in float32 for the times; every epoch has the same snapshots (120 of the file, less 10 % that validate: an epoch
is short enough to find the machine free), batches of the same size and whole lattices.

plain          ``DataLoader``, ``F.pad(mode="circular")``, mean square, ``clip_grad_norm_``, ``AdamW``: what one
               writes in PyTorch around the same network module
plain, DDP     the same on all ranks: ``DistributedSampler``, ``DistributedDataParallel`` (gloo), each rank its share of a batch
train          the loop of ``train`` on one rank: its steps alone, and with validation and saving of its state after each epoch
train, ranks   the same on all ranks

All are timed in turn, on the wall clock; the best repeat counts.  While one rank works alone the others sleep.  The curves of
the training loss are of trainings from the same weights, on one rank and on all, and of one rank from weights that differ by
round-off.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from force_rate import ENSEMBLE, hamiltonian_options, machine  # beside this file
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from hpc_holstein.domain.transport import MPITransport, SerialTransport, Transport
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.lattice import square
from hpc_holstein.network.models import enn
from hpc_holstein.network.models._enn import Enn
from hpc_holstein.training import dataset
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.fit import FitResult, fit
from hpc_holstein.training.fit_options import FitOptions

_SEED = 1
_ASLEEP = 3600.0  # seconds that ranks wait at most for one that works alone


def network(extent: tuple[int, ...]) -> tuple[Enn, Any]:
    """The default network with the same weights in every call, and the Hamiltonian."""
    lattice = square.build((extent[0], extent[1]))
    torch.manual_seed(_SEED)
    return enn.build(enn.Options(), lattice), holstein.build(holstein.Options(**hamiltonian_options()), lattice)


def train(
    snapshots: Snapshots, transport: Transport, state_file: Path | None = None, nudge: float = 0.0, **options: Any
) -> FitResult:
    """What ``hpc-holstein train`` does; 10 % of the snapshots validate.  ``nudge``: relative change of the first weights."""
    module, hamiltonian = network(snapshots.extent)
    how = FitOptions(electron_number=0.0, validation=0.1, test=0.0, seed=_SEED, **options)
    with torch.no_grad():
        next(module.to(getattr(torch, how.dtype)).parameters()).mul_(1 + nudge)
    return fit(module, snapshots, hamiltonian, ENSEMBLE, how, transport, state_file)


def epoch_seconds(snapshots: Snapshots, transport: Transport, batch: int, folder: Path) -> dict[str, float]:
    """Of an epoch of ``train``: the steps of the first one, and the mean of two with validation and saving."""
    state_file = folder / f"state-{transport.size}.pt"
    history = train(snapshots, transport, state_file, batch=batch, epochs=3).history
    state_file.unlink(missing_ok=True)
    clock = [row["elapsed_s"] for row in history]  # at the last step of an epoch
    return {"steps": clock[0], "with validation": (clock[2] - clock[0]) / 2}


class PlainLoop:
    """The network trained as one would write it; ``distributed``: with the process group that is there."""

    def __init__(self, snapshots: Snapshots, batch: int, distributed: bool = False) -> None:
        module, hamiltonian = network(snapshots.extent)
        assert snapshots.chemical_potential is not None
        g = hamiltonian.parameters["g"]
        fields = snapshots.q + snapshots.chemical_potential[:, None, None] / g
        data = TensorDataset(torch.as_tensor(fields).float(), torch.as_tensor(snapshots.density).float())
        self.halo, self.g = module.reach, g
        self.module: nn.Module = DistributedDataParallel(module) if distributed else module
        if distributed:
            self.sampler = DistributedSampler(data)
            share = batch // torch.distributed.get_world_size()
            self.loader = DataLoader(data, batch_size=share, sampler=self.sampler)
        else:
            self.loader = DataLoader(data, batch_size=batch, shuffle=True)
        self.optimiser = torch.optim.AdamW(self.module.parameters(), lr=1e-3, weight_decay=0.0)

    def epoch(self) -> float:
        """Seconds of an epoch."""
        start, total = time.perf_counter(), 0.0
        self.module.train()
        for field, density in self.loader:
            self.optimiser.zero_grad()
            ghosted = F.pad(field[:, None], 4 * [self.halo], mode="circular")[:, 0]
            loss = F.mse_loss(self.g * self.module(ghosted), self.g * density)
            loss.backward()
            nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            self.optimiser.step()
            total += loss.item() * len(field)
        assert np.isfinite(total)
        return time.perf_counter() - start


def alone(transport: Transport, work: Callable[[], Any]) -> Any:
    """What rank 0 finds while the others sleep, on every rank."""
    found = work() if transport.rank == 0 else None
    assert transport.all_arrive(_ASLEEP)
    return transport.bcast(found)


def speed(snapshots: Snapshots, transport: Transport, batch: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Best seconds of an epoch of every loop, and what they say."""
    serial = SerialTransport()
    numbers = alone(transport, lambda: train(snapshots, serial, epochs=1, batch=batch).sets["training"])
    seen = snapshots.select(numbers)
    plain = PlainLoop(seen, batch) if transport.rank == 0 else None
    together = None
    if transport.size > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on this machine
        rendezvous = f"file://{folder / 'rendezvous'}"
        torch.distributed.init_process_group("gloo", rendezvous, rank=transport.rank, world_size=transport.size)
        together = PlainLoop(seen, batch, distributed=True)
    rows: dict[str, list[float]] = {}

    def note(name: str, seconds: float) -> None:
        rows.setdefault(name, []).append(seconds)

    for _ in range(repeats):
        note("plain", alone(transport, lambda: plain.epoch() if plain else 0.0))
        for what, seconds in alone(transport, lambda: epoch_seconds(snapshots, serial, batch, folder)).items():
            note(f"train, {what}", seconds)
        if together:
            note("plain, DDP", together.epoch())
            for what, seconds in epoch_seconds(snapshots, transport, batch, folder).items():
                note(f"train, ranks, {what}", seconds)
    if together:
        torch.distributed.destroy_process_group()
    best = {name: min(times) for name, times in rows.items()}
    told: dict[str, Any] = {
        "snapshots_trained": len(seen),
        "epochs_per_minute": {name: 60 / seconds for name, seconds in best.items()},
        "sites_per_s": {name: seen.q.size / seconds for name, seconds in best.items()},
        "train_over_plain": best["plain"] / best["train, steps"],
        "all_seconds": rows,
    }
    if together:
        told["speedup"] = best["train, steps"] / best["train, ranks, steps"]
        told["speedup_of_plain"] = best["plain"] / best["plain, DDP"]
        told["train_over_ddp"] = best["plain, DDP"] / best["train, ranks, steps"]
    return told


def curves(snapshots: Snapshots, transport: Transport, batch: int, epochs: int) -> dict[str, Any]:
    """Loss curves of one rank and of all, and how far they are apart, epoch by epoch.

    Beside it one rank that starts from weights of the first layer that differ by round-off: what that alone grows to.
    """
    found: dict[str, Any] = {}
    for dtype in ("float64", "float32"):
        options: dict[str, Any] = {"batch": batch, "epochs": epochs, "dtype": dtype}
        one = alone(transport, lambda options=options: train(snapshots, SerialTransport(), **options).history)
        many = train(snapshots, transport, **options).history
        nudge = 2 * torch.finfo(getattr(torch, dtype)).eps
        other = alone(transport, lambda o=options, n=nudge: train(snapshots, SerialTransport(), nudge=n, **o).history)
        row: dict[str, Any] = {"one": _curve(one), "all": _curve(many), "nudged": _curve(other)}
        for name in ("all", "nudged"):
            apart = abs(np.array(row[name]) - row["one"]) / row["one"]
            row[f"{name}, relative difference"] = apart.tolist()
            row[f"{name}, largest difference"] = float(apart.max())
        found[dtype] = row
    return found


def _curve(history: list[dict[str, float]]) -> list[float]:
    return [row["training_mse"] for row in history]


def measured(arguments: argparse.Namespace, transport: Transport) -> dict[str, Any]:
    """What is asked for, with what it belongs to."""
    every = dataset.read(arguments.data, require_labels=True)
    number, repeats, epochs = (20, 1, 2) if arguments.quick else (arguments.snapshots, arguments.repeats, arguments.epochs)
    snapshots = every.select(np.linspace(0, len(every) - 1, min(number, len(every))).astype(int))
    about = {"data": every.data_hash, "snapshots": len(snapshots), "cells": list(snapshots.extent), "batch": arguments.batch}
    about["machine"] = machine()
    if arguments.what == "curves":
        return {**about, **curves(snapshots, transport, arguments.batch, epochs)}
    folder = Path(transport.bcast(tempfile.mkdtemp() if transport.rank == 0 else ""))
    found = speed(snapshots, transport, arguments.batch, repeats, folder)
    if transport.rank == 0:
        shutil.rmtree(folder)
    return {**about, "repeats": repeats, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "curves"])
    parser.add_argument("record", type=Path, help="JSON record to write, or to add to")
    parser.add_argument("--data", type=Path, required=True, help="labelled snapshots")
    parser.add_argument("--batch", type=int, default=4, help="snapshots in a step, over all ranks (default: 4, that of train)")
    parser.add_argument("--repeats", type=int, default=20, help="of which the best counts")
    parser.add_argument("--snapshots", type=int, default=120, help="so many of DATA.h5, evenly (default: 120)")
    parser.add_argument("--epochs", type=int, default=20, help="of the loss curves")
    parser.add_argument("--quick", action="store_true", help="20 snapshots, one repeat, two epochs: whether all works")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transport = MPITransport()
    record: dict[str, Any] = {"benchmark": "training", "threads": 1, "speed": {}, "curves": {}}
    if transport.bcast(arguments.record.exists()):
        record = json.loads(arguments.record.read_text())
    key, found = f"{transport.size} ranks", record[arguments.what]
    if key in found:
        parser.error(f"{arguments.record} has {arguments.what} of {key} already: choose another file or number of ranks")
    found[key] = measured(arguments, transport)
    if transport.rank == 0:
        arguments.record.parent.mkdir(parents=True, exist_ok=True)
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")
        print(f"{arguments.what} of {key}, {found[key]['snapshots']} snapshots")
        report(found[key])


def report(part: dict[str, Any]) -> None:
    for name, rate in part.get("epochs_per_minute", {}).items():
        print(f"{name:32s} {rate:8.2f} epochs/min  {part['sites_per_s'][name]:9.2e} sites/s")
    for name, value in part.items():
        if isinstance(value, float):
            print(f"{name} {value:.2f}")
    for dtype in ("float64", "float32"):
        for name in ("all", "nudged") if dtype in part else ():
            apart = ", ".join(f"{one:.0e}" for one in part[dtype][f"{name}, relative difference"])
            print(f"{dtype}, {name}: training loss apart by {apart}")


if __name__ == "__main__":
    main()
