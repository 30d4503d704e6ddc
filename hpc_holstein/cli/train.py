"""``hpc-holstein train``: labelled snapshots in, a model file out."""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpc_holstein.cli.options import configuration, site_axes
from hpc_holstein.cli.session import Session, stoppable
from hpc_holstein.cli.training_systems import Labelled, groups_of, ranges_of_systems, reads_matrix, together, training_facts
from hpc_holstein.config import Config, fit_options
from hpc_holstein.config.builders import build_network, build_system
from hpc_holstein.config.same_physics import physics_of, require_fit, system_of
from hpc_holstein.errors import ConfigError, ModelError, TrainingError
from hpc_holstein.fields import SiteAxes
from hpc_holstein.files import require_writable
from hpc_holstein.interfaces import System
from hpc_holstein.network.checkpoint import Card, describe, load_model, make_card, model_hash, read_card, save_model
from hpc_holstein.network.packaged import DEFAULT, model_path, packaged
from hpc_holstein.network.supported import require_supported
from hpc_holstein.output.provenance import provenance, write_json
from hpc_holstein.training import dataset
from hpc_holstein.training._judged import LabelledSystem
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.energy_constant import set_energy_constant
from hpc_holstein.training.fit import FitResult, fit
from hpc_holstein.training.fit_options import FitOptions
from hpc_holstein.training.own_potential import electron_number_part
from hpc_holstein.training.paths import Stop
from hpc_holstein.training.physics import Physics
from hpc_holstein.training.regimes import Regimes
from hpc_holstein.training.validation import POTENTIAL_ERRORS, summary

_SAME_KT = 1e-9  # relative difference of two temperatures that count as one
_SETTING = ("g", "kT")  # options of an architecture that say at which values it works


def execute(args: argparse.Namespace, session: Session) -> None:
    """Train, or continue a training that was interrupted, and write the model with its card."""
    with stoppable(session, args.max_walltime, args.output) as stop:
        _execute(args, session, stop)


def _execute(args: argparse.Namespace, session: Session, stop: Stop) -> None:
    data, args.config = _sorted(args.files)
    config, labelled = _read(data, args)
    system = labelled[0].system
    model_file, metrics_file, figure = (args.output / name for name in ("model.safetensors", "metrics.json", "loss.png"))
    session.on_root(lambda: require_writable(model_file, metrics_file, figure))
    device = session.use(config.parallel.threads, config.parallel.device)
    module, options = network_for(config, system)
    several_kT = not math.isclose(*_temperatures(config, labelled), rel_tol=_SAME_KT)
    main, *further = (_system_for(one, module, args, several_kT) for one in labelled)
    start, told = ("", []) if args.start is None else warm_start(args.start, module, config.model.kind, options, system)
    how = replace(fit_options(config), device=device, threads=torch.get_num_threads())
    part, left_out = electron_number_part(how, module, system.ensemble)
    how = replace(how, electron_number=part)
    count = sum(len(one.snapshots) for one in labelled)
    session.say_all([_headline(config, count, module), *told, *([left_out] if left_out else [])])
    state_file = args.output / ".training.pt"
    curve = args.output / "loss.csv"
    files = state_file, curve, start, stop, main.masks, further
    result = fit(module, main.snapshots, system.hamiltonian, system.ensemble, how, session.transport, *files)
    if result.refused is not None:
        session.on_root(lambda: state_file.unlink(missing_ok=True))
        raise TrainingError(_refusal(result.refused, how, curve))
    for sentence in _doubts(result, args):
        session.say(sentence)
    described = {
        **_options_of(how),
        "regimes": Regimes(system.lattice, args.regimes).definition,
        **({"from": start} if start else {}),
        **({"systems": [_physics_of(one.system) for one in labelled[1:]]} if further else {}),
    }
    also = [Physics.of(one.system.lattice, one.system.hamiltonian, one.system.ensemble).in_words() for one in labelled[1:]]
    card = _card(config.model.kind, options, labelled, [main, *further], result, how.seed, described)

    def write() -> None:
        from hpc_holstein.output.plots import training_curve  # here, so that only rank 0 waits for matplotlib

        save_model(model_file, result.model, card)
        facts = {"regimes": described["regimes"], **({"start": start} if start else {})}
        write_json(metrics_file, {**_metrics(config, data, result, also), **facts})
        training_curve(figure, result.history, result.metrics["baseline_mse"])
        state_file.unlink(missing_ok=True)

    session.on_root(write)
    for words, rows in zip(["", *also], [result.metrics, *result.further], strict=True):
        for name in [name for name in ("validation", "test") if name in rows]:
            session.say(f"{name} set{f' of {words}' if words else ''}\n{summary(rows[name])}")
    session.say(f"{describe(card)}\nwrote {model_file}, {metrics_file}, {args.output / 'loss.csv'} and {figure}")


