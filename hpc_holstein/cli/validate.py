"""``hpc-holstein validate``: one force provider against another, or against stored labels."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hpc_holstein
from hpc_holstein.cli.arguments import RUN_STATES
from hpc_holstein.cli.options import configuration, overrides, site_axes
from hpc_holstein.cli.session import Bar, Session
from hpc_holstein.cli.sides import LABELS, ForcePair, budget_rungs, judged_at_reference, sides_of, subject_of
from hpc_holstein.cli.trust import unlike_in_words, unlike_training
from hpc_holstein.config import Config, config_of_text
from hpc_holstein.config.builders import build_system, model_facts, scaling_told, with_own_model
from hpc_holstein.config.same_physics import another_system, require_fit
from hpc_holstein.config.same_run import identity
from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import Lattice
from hpc_holstein.network.checkpoint import model_hash
from hpc_holstein.network.packaged import is_model, model_path
from hpc_holstein.output.analysis import state_of
from hpc_holstein.output.derived import Derived, ResultOrigin
from hpc_holstein.output.provenance import provenance
from hpc_holstein.storage.trajectory import open_trajectory, trajectory_of
from hpc_holstein.training import dataset
from hpc_holstein.training.budget import Part, budget_table, error_budget, rung_force
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.label import Evaluation
from hpc_holstein.training.regimes import Regimes
from hpc_holstein.training.validation import UNITS, Comparison, compare, summary
from hpc_holstein.training.verdict import Verdict, verdict

_NOT_OF_RESULT = ("command", "run", "input", "output", "parallel.threads", "parallel.device", "config")
_FIGURES = ("force_parity", "force_errors", "error_histogram", "error_map", "error_budget")


@dataclass(frozen=True)
class _Outcome:
    """Everything that is written: the comparison, the sides it is of, its budget if asked for, the sites if sampled, how many
    states are unlike the training of the judged network, and the verdict.
    """

    found: Comparison
    sides: ForcePair
    budget: list[Part]
    sites: NDArray[np.int64] | None
    unlike: dict[str, float]
    verdict: Verdict


def execute(args: argparse.Namespace, session: Session) -> None:
    """Compare and write."""
    folder = args.output or (trajectory_of(args.run).parent / "validation" if args.run else Path("validation"))
    files = {name: folder / f"{name}.png" for name in _FIGURES}
    snapshots, config, source = _from_run(args, session) if args.run else _from_file(args)
    result = Derived(folder / "validation.json", list(files.values()), _made(args, config, source))
    if session.on_root(result.is_up_to_date):
        session.say(f"{folder / 'validation.json'} is up to date: {args.run or args.input} has not changed")
        return
    sides = sides_of(args, config)
    device = session.use(config.parallel.threads, config.parallel.device)
    system = build_system(config)
    if args.input:
        require_fit(snapshots, args.input, system, sides.require)
    session.say_all(scaling_told(config.force, system))
    sites = sides.chosen(system)
    with Bar(session) as bar:
        common: dict[str, Any] = {"lattice": system.lattice, "transport": session.transport, "device": device, "progress": bar}
        judged, reference, potential = sides.build(system)
        found = compare(judged, reference, snapshots, sites=sites, potential=potential, steps=args.regimes, **common)
        budget = []
        if args.budget:
            rungs, rest = budget_rungs(sides, system, found)
            budget = error_budget(found, rungs, rest, system.ensemble.kT, **common)
        rung = judged_at_reference(sides, system, found)
        fixed = None if rung is None else rung_force(found, rung, system.ensemble.kT, **common)
    unlike = unlike_training(sides.judged, system, found.predicted.snapshots) if sides.judged.kind == "neural" else {}
    outcome = _Outcome(found, sides, budget, sites, unlike, verdict(found, fixed, subject_of(sides, system)))
    regimes = Regimes(system.lattice, args.regimes).definition
    facts = {"regimes": regimes, **model_facts(config.force, system), **session.mpi_facts(), **provenance()}
    session.say(_in_words(outcome, args.reference))
    names = config.force.kind, args.reference
    content = {**_numbers(outcome, args.reference), **facts}
    written = session.write_results(lambda: result.write(content, lambda: _draw(files, outcome, names, system.lattice)))
    session.say("wrote " + ", ".join(str(path) for path in written))


_Source = tuple[str, dict[str, Any]]
"""Identity of the states, and how far their source is."""


def _made(args: argparse.Namespace, config: Config, source: _Source) -> ResultOrigin:
    """For the record: what the command line asks for, and the models that it is asked of."""
    options = {name: value for name, value in vars(args).items() if name not in _NOT_OF_RESULT and value not in (None, [])}
    if not args.run:
        options["configuration"] = config.toml()
    return ResultOrigin(
        "validate", source[0], json.loads(json.dumps(options, default=str)), {**source[1], **_models(args, config)}
    )


def _models(args: argparse.Namespace, config: Config) -> dict[str, str]:
    """Hashes of the models of both sides."""
    system = build_system(config)
    reference = model_hash(model_path(args.reference, system)) if is_model(args.reference) else ""
    return {"model": model_facts(config.force, system).get("model.sha256", ""), "reference": reference}


def _from_run(args: argparse.Namespace, session: Session) -> tuple[Snapshots, Config, _Source]:
    """States of a run, the last one among them, its configuration with what the command line changes, and their source."""
    if args.config or args.preset:
        raise ConfigError("a configuration or preset has no meaning with --run, which brings its own: remove it")
    with open_trajectory(trajectory_of(args.run)) as trajectory:
        config = config_of_text(trajectory.config, overrides(args))
        if not any(key.startswith("force.") for key in overrides(args)):
            config = with_own_model(config, trajectory_of(args.run).parent, trajectory.attributes.get("model.sha256"))
        session.say_all(another_system(trajectory.attributes, args.run, build_system(config)))
        states = [trajectory.snapshot(index) for index in _evenly(len(trajectory), args.states or RUN_STATES)]
        source = identity(trajectory.config, trajectory.attributes), state_of(trajectory)
    q, steps = np.stack([state.q for state in states]), np.array([state.step for state in states])
    return Snapshots.on(build_system(config).lattice, q, 0, steps, source=str(args.run)), config, source


def _from_file(args: argparse.Namespace) -> tuple[Snapshots, Config, _Source]:
    snapshots = dataset.read(args.input, args.reference == LABELS, site_axes(args))
    config = configuration(args, {"lattice.extent": list(snapshots.extent)})
    source = str(args.input.resolve()), {"data": snapshots.data_hash, "version": hpc_holstein.__version__}
    return snapshots.select(_evenly(len(snapshots), args.states)) if args.states else snapshots, config, source


def _evenly(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` of ``count`` states, from the first to the last; of one, the last."""
    chosen = np.linspace(count - 1, 0, min(wanted, count)).round()
    return np.unique(chosen.astype(int)).tolist()


