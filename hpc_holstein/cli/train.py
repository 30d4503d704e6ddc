"""``hpc-holstein train``: labelled snapshots in, a model file out."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, cast

import torch

from hpc_holstein.cli.options import configuration, site_axes
from hpc_holstein.cli.session import Session, stoppable
from hpc_holstein.config import Config, fit_options
from hpc_holstein.config.builders import build_network, build_system
from hpc_holstein.config.same_physics import require_fit
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import ConfigError, ModelError, TrainingError
from hpc_holstein.files import require_writable
from hpc_holstein.interfaces import System
from hpc_holstein.network.checkpoint import Card, describe, load_model, make_card, model_hash, read_card, save_model
from hpc_holstein.network.elements import element_ranges, strength
from hpc_holstein.network.field_range import field_range
from hpc_holstein.network.packaged import DEFAULT, model_path, packaged
from hpc_holstein.network.supported import require_supported
from hpc_holstein.network.surroundings import surroundings_of
from hpc_holstein.output.provenance import provenance, write_json
from hpc_holstein.training import dataset
from hpc_holstein.training._fields import chemical_potential
from hpc_holstein.training._judged import training_data
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.energy_constant import set_energy_constant
from hpc_holstein.training.fit import FitResult, fit
from hpc_holstein.training.fit_options import FitOptions
from hpc_holstein.training.own_potential import electron_number_part
from hpc_holstein.training.paths import Stop
from hpc_holstein.training.regimes import Regimes
from hpc_holstein.training.validation import POTENTIAL_ERRORS, summary

_SETTING = ("g", "kT")  # options of an architecture that say at which values it works


def execute(args: argparse.Namespace, session: Session) -> None:
    """Train, or continue a training that was interrupted, and write the model with its card."""
    with stoppable(session, args.max_walltime, args.output) as stop:
        _execute(args, session, stop)


def _execute(args: argparse.Namespace, session: Session, stop: Stop) -> None:
    data, args.config = _sorted(args.files)
    snapshots = dataset.read_together(data, site_axes(args))
    config = configuration(args, {"lattice.extent": list(snapshots.extent), **_budget(args)})
    config = with_kT_range(config, snapshots)
    system = build_system(config)
    for path in data:
        one = dataset.read(path) if len(data) > 1 else snapshots
        require_fit(one, path, system, lambda meant: network_for(config, meant), _free(snapshots))
    model_file, metrics_file, figure = (args.output / name for name in ("model.safetensors", "metrics.json", "loss.png"))
    session.on_root(lambda: require_writable(model_file, metrics_file, figure))
    device = session.use(config.parallel.threads, config.parallel.device)
    regimes = Regimes(system.lattice, args.regimes)
    module, options = network_for(config, system)
    start, told = ("", []) if args.start is None else warm_start(args.start, module, config.model.kind, options, system)
    how = replace(fit_options(config), device=device, threads=torch.get_num_threads())
    part, left_out = electron_number_part(how, module, system.ensemble)
    how = replace(how, electron_number=part)
    session.say_all([_headline(config, len(snapshots), module), *told, *([left_out] if left_out else [])])
    state_file = args.output / ".training.pt"
    curve = args.output / "loss.csv"
    files = state_file, curve, start, stop, regimes.masks(snapshots)
    result = fit(module, snapshots, system.hamiltonian, system.ensemble, how, session.transport, *files)
    if result.refused is not None:
        session.on_root(lambda: state_file.unlink(missing_ok=True))
        raise TrainingError(_refusal(result.refused, how, curve))
    if result.metrics["best_epoch"] == 0:
        session.say(f"no epoch was better than the weights of {args.start} on the validation set: these are kept")
    mse, baseline = result.metrics["validation"]["all"]["mse"], result.metrics["baseline_mse"]
    if mse > baseline:
        untrained = "the mean force" if result.model.field == "matrix" else "the atomic limit"
        session.say(
            f"worse than without training: at the chemical potential that the network finds itself its force MSE is {mse:.3g} "
            f"(t_nn/a)^2 on the validation set, that of {untrained} {baseline:.3g}: train longer or give more data"
        )
    metrics = card_metrics(result.metrics)
    if result.model.predicts == "grand_potential":
        physics = system.hamiltonian, system.lattice, system.ensemble.kT
        metrics["grand_potential_rmse_per_site"] = set_energy_constant(result.model, snapshots, *physics)
    whole = CartesianDomain(system.lattice, SerialTransport())
    fields = {name: _fields(result, name, snapshots, system) for name in ("training", "validation")}
    ranges = _ranges(snapshots)
    if result.model.field == "matrix":
        ranges = matrix_ranges(ranges, snapshots.select(result.sets["training"]), result.model, system)
    coupling = 1.0 if result.model.field == "matrix" else system.hamiltonian.parameters["g"]
    card = make_card(
        result.model,
        config.model.kind,
        options,
        system.hamiltonian,
        system.lattice,
        system.ensemble,
        data_hash=snapshots.data_hash,
        seed=how.seed,
        metrics=metrics,
        seen=field_range(fields["training"], whole),
        surroundings=surroundings_of(fields["training"], fields["validation"], coupling, whole),
        ranges=ranges,
        training={**_options_of(how), "regimes": regimes.definition, **({"from": start} if start else {})},
    )

    def write() -> None:
        from hpc_holstein.output.plots import training_curve  # here, so that only rank 0 waits for matplotlib

        save_model(model_file, result.model, card)
        facts = {"regimes": regimes.definition, **({"start": start} if start else {})}
        write_json(metrics_file, {**_metrics(config, data, result), **facts})
        training_curve(figure, result.history, result.metrics["baseline_mse"])
        state_file.unlink(missing_ok=True)

    session.on_root(write)
    for name in [name for name in ("validation", "test") if name in result.metrics]:
        session.say(f"{name} set\n{summary(result.metrics[name])}")
    session.say(f"{describe(card)}\nwrote {model_file}, {metrics_file}, {args.output / 'loss.csv'} and {figure}")


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


def with_kT_range(config: Config, snapshots: Snapshots) -> Config:
    """``config`` with ``model.kT_range`` as wide as the data, where that has several ``kT`` and the range is not given.

    Raises ConfigError where the architecture knows one ``kT``, or the range leaves data out.
    """
    if snapshots.kT is None or snapshots.kT.min() == snapshots.kT.max():
        return config
    model = config.model
    unit = build_system(config).hamiltonian.hopping if getattr(model.made_of, "in_hopping", False) else 1.0
    low, high = float(snapshots.kT.min()) / unit, float(snapshots.kT.max()) / unit
    if "kT_range" not in model.option_names():
        raise ConfigError(
            f"the files have kT from {low:g} to {high:g} and {model.kind} knows one: "
            "give files of one kT, or train enn or enn_energy"
        )
    first, last = model.option_values.get("kT_range") or (low, high)
    if low < first or high > last:
        raise ConfigError(f"model.kT_range = [{first}, {last}] leaves data with kT from {low:g} to {high:g} out: widen it")
    return config.model_copy(update={"model": model.model_copy(update={"kT_range": [first, last]})})


def network_for(config: Config, system: System) -> tuple[torch.nn.Module, Any]:
    """A fresh network and its options; ModelError where it could not give the forces of ``system`` in a run."""
    module, options = build_network(config, system)
    require_supported(module, system.hamiltonian, system.lattice, system.ensemble)
    return module, options


def _free(snapshots: Snapshots) -> list[str]:
    """Attributes of a file that need not be those of the configuration: what the files of a training differ in.

    Several files are brought to one ``g`` in any case.
    """
    values = {name: getattr(snapshots, name) for name in dataset.SETTING}
    free = [name for name, array in values.items() if array is not None and (name == "g" or array.min() < array.max())]
    return [dataset.SETTING[name] for name in free]


def _options_of(how: FitOptions) -> dict[str, Any]:
    """Description of a training for the card: all that decides its result, the seed apart."""
    return {name: value for name, value in asdict(how).items() if name not in ("device", "threads", "seed")}


def _ranges(snapshots: Snapshots) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of the parameters that the data has several of."""
    values = {name: getattr(snapshots, name) for name in dataset.SETTING}
    return {
        name: (float(array.min()), float(array.max()))
        for name, array in values.items()
        if array is not None and array.min() < array.max()
    }


