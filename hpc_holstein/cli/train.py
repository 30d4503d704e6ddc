"""``hpc-holstein train``: labelled snapshots in, a model file out."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hpc_holstein.cli.options import add_physics, default_preset, overrides, positive
from hpc_holstein.cli.session import Session
from hpc_holstein.config import Config, fit_options, load_config
from hpc_holstein.config.builders import build_network, build_system, require_fit
from hpc_holstein.files import require_writable
from hpc_holstein.network.checkpoint import describe, make_card, save_model
from hpc_holstein.output.provenance import provenance, write_json
from hpc_holstein.training import dataset
from hpc_holstein.training.fit import FitResult, fit
from hpc_holstein.training.validation import summary

HELP = "train a network on labelled snapshots; writes model.safetensors, loss.csv, loss.png and metrics.json"
EXAMPLE = "example: mpirun -n 2 hpc-holstein train data.h5 --model enn --time-limit 600 --output model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("data", type=Path, metavar="DATA.h5", help="labelled snapshots, from `hpc-holstein label`")
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG.toml", help="sections [model] and [training]")
    add_physics(parser)
    parser.add_argument("--model", metavar="NAME", help="architecture: enn or efnn")
    parser.add_argument("--epochs", type=positive, metavar="N", help="passes through the training set")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="end after this time")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the weights, the split and the order of the batches")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder of the results")


def execute(args: argparse.Namespace, session: Session) -> None:
    """Train, or continue a training that was interrupted, and write the model with its card."""
    snapshots = dataset.read(args.data, require_labels=True)
    config = load_config(args.config, default_preset(args), {"lattice.extent": list(snapshots.extent), **_overrides(args)})
    system = build_system(config)
    require_fit(snapshots, args.data, system)
    model_file, metrics_file, figure = (args.output / name for name in ("model.safetensors", "metrics.json", "loss.png"))
    session.on_root(lambda: require_writable(model_file, metrics_file, figure))
    device = session.use(config.parallel.threads, config.parallel.device)
    module, options = build_network(config, system)
    how = replace(fit_options(config), device=device, threads=torch.get_num_threads())
    session.say(_headline(config, len(snapshots), module))
    state_file = args.output / ".training.pt"
    result = fit(
        module, snapshots, system.hamiltonian, system.ensemble, how, session.transport, state_file, args.output / "loss.csv"
    )
    card = make_card(
        result.model,
        config.model.kind,
        options,
        system.hamiltonian,
        system.lattice,
        system.ensemble,
        data_hash=snapshots.data_hash,
        seed=how.seed,
        metrics=card_metrics(result.metrics),
    )

    def write() -> None:
        from hpc_holstein.output.plots import training_curve  # here, so that only rank 0 waits for matplotlib

        save_model(model_file, result.model, card)
        write_json(metrics_file, _metrics(config, args.data, result))
        training_curve(figure, result.history, result.metrics["baseline_mse"])
        state_file.unlink(missing_ok=True)

    session.on_root(write)
    for name in [name for name in ("validation", "test") if name in result.metrics]:
        session.say(f"{name} set\n{summary(result.metrics[name])}")
    session.say(f"{describe(card)}\nwrote {model_file}, {metrics_file}, {args.output / 'loss.csv'} and {figure}")


def card_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What the card of a model says: ``test.hot.mse`` and so on for each set and regime, and how long it trained."""
    sets = {name: regimes for name, regimes in metrics.items() if isinstance(regimes, Mapping)}
    errors = {f"{name}.{regime}.mse": row["mse"] for name, regimes in sets.items() for regime, row in regimes.items()}
    return {**errors, **{name: float(metrics[name]) for name in ("baseline_mse", "epochs", "elapsed_s")}}


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    given = {"training.epochs": args.epochs, "training.seed": args.seed, "training.time_limit_s": args.time_limit}
    if args.epochs is None and args.time_limit is not None:
        given["training.epochs"] = 0  # the time alone limits
    shared = {key: value for key, value in overrides(args).items() if key != "dynamics.seed"}
    return {"model.kind": args.model, **given, **shared}


def _headline(config: Config, snapshots: int, module: torch.nn.Module) -> str:
    how = fit_options(config)
    weights = sum(p.numel() for p in module.parameters())
    budget = " or ".join([f"{how.epochs} epochs"] * bool(how.epochs) + [f"{how.time_limit_s:g} s"] * bool(how.time_limit_s))
    return f"{config.model.kind} with {weights} weights, {snapshots} snapshots, {budget}, {how.dtype}, seed {how.seed}"


def _metrics(config: Config, data: Path, result: FitResult) -> dict[str, Any]:
    sets = {name: index.tolist() for name, index in result.sets.items()}
    return {**result.metrics, "data": str(data), "sets": sets, "config": config.toml(), **provenance()}