def _in_words(outcome: _Outcome, reference: str) -> str:
    """The tables for the terminal."""
    found, sides = outcome.found, outcome.sides
    rows = {name: {**row, **found.seconds[name]} for name, row in found.metrics.items()}
    where = "" if outcome.sites is None else f" at {len(outcome.sites)} sites of each state (seed {sides.seed})"
    lines = [f"{sides.judged.kind} against {reference}{where}, total force", summary(rows)]
    if outcome.unlike:
        lines.append(unlike_in_words(outcome.unlike))
    if found.potential_of is not None:
        lines.append(f"chemical potential of the sampled side: that of {found.potential_of}")
    if outcome.budget:
        at = f"error budget at {outcome.budget[-1].values} forces: differences that add up to the total, site by site"
        lines += [at, budget_table(outcome.budget)]
    return "\n".join([*lines, f"verdict: {outcome.verdict.sentence}"])


def _numbers(outcome: _Outcome, reference: str) -> dict[str, Any]:
    """The content of validation.json but for where it was made."""
    found, sides = outcome.found, outcome.sides
    rows = {name: {**row, **found.seconds[name]} for name, row in found.metrics.items()}
    judged = {"kind": sides.judged.kind, **_side_numbers(found.predicted, sides.judged.option_values)}
    judge = {
        "kind": reference,
        **_side_numbers(found.reference, {} if sides.reference is None else sides.reference.option_values),
    }
    numbers: dict[str, Any] = {"force": sides.judged.kind, "reference": reference, **rows, "units": UNITS}
    numbers |= {"judged_provider": judged, "reference_provider": judge}
    numbers["verdict"] = asdict(outcome.verdict)
    if outcome.sites is not None:
        numbers["sites"] = {"count": len(outcome.sites), "seed": sides.seed, "numbers": outcome.sites.tolist()}
    if outcome.unlike:
        numbers["training"] = outcome.unlike
    if found.potential_of is not None:
        numbers["chemical_potential_of"] = found.potential_of
    if outcome.budget:
        numbers["budget"] = {"parts": [asdict(part) for part in outcome.budget], "units": {"rms": "t_nn/a", "max": "t_nn/a"}}
    return numbers


def _side_numbers(side: Evaluation, options: dict[str, Any]) -> dict[str, Any]:
    """Options of a provider, what it promises, and the largest of what it tells with its forces."""
    largest = {key: float(row.max()) for key, row in side.info.items() if np.isfinite(row).all()}
    return {"options": options, "tolerance": side.tolerance, "reach": side.reach, "info_max": largest}


def _draw(files: dict[str, Path], outcome: _Outcome, names: tuple[str, str], lattice: Lattice) -> list[Path]:
    """The figures that the comparison allows; returns their paths."""
    from hpc_holstein.output import plots  # here, so that only rank 0 waits for matplotlib

    found = outcome.found
    predicted, reference = found.predicted.snapshots.force, found.reference.snapshots.force
    assert predicted is not None
    assert reference is not None
    kept, error = np.isfinite(reference), np.abs(predicted - reference)
    plots.force_parity(files["force_parity"], predicted[kept], reference[kept], found.metrics["all"], names)
    plots.error_histogram(files["error_histogram"], error[kept], names)
    drawn = ["force_parity", "error_histogram"]
    snapshots = found.reference.snapshots
    along = snapshots.quench != -1
    if along.any():
        flat = error.reshape(len(error), -1)[along]
        masks = {name: mask[along] for name, mask in found.masks.items() if name not in ("all", "random")}
        plots.force_errors(files["force_errors"], snapshots.step[along], np.nanmean(flat**2, axis=1), masks)
        drawn.append("force_errors")
    if kept[-1].all():
        largest = error[-1].reshape(*lattice.extent, len(lattice.basis), -1).max(axis=-1)
        plots.error_map(files["error_map"], largest, lattice, int(snapshots.step[-1]), names)
        drawn.append("error_map")
    if outcome.budget:
        plots.error_budget(files["error_budget"], [(part.name, part.rms, part.max) for part in outcome.budget], names)
        drawn.append("error_budget")
    return [files[name] for name in drawn]