def can_start(model: str, config: Config) -> bool:
    """True if a training of ``config`` can start from the weights of ``model``, a path or ``default``."""
    system = build_system(config)
    module, options = build_network(config, system)
    return not _differences(read_card(_start_of(model, system, config.model.kind)), module, config.model.kind, options)


def warm_start(model: str, module: torch.nn.Module, architecture: str, options: Any, system: System) -> tuple[str, list[str]]:
    """Give ``module`` the weights of ``model``, a path or ``default``; returns the SHA-256 of the file, and what to say of it.

    That may be a model of another ``g``, ``kT`` or filling.  Raises ModelError where that has another architecture or other
    options, or scales its input by the data of its training.
    """
    path = _start_of(model, system, architecture)
    start, card = load_model(path, system.lattice)
    told = _differences(card, module, architecture, options)
    if told:
        raise ModelError(
            f"weights can be carried on only to the same network, and that of {path} differs: {', '.join(told)}; give the "
            "values of the file in [model], or leave --from out"
        )
    module.load_state_dict(start.state_dict())
    there = {**card.parameters, "kT": card.kT, "filling": card.filling}
    here = {**system.hamiltonian.parameters, "kT": system.ensemble.kT, "filling": system.ensemble.filling}
    odd = ", ".join(f"{name} from {there[name]:g} to {here[name]:g}" for name in here if there.get(name) != here[name])
    return model_hash(path), [f"from the weights of {path}" + (f", {odd}" if odd else "")]


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
    told = [f"{name} is {there.get(name)} in the file and {here[name]} here" for name in odd]
    return told + ["it scales its input by the data of its own training"] * hasattr(module, "calibrate")