def _read(data: Sequence[Path], args: argparse.Namespace) -> tuple[Config, list[Labelled]]:
    """The configuration, complete but for what the data does not tell, and the labelled snapshots of each system."""
    groups = groups_of(data, site_axes(args))
    first = dataset.read_together(groups[0], site_axes(args))
    config = configuration(args, {"lattice.extent": list(first.extent), **_budget(args)})
    if not reads_matrix(config):  # one Hamiltonian and extent, which is told where files differ
        groups = [list(data)]
        first = dataset.read_together(data, site_axes(args))
    system = build_system(config)
    labelled = [Labelled(groups[0], first, system), *(_further(group, system, config) for group in groups[1:])]
    config = with_kT_range(config, labelled)
    for path in groups[0]:
        one = dataset.read(path) if len(groups[0]) > 1 else first
        require_fit(one, path, system, lambda meant: network_for(config, meant), _free(first, groups[0]))
    return config, labelled


def _doubts(result: FitResult, args: argparse.Namespace) -> list[str]:
    """Sentences about a result that is no better than what it started from, or than no training."""
    told = []
    if result.metrics["best_epoch"] == 0:
        told.append(f"no epoch was better than the weights of {args.start} on the validation set: these are kept")
    mse, baseline = result.metrics["validation"]["all"]["mse"], result.metrics["baseline_mse"]
    if mse > baseline:
        untrained = "the mean force" if result.model.field == "matrix" else "the atomic limit"
        told.append(
            f"worse than without training: at the chemical potential that the network finds itself its force MSE is {mse:.3g} "
            f"(t_nn/a)^2 on the validation set, that of {untrained} {baseline:.3g}: train longer or give more data"
        )
    return told


def _card(
    architecture: str,
    options: Any,
    labelled: Sequence[Labelled],
    systems: Sequence[LabelledSystem],
    result: FitResult,
    seed: int,
    training: Mapping[str, Any],
) -> Card:
    """The card of the trained model, whose grand potential, if it has one, gets its constant."""
    first, system = labelled[0].snapshots, labelled[0].system
    metrics = card_metrics(result.metrics)
    for other, rows in zip(systems[1:], result.further, strict=True):
        cells = "x".join(map(str, other.snapshots.extent))
        metrics |= {f"{other.hamiltonian.name} {cells}.{name}": value for name, value in _errors_of(rows).items()}
    if result.model.predicts == "grand_potential":
        physics = system.hamiltonian, system.lattice, system.ensemble.kT
        metrics["grand_potential_rmse_per_site"] = set_energy_constant(result.model, first, *physics)
    seen = [training_facts(one, sets, result.model) for one, sets in _with_sets(systems, result)]
    if len(seen) > 1:
        training = {**training, "ranges": ranges_of_systems(systems, seen)}
    return make_card(
        result.model,
        architecture,
        options,
        system.hamiltonian,
        system.lattice,
        system.ensemble,
        data_hash=_hash_of(labelled),
        seed=seed,
        metrics=metrics,
        training=training,
        **together(seen),
    )


def _refusal(why: str, how: FitOptions, curve: Path) -> str:
    """The sentence about a training that ended with nothing worth keeping."""
    return (
        f"the training learned nothing: {why}; no model is written, {curve} shows how it went: lower training.learning_rate "
        f"(here {how.learning_rate:g}), train longer or give more data"
    )


def _sorted(files: Sequence[Path]) -> tuple[list[Path], Path | None]:
    """Files of snapshots, and the configuration."""
    configs = [file for file in files if file.suffix == ".toml"]
    data = [file for file in files if file.suffix != ".toml"]
    if len(configs) > 1 or not data:
        raise ConfigError(
            f"{' '.join(map(str, files))} is not what train takes: give files of snapshots and at most one CONFIG.toml"
        )
    places = [path.resolve() for path in data]
    twice = [path for path, place in zip(data, places, strict=True) if places.count(place) > 1]
    if twice:
        raise ConfigError(f"{twice[-1]} is given twice, and would train and validate at once: give each file of snapshots once")
    return data, configs[0] if configs else None


def _further(paths: Sequence[Path], system: System, config: Config) -> Labelled:
    """States of another Hamiltonian or extent than those of ``system``, as their files say."""
    snapshots = dataset.read_together(paths, SiteAxes.of(system.lattice))
    other = system_of(physics_of(snapshots, paths[0]), system, snapshots.extent)
    for path in paths:
        require_fit(dataset.read(path), path, other, lambda meant: network_for(config, meant), _free(snapshots, paths))
    return Labelled(paths, snapshots, other)


