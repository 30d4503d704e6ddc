"""Force error against cost, amount of data and reach, for our network and for those that it is compared with.

    python benchmarks/accuracy.py data MORE.h5
    python benchmarks/accuracy.py train RECORD.json --data DATA.h5 MORE.h5 --test TEST.h5 [--sites 1e7] [--only NAME ...]
    python benchmarks/accuracy.py search RECORD.json --data DATA.h5 --network CNN [--sites 1e6] [--rates 4e-3 8e-3]
    python benchmarks/accuracy.py test RECORD.json --test TEST.h5
    python benchmarks/accuracy.py time RECORD.json
    python benchmarks/accuracy.py plot RECORD.json FOLDER

DATA.h5: 600 exact snapshots of 40x40 in the published composition, made by ``examples/paper-model/make.sh``.  MORE.h5: further
ones with another seed, 600 random and 30 along the first 600 steps of each of 15 quenches, driven by the packaged network and
labelled by diagonalization of blocks of 4x4 sites with 3 more around them (force MSE of these labels: 3e-7 hot, 1e-8 later).
TEST.h5: three exact quenches of 30x30 with seeds that nothing else uses, a state every 20 steps from 0 to 2,000:

    for seed in 9001 9002 9003; do hpc-holstein label --quenches 1 --per-quench 101 --quench-steps 2000 --even \\
        --lattice 30x30 --path-force exact --force exact --seed $seed --output test-$seed.h5; done

(any file with these states in one, and a number for each quench).  Every network sees the same number of sites in training (a
site counts each time that it is seen); the loss is the force MSE, the rest are the defaults of ``hpc-holstein train`` with
``batch = 2``, but for CNN and E-FNN the best learning rate and batch by the validation error (``search``, which the record
has).  It is tested as a force provider with its own chemical potential.  ``train`` skips what the record has.  Time: best
processor time of windows of 64x64 sites in float32 on one core, all networks in turn in one process.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _accuracy_figures import draw, tables
from _baselines import multiply_adds, networks  # beside this file
from force_rate import ENSEMBLE, SETTING, hamiltonian_options, machine
from torch import Tensor, nn

from hpc_holstein.config import load_config
from hpc_holstein.config.builders import build_integrator, build_system
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.files import require_writable
from hpc_holstein.forces import local, neural
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import State
from hpc_holstein.lattice import square
from hpc_holstein.network.checkpoint import load_model
from hpc_holstein.network.packaged import default_model_path
from hpc_holstein.training import dataset
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.fit import fit
from hpc_holstein.training.fit_options import FitOptions
from hpc_holstein.training.label import make_file
from hpc_holstein.training.paths import QuenchPlan, RandomPlan, early_dense_steps
from hpc_holstein.training.regimes import Regimes
from hpc_holstein.training.validation import force_metrics

BY_STEP = {"hot": (0, 200), "coarsening": (200, 800), "ordered": (800, None)}
"""Regimes of the protocol of the published figures: ``--regimes hot=0:200,coarsening=200:800,ordered=800:``."""
SIZES = (60, 180, 600, 1650)
LEARNING = ("enn copies 4", "enn copies 8")
PUBLISHED = 600
_WINDOW, _REPEATS = 64, 20
_SEED = 1
HOW: dict[str, dict[str, Any]] = {
    "E-FNN": {"batch": 1, "learning_rate": 1.6e-2},
    "CNN": {"batch": 1},
    "CNN augmented": {"batch": 1},
}
"""Of the networks that are not trained as ours: the best by ``search``, which the record has."""


def system(length: int) -> tuple[Any, Any]:
    """Lattice and Hamiltonian of the published setting."""
    lattice = square.build((length, length))
    return lattice, holstein.build(holstein.Options(**hamiltonian_options()), lattice)


def make_data(path: Path, random: int, quenches: int, last_step: int, seed: int) -> None:
    """Snapshots beyond the published ones; see the docstring of this file."""
    lattice, hamiltonian = system(40)
    config = load_config(None, "paper-2601.04104", {"lattice.extent": list(lattice.extent)})
    driver, labeller = neural.Options(precision="float32"), local.Options(reach=3, core=4)
    assert config.initial.q_std is not None
    plan = QuenchPlan(
        count=quenches,
        steps=tuple(step for step in early_dense_steps(2000, 40) if step <= last_step),
        q_std=config.initial.q_std,
        velocity_std=config.initial.velocity_std,
        seed=seed,
        integrator=build_integrator(config, build_system(config)),
        make_forces=lambda domain: neural.build(driver, hamiltonian, domain, ENSEMBLE),
        path="neural",
    )
    about = dataset.physics_attributes(lattice, hamiltonian, ENSEMBLE)
    make_file(
        path,
        lattice=lattice,
        transport=SerialTransport(),
        make_forces=lambda domain: local.build(labeller, hamiltonian, domain, ENSEMBLE),
        attributes=about,
        label_attributes={**about, "provider": "local", "provider.reach": labeller.reach, "provider.core": labeller.core},
        random=RandomPlan(random, config.initial.q_std, seed),
        quenches=plan,
    )


def joined(files: list[Path]) -> Snapshots:
    """Snapshots of all files, quenches numbered through."""
    parts, first = [dataset.read(file, require_labels=True) for file in files], 0
    quench = []
    for part in parts:
        quench.append(np.where(part.quench < 0, -1, part.quench + first))
        first += int(part.quench.max()) + 1
    names = ("q", "step", "force", "density", "chemical_potential")
    arrays: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Snapshots.of(arrays.pop("q"), np.concatenate(quench), arrays.pop("step"), **arrays)


def subset(snapshots: Snapshots, number: int) -> Snapshots:
    """The first ``number`` snapshots, a third of them random as published; a larger set contains a smaller one."""
    if number > PUBLISHED:
        return snapshots.select(np.arange(number))
    random, along = np.flatnonzero(snapshots.quench == -1), np.flatnonzero(snapshots.quench != -1)
    return snapshots.select(np.concatenate([random[: number // 3], along[: number - number // 3]]))


def augmented(snapshots: Snapshots, copies: int) -> Snapshots:
    """``copies`` of each snapshot, moved by random elements of the point group, half of them with particle-hole exchange."""
    generator, parts = np.random.default_rng(_SEED), []
    assert snapshots.density is not None
    for _ in range(copies):
        turns, mirror = generator.integers(4, size=len(snapshots)), generator.integers(2, size=len(snapshots))
        sign = generator.choice([-1, 1], size=len(snapshots))

        def moved(field: Any, turns: Any = turns, mirror: Any = mirror) -> Any:
            return np.stack([np.rot90(f[::-1] if m else f, t) for f, t, m in zip(field, turns, mirror, strict=True)])

        flip = sign[:, None, None]
        parts.append(
            (
                flip * moved(snapshots.q),
                0.5 + flip * (moved(snapshots.density) - 0.5),
                flip * moved(snapshots.force),
                sign * snapshots.chemical_potential,
            )
        )
    q, density, force, mu = (np.concatenate(column) for column in zip(*parts, strict=True))
    quench, step = np.tile(snapshots.quench, copies), np.tile(snapshots.step, copies)
    return Snapshots.of(q, quench, step, density=density, force=force, chemical_potential=mu)


def train(
    name: str, build: Callable[[], nn.Module], snapshots: Snapshots, sites: float, how: dict[str, Any], seed: int = _SEED
) -> tuple[nn.Module, dict[str, Any]]:
    """The network after ``sites`` sites of training with the options ``how``, and what the training said."""
    lattice, hamiltonian = system(40)
    torch.manual_seed(seed)
    module = build()
    epochs = max(1, round(sites / (0.9 * len(snapshots) * lattice.sites)))
    if name.endswith("augmented"):  # one pass through as many moved copies as there would be epochs
        snapshots, epochs = augmented(snapshots, epochs), 1
    every = max(1, epochs // 10)
    options = FitOptions(epochs=epochs, electron_number=0.0, validation=0.1, test=0.0, seed=seed, validate_every=every, **how)
    start = time.process_time()
    result = fit(module, snapshots, hamiltonian, ENSEMBLE, options, SerialTransport())
    said = {
        "epochs": epochs,
        "learning_rate": options.learning_rate,
        "batch": options.batch,
        "sites_seen": epochs * len(result.sets["training"]) * lattice.sites,
        "cpu_seconds": time.process_time() - start,
        "restarts": result.metrics.get("restarts", 0),
        "training_mse": result.metrics["training"]["all"]["mse_at_reference_mu"],
        "validation_mse": result.metrics["validation"]["all"]["mse_at_reference_mu"],
    }
    return result.model, said


@torch.no_grad()
def test(module: nn.Module, snapshots: Snapshots) -> dict[str, dict[str, float | None]]:
    """Force errors as of a provider in a run, by regime."""
    lattice, hamiltonian = system(snapshots.extent[0])
    domain = CartesianDomain(lattice, SerialTransport())
    forces = NeuralForces(module, hamiltonian, domain, ENSEMBLE, "float32")
    found = [forces(State.at_rest(q)).force[..., 0, 0].double().numpy() for q in snapshots.fields()]
    assert snapshots.force is not None
    metrics = force_metrics(np.stack(found), snapshots.force, Regimes(lattice, BY_STEP).masks(snapshots))
    return {regime: {key: row[key] for key in ("snapshots", "mse", "max_error", "r2")} for regime, row in metrics.items()}


def plan() -> list[tuple[str, int]]:
    """Network and number of snapshots of every training, the cheap and telling ones first."""
    names = list(networks(system(40)[0]))
    return [(name, PUBLISHED) for name in names] + [(name, n) for n in SIZES if n != PUBLISHED for name in LEARNING]


def run(arguments: argparse.Namespace) -> None:
    """Everything of :func:`plan` that the record lacks."""
    snapshots, exact = joined(arguments.data), dataset.read(arguments.test, require_labels=True)
    build = networks(system(40)[0])
    for name, number in plan():
        wanted = (not arguments.only or name in arguments.only) and (not arguments.snapshots or number in arguments.snapshots)
        key = f"{name}, {number} snapshots, {arguments.sites:.2g} sites"
        record = load(arguments.record)
        if not wanted or key in record["results"] or number > len(snapshots):
            continue
        data = subset(snapshots, number)
        module, said = train(name, build[name], data, arguments.sites, HOW.get(name, {"batch": 2}))
        module.eval()
        entry: dict[str, Any] = {"network": name, "snapshots": number, "budget": arguments.sites, **said}
        entry |= {"reach": module.reach, "multiply_adds": multiply_adds(module)}
        entry |= {"weights": sum(p.numel() for p in module.parameters()), "data": data.data_hash, "test_data": exact.data_hash}
        entry |= {"test": test(module, exact), "machine": machine()}
        record["results"][key] = entry
        save(arguments.record, record)
        told = "  ".join(f"{regime} {row['mse']:.2e}" for regime, row in entry["test"].items())
        print(f"{key}: {told}  ({said['cpu_seconds']:.0f} s of processor time)", flush=True)


def search(arguments: argparse.Namespace) -> None:
    """Validation error of one network for every learning rate and batch that the record lacks, and errors of the test."""
    snapshots = subset(joined(arguments.data), PUBLISHED)
    exact = dataset.read(arguments.test, require_labels=True) if arguments.test else None
    build = networks(system(40)[0])[arguments.network]
    for batch in arguments.batches:
        for rate in arguments.rates:
            told = f"learning rate {rate:g}, batch {batch}, seed {arguments.seed}"
            key = f"{arguments.network}, {arguments.sites:.2g} sites, {told}"
            record = load(arguments.record)
            found = record.setdefault("search", {})
            if key not in found:
                how = {"learning_rate": rate, "batch": batch}
                module, said = train(arguments.network, build, snapshots, arguments.sites, how, arguments.seed)
                found[key] = {"network": arguments.network, "data": snapshots.data_hash, **said}
                if exact:
                    found[key] |= {"test_data": exact.data_hash, "test": test(module.eval(), exact)}
                save(arguments.record, record)
            print(f"{key}: validation {found[key]['validation_mse']:.2e}", flush=True)


def judge(record_file: Path, model: Path, name: str, network: str, test_file: Path) -> None:
    """The errors of a model file; ``network`` is the name of its shape."""
    lattice = system(40)[0]
    exact = dataset.read(test_file, require_labels=True)
    module, card = load_model(model, lattice)
    record = load(record_file)
    about = {"network": network, "training_data": card.data_hash, "test_data": exact.data_hash}
    record.setdefault("models", {})[name] = {**about, "test": test(module.eval(), exact), "machine": machine()}
    save(record_file, record)
    print(name, *(f"{regime} {row['mse']:.2e}" for regime, row in record["models"][name]["test"].items()))


def measure(record_file: Path) -> None:
    """Nanoseconds of one evaluation of one site, all networks in turn."""
    modules: dict[str, tuple[nn.Module, Tensor]] = {}
    for name, build in networks(system(40)[0]).items():
        torch.manual_seed(_SEED)
        module = build().eval()
        edge = _WINDOW + 2 * int(module.reach)
        modules[name] = module, 5 * torch.randn(1, edge, edge)
    best = dict.fromkeys(modules, float("inf"))
    with torch.inference_mode():
        for _ in range(_REPEATS):
            for name, (module, field) in modules.items():
                start = time.process_time()
                module(field)
                best[name] = min(best[name], time.process_time() - start)
    record = load(record_file)
    times = {name: 1e9 * seconds / _WINDOW**2 for name, seconds in best.items()}
    record["time"] = {"ns_per_site": times, "window": _WINDOW, "dtype": "float32", "threads": 1, "machine": machine()}
    save(record_file, record)
    for name, ns in times.items():
        print(f"{name:16s} {ns:10.0f} ns/site  {2 * multiply_adds(modules[name][0]) / ns:8.1f} Gflop/s")


def load(path: Path) -> dict[str, Any]:
    if path.exists():
        return json.loads(path.read_text())
    return {"benchmark": "accuracy", "setting": SETTING["hamiltonian"] | SETTING["ensemble"], "results": {}}


def save(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="make further training snapshots")
    data.add_argument("output", type=Path)
    for option, default in (("random", 600), ("quenches", 15), ("last-step", 600), ("seed", 2)):
        data.add_argument(f"--{option}", type=int, default=default)
    training = commands.add_parser("train", help="train and test what the record lacks")
    training.add_argument("record", type=Path)
    training.add_argument("--data", type=Path, nargs="+", required=True)
    training.add_argument("--test", type=Path, required=True)
    training.add_argument("--sites", type=float, default=1e7, help="sites seen in training")
    training.add_argument("--only", nargs="+", default=[], help="names of networks")
    training.add_argument("--snapshots", type=int, nargs="+", default=[], help="sizes of the training set")
    searching = commands.add_parser("search", help="find how to train a network, by the validation error")
    searching.add_argument("record", type=Path)
    searching.add_argument("--data", type=Path, nargs="+", required=True)
    searching.add_argument("--network", required=True)
    searching.add_argument("--sites", type=float, default=1e6, help="sites seen in each training")
    searching.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3, 8e-3])
    searching.add_argument("--batches", type=int, nargs="+", default=[1, 2])
    searching.add_argument("--test", type=Path, help="also test each; what is best is chosen by the validation error")
    searching.add_argument("--seed", type=int, default=_SEED, help="of weights, split and order")
    judging = commands.add_parser("test", help="test a model file, of the shape of one of the networks")
    judging.add_argument("record", type=Path)
    judging.add_argument("--test", type=Path, required=True)
    judging.add_argument("--model", type=Path, default=default_model_path(), help="(default: the packaged one)")
    judging.add_argument("--name", default="packaged", help="in the record")
    judging.add_argument("--network", default="enn copies 4", help="whose shape it has")
    timing = commands.add_parser("time", help="measure all networks")
    timing.add_argument("record", type=Path)
    plot = commands.add_parser("plot", help="draw the figures of a record")
    plot.add_argument("record", type=Path)
    plot.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "data":
        require_writable(arguments.output)
        make_data(arguments.output, arguments.random, arguments.quenches, arguments.last_step, arguments.seed)
    elif arguments.command == "train":
        run(arguments)
    elif arguments.command == "search":
        search(arguments)
    elif arguments.command == "test":
        judge(arguments.record, arguments.model, arguments.name, arguments.network, arguments.test)
    elif arguments.command == "time":
        measure(arguments.record)
    else:
        draw(load(arguments.record), arguments.folder)
        print(tables(load(arguments.record)))


if __name__ == "__main__":
    main()