def _fields(result: FitResult, name: str, snapshots: Snapshots, system: System) -> torch.Tensor:
    """Fields of a set that the network reads, ``[snapshot, *extent, basis]``."""
    seen, physics = snapshots.select(result.sets[name]), (torch.float64, torch.device("cpu"))
    inputs = training_data(seen, result.model, system.hamiltonian, *physics).inputs
    if result.model.field == "matrix":
        return strength(inputs, cast(Any, result.model).elements)
    return inputs.reshape(len(seen), *system.lattice.extent, len(system.lattice.basis))


def matrix_ranges(
    ranges: dict[str, tuple[float, float]], snapshots: Snapshots, model: torch.nn.Module, system: System
) -> dict[str, tuple[float, float]]:
    """Ranges of ``kT/t`` and of the elements of ``H/t``, which are what a network that reads these knows."""
    hopping = system.hamiltonian.hopping
    data = training_data(snapshots, model, system.hamiltonian, torch.float64, torch.device("cpu"))
    found = element_ranges(data.inputs, chemical_potential(snapshots) / hopping, cast(Any, model).elements)
    if "kT" in ranges:
        low, high = ranges["kT"]
        found["kT/t"] = low / hopping, high / hopping
    return found


def card_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics for the card of a model: ``test.hot.mse`` and so on for each set and regime, and how long it trained."""
    sets = {name: regimes for name, regimes in metrics.items() if isinstance(regimes, Mapping)}
    errors = {
        f"{name}.{regime}.{key}": row[key]
        for name, regimes in sets.items()
        for regime, row in regimes.items()
        for key in ("mse", *(("mse_at_reference_mu", *POTENTIAL_ERRORS) if name == "validation" else ()))
        if row.get(key) is not None
    }
    return {**errors, **{name: float(metrics[name]) for name in ("baseline_mse", "epochs", "elapsed_s")}}


def _budget(args: argparse.Namespace) -> dict[str, int]:
    """No limit of epochs if the command line limits the time alone."""
    return {} if getattr(args, "training.time_limit_s") is None else {"training.epochs": 0}


def _headline(config: Config, snapshots: int, module: torch.nn.Module) -> str:
    how = fit_options(config)
    weights = sum(p.numel() for p in module.parameters())
    budget = " or ".join([f"{how.epochs} epochs"] * bool(how.epochs) + [f"{how.time_limit_s:g} s"] * bool(how.time_limit_s))
    return f"{config.model.kind} with {weights} weights, {snapshots} snapshots, {budget}, {how.dtype}, seed {how.seed}"


def _metrics(config: Config, data: Sequence[Path], result: FitResult) -> dict[str, Any]:
    sets = {name: index.tolist() for name, index in result.sets.items()}
    return {
        **result.metrics,
        "data": str(data[0]) if len(data) == 1 else [*map(str, data)],
        "sets": sets,
        "config": config.toml(),
        **provenance(),
    }