def _system_for(one: Labelled, module: torch.nn.Module, args: argparse.Namespace, several_kT: bool) -> LabelledSystem:
    """The labelled system that ``module`` learns from; ModelError where it cannot."""
    require_supported(module, one.system.hamiltonian, one.system.lattice, one.system.ensemble)
    snapshots = one.snapshots
    if several_kT and snapshots.kT is None:
        snapshots = replace(snapshots, kT=np.full(len(snapshots), one.system.ensemble.kT))
    masks = Regimes(one.system.lattice, args.regimes).masks(snapshots)
    return LabelledSystem(snapshots, one.system.hamiltonian, one.system.ensemble, masks)


def _physics_of(system: System) -> dict[str, Any]:
    """A system as the card lists those beside the main one."""
    kT, filling = system.ensemble.kT, system.ensemble.filling
    return {"hamiltonian": system.hamiltonian.name, "parameters": system.hamiltonian.parameters, "kT": kT, "filling": filling}


def _hash_of(labelled: Sequence[Labelled]) -> str:
    """SHA-256 of the data: that of the snapshots, or of those of all systems together."""
    hashes = [one.snapshots.data_hash for one in labelled]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _with_sets(systems: Sequence[LabelledSystem], result: FitResult) -> list[tuple[LabelledSystem, Mapping[str, Any]]]:
    return list(zip(systems, [result.sets, *result.further_sets], strict=True))


def with_kT_range(config: Config, labelled: Sequence[Labelled]) -> Config:
    """``config`` with ``model.kT_range`` as wide as the data, where that has several ``kT`` and the range is not given.

    Raises ConfigError where the architecture knows one ``kT``, or the range leaves data out.
    """
    low, high = _temperatures(config, labelled)
    if math.isclose(low, high, rel_tol=_SAME_KT):
        return config
    model = config.model
    if "kT_range" not in model.option_names():
        raise ConfigError(
            f"the files have kT from {low:g} to {high:g} and {model.kind} knows one: "
            "give files of one kT, or train enn or enn_energy"
        )
    first, last = model.option_values.get("kT_range") or (low, high)
    if low < first or high > last:
        raise ConfigError(f"model.kT_range = [{first}, {last}] leaves data with kT from {low:g} to {high:g} out: widen it")
    return config.model_copy(update={"model": model.model_copy(update={"kT_range": (first, last)})})


def _temperatures(config: Config, labelled: Sequence[Labelled]) -> tuple[float, float]:
    """Lowest and highest temperature of the data, in the units of the architecture."""
    every = []
    for one in labelled:
        unit = one.system.hamiltonian.hopping if reads_matrix(config) else 1.0
        kT = np.full(1, one.system.ensemble.kT) if one.snapshots.kT is None else one.snapshots.kT
        every += [float(kT.min()) / unit, float(kT.max()) / unit]
    return min(every), max(every)


def network_for(config: Config, system: System) -> tuple[torch.nn.Module, Any]:
    """A fresh network and its options; ModelError where it could not give the forces of ``system`` in a run."""
    module, options = build_network(config, system)
    require_supported(module, system.hamiltonian, system.lattice, system.ensemble)
    return module, options


def _free(snapshots: Snapshots, paths: Sequence[Path]) -> list[str]:
    """Attributes of a file that need not be those of the configuration: what the files of a training differ in.

    Several files are brought to one ``g`` in any case, and may be of several fillings, which is no input of a network.
    """
    values = {name: getattr(snapshots, name) for name in dataset.SETTING}
    free = [name for name, array in values.items() if array is not None and (name == "g" or array.min() < array.max())]
    return [dataset.SETTING[name] for name in free] + (["ensemble.filling"] if len(paths) > 1 else [])


def _options_of(how: FitOptions) -> dict[str, Any]:
    """Description of a training for the card: all that decides its result, the seed apart."""
    return {name: value for name, value in asdict(how).items() if name not in ("device", "threads", "seed")}


def can_start(model: str, config: Config) -> bool:
    """True if a training of ``config`` can start from the weights of ``model``, a path or ``default``."""
    system = build_system(config)
    module, options = build_network(config, system)
    return not _differences(read_card(_start_of(model, system, config.model.kind)), module, config.model.kind, options)


def warm_start(model: str, module: torch.nn.Module, architecture: str, options: Any, system: System) -> tuple[str, list[str]]:
    """Give ``module`` the weights of ``model``, a path or ``default``; returns the SHA-256 of the file, and what to say of it.

    That may be a model of another ``g``, ``kT`` or filling, and one of a single ``kT`` where ``module`` takes that as an input,
    which then changes nothing to begin with.  Raises ModelError where that has another architecture or other options, or scales
    its input by the data of its training.
    """
    path = _start_of(model, system, architecture)
    start, card = load_model(path, system.lattice)
    told = _differences(card, module, architecture, options)
    if told:
        raise ModelError(
            f"weights can be carried on only to the same network, and that of {path} differs: {', '.join(told)}; give the "
            "values of the file in [model], or leave --from out"
        )
    module.load_state_dict(_with_kT(start.state_dict(), module))
    there = {**card.parameters, "kT": card.kT, "filling": card.filling}
    here = {**system.hamiltonian.parameters, "kT": system.ensemble.kT, "filling": system.ensemble.filling}
    odd = ", ".join(f"{name} from {there[name]:g} to {here[name]:g}" for name in here if there.get(name) != here[name])
    return model_hash(path), [f"from the weights of {path}" + (f", {odd}" if odd else "")]


def _with_kT(weights: Mapping[str, torch.Tensor], module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """``weights`` of a network of one ``kT`` for one that takes it: those of the further input and the modulations are 0."""
    found = module.state_dict()
    for name, value in weights.items():
        own = found[name]
        found[name] = value if own.shape == value.shape else torch.zeros_like(own)
        if own.shape != value.shape:  # of the layer that lifts, a channel more
            found[name][:, : value.shape[1]] = value
    return found


def _start_of(model: str, system: System, architecture: str) -> Path:
    """The file whose weights a training starts from; ``default``: of the same lattice and architecture, whatever its kT."""
    if model != DEFAULT:
        return model_path(model)
    cards = {path: read_card(path) for path in packaged().values()}
    alike = [path for path, card in cards.items() if (card.lattice, card.architecture) == (system.lattice.name, architecture)]
    return min(alike, key=lambda path: cards[path].hamiltonian != system.hamiltonian.name, default=model_path(model))


def _differences(card: Card, module: torch.nn.Module, architecture: str, options: Any) -> list[str]:
    """Why the weights of a model mean something else in ``module``; empty where they mean the same.

    They mean energies and weights of levels whatever ``g`` and ``kT``, so a network may be carried on to others.
    """
    if card.architecture != architecture:
        return [f"kind is {card.architecture} in the file and {architecture} here"]
    newer = {f.name: f.default for f in fields(options) if f.name not in card.options}  # than the file
    there, here = {**card.options, **newer}, asdict(options)
    odd = [name for name in here if name not in _SETTING and there.get(name) != here[name]]
    if not there.get("kT_range"):
        odd = [name for name in odd if name != "kT_range"]
    told = [f"{name} is {there.get(name)} in the file and {here[name]} here" for name in odd]
    return told + ["it scales its input by the data of its own training"] * hasattr(module, "calibrate")


def card_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics for the card of a model: ``test.hot.mse`` and so on for each set and regime, and how long it trained."""
    return {**_errors_of(metrics), **{name: float(metrics[name]) for name in ("baseline_mse", "epochs", "elapsed_s")}}


def _errors_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    sets = {name: regimes for name, regimes in metrics.items() if isinstance(regimes, Mapping)}
    return {
        f"{name}.{regime}.{key}": row[key]
        for name, regimes in sets.items()
        for regime, row in regimes.items()
        for key in ("mse", *(("mse_at_reference_mu", *POTENTIAL_ERRORS) if name == "validation" else ()))
        if row.get(key) is not None
    }


def _budget(args: argparse.Namespace) -> dict[str, int]:
    """No limit of epochs if the command line limits the time alone."""
    return {} if getattr(args, "training.time_limit_s") is None else {"training.epochs": 0}


def _headline(config: Config, snapshots: int, module: torch.nn.Module) -> str:
    how = fit_options(config)
    weights = sum(p.numel() for p in module.parameters())
    budget = " or ".join([f"{how.epochs} epochs"] * bool(how.epochs) + [f"{how.time_limit_s:g} s"] * bool(how.time_limit_s))
    return f"{config.model.kind} with {weights} weights, {snapshots} snapshots, {budget}, {how.dtype}, seed {how.seed}"


def _metrics(config: Config, data: Sequence[Path], result: FitResult, also: Sequence[str]) -> dict[str, Any]:
    further = [
        {"system": words, **rows, "sets": {name: index.tolist() for name, index in sets.items()}}
        for words, rows, sets in zip(also, result.further, result.further_sets, strict=True)
    ]
    sets = {name: index.tolist() for name, index in result.sets.items()}
    return {
        **result.metrics,
        "data": str(data[0]) if len(data) == 1 else [*map(str, data)],
        "sets": sets,
        **({"further": further} if further else {}),
        "config": config.toml(),
        **provenance(),
    }
