"""``hpc-holstein run``: the dynamics of a configuration, alone or on the ranks that mpirun started."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hpc_holstein.cli import replicas, restart
from hpc_holstein.cli.options import configuration
from hpc_holstein.cli.replicas import ReplicaGroup
from hpc_holstein.cli.restart import Folder, Start
from hpc_holstein.cli.session import Session, deadline
from hpc_holstein.cli.trust import (
    PotentialError,
    limits_of,
    potential_error,
    refuse_foreign_states,
    trained_elsewhere,
    trust_of,
)
from hpc_holstein.config import Config, builders
from hpc_holstein.config.observables import recorded
from hpc_holstein.domain.torch_transport import route_in_words
from hpc_holstein.errors import SpectrumError
from hpc_holstein.files import replace_text
from hpc_holstein.interfaces import State
from hpc_holstein.output import checkpoint
from hpc_holstein.output.analysis import finite
from hpc_holstein.output.folder_lock import FolderLock
from hpc_holstein.output.provenance import UNITS, provenance
from hpc_holstein.simulation import (
    CheckpointKeeper,
    Ledger,
    Lockstep,
    Progress,
    Recorder,
    Simulation,
    SnapshotWriter,
    StopSignals,
    Summary,
    Trust,
    Watch,
    clock,
)
from hpc_holstein.simulation.trust import in_words as trust_in_words


def execute(args: argparse.Namespace, session: Session) -> int:
    """Check everything, then run; returns the exit code."""
    config = configuration(args)

    def one(config: Config, session: Session, company: ReplicaGroup) -> int:
        return _run_one(config, args.restart, args.max_walltime, session, company)

    with StopSignals() as signals:
        if config.parallel.replicas > 1:
            return replicas.run_all(config, args.restart, session, signals, one)
        return one(config, session, ReplicaGroup(signals, Lockstep(1), session.say))


def _run_one(config: Config, restarted: str, walltime: float | None, session: Session, company: ReplicaGroup) -> int:
    """A run on the ranks of ``session``, in the ``company`` of others; its exit code."""
    folder = Folder(Path(config.output.folder))
    config = builders.with_own_model(config, folder.path)
    until = deadline(walltime)
    with FolderLock(folder.path, config.output.locking) as lock:
        session.on_root(lambda: lock.acquire() if folder.path.is_dir() else None)
        start = restart.find(config, restarted, folder, session)
        session.say_all(start.told)
        if start.finished:
            session.say(f"the run in {folder.path} is finished: ask for more than its {start.step} steps to extend it")
            return os.EX_OK
        parallel, transport = config.parallel, session.transport
        device = session.use(
            parallel.threads,
            parallel.device,
            lambda chosen: route_in_words(parallel.transport, transport, chosen, parallel.gpu_buffers),
        )
        simulation = builders.build_simulation(config, transport, device)
        recorded(config.observable, simulation.hamiltonian)  # raises before anything is written
        limits = limits_of(config, simulation)
        session.on_root(lambda: refuse_foreign_states(start, folder.collected, limits))
        session.say(_headline(config, simulation, start))
        session.say(simulation.integrator.time_step_in_words(simulation.hamiltonian.stiffness[1]))
        session.say_all(builders.scaling_told(config.force, builders.build_system(config)))
        elsewhere = trained_elsewhere(simulation)
        if elsewhere:
            session.say(f"warning: {elsewhere}")
        gathers = restart.gathers(config, simulation)
        company.admit(simulation, config, gathers, session)
        facts = {checkpoint.IDENTITY: start.run, **simulation_facts(config, simulation), **session.mpi_facts()}
        if start.step is None:
            state = builders.initial_state(config, simulation, session.say)
        else:
            state = checkpoint.restored(start.stored, simulation.domain, simulation.transport)

        def claim() -> None:
            lock.acquire()
            restart.prepare(start, folder)
            builders.keep_model(config, folder.path)

        session.on_root(claim)
        restart.save_first(start, state, folder, gathers, config, facts, simulation)
        start = replace(start, stored=None)  # a whole lattice
        seconds, domain = 60 * config.output.checkpoint_minutes, simulation.domain
        watch = Watch(domain, company.signals, until, folder.stop, seconds, company.stop_file, simulation.runs)
        trust = trust_of(limits, config, simulation, start, folder.collected, session)
        last, summary = _run(config, simulation, state, start, folder, facts, watch, trust, session)
        error = None if summary.stopped else potential_error(config, simulation, last)
        facts |= {} if error is None else {"chemical_potential": error.content()}
        account = json.dumps(_account(config, simulation, summary, facts), indent=2, allow_nan=False)
        session.on_root(lambda: replace_text(folder.summary, f"{account}\n"))
    session.say(_closing(summary, folder, config.dynamics.steps, simulation.runs, error))
    return os.EX_TEMPFAIL if summary.stopped else os.EX_OK


def _run(
    config: Config,
    simulation: Simulation,
    state: State,
    start: Start,
    folder: Folder,
    facts: dict[str, Any],
    watch: Watch,
    trust: Trust | None,
    session: Session,
) -> tuple[State, Summary]:
    """The loop with everything that it writes; collective."""
    output, domain = config.output, simulation.domain
    with restart.open_writer(start, simulation, folder, config, facts) as writer:
        health = builders.health_of(config, start.health())
        observables = recorded(config.observable, simulation.hamiltonian)
        record = Recorder(output.observables_every, simulation, writer, health, *observables)
        session.say_all(record.told)
        observers: list[Any] = [SnapshotWriter(output.snapshot_every, writer, trust)]
        if session.is_root:
            observers.append(Progress(config.dynamics.steps, domain.lattice.sites, session.say, simulation.runs))
        ledger = Ledger(simulation.transport, start.totals(), simulation.clock)
        keeper = CheckpointKeeper(
            folder.checkpoints,
            output.checkpoint_every,
            output.checkpoints_kept,
            domain,
            simulation.transport,
            ledger,
            record,
            writer,
            facts,
            state.step,
        )
        left = config.dynamics.steps - state.step
        try:
            return simulation.run(state, left, record, observers, ledger, watch, keeper, trust)
        except SpectrumError as error:
            raise SpectrumError(f"{error}; the state of step {keeper.step} is kept in {folder.checkpoints}") from None


def simulation_facts(config: Config, simulation: Simulation) -> dict[str, Any]:
    """Attributes of a trajectory: the configuration as TOML, the seed, the model with its card, versions."""
    provider = builders.provider_facts(config.force, builders.build_system(config))
    elsewhere = trained_elsewhere(simulation)
    told = {"model.trained_elsewhere": elsewhere} if elsewhere else {}
    return {"units": UNITS, "config": config.toml(), "seed": config.dynamics.seed, **provider, **told, **provenance()}


def _headline(config: Config, simulation: Simulation, start: Start) -> str:
    extent, grid = ("x".join(map(str, numbers)) for numbers in (config.lattice.extent, simulation.domain.grid))
    parallel = config.parallel
    return (
        f"{extent} {config.lattice.kind} lattice, rank grid {grid}, {config.force.kind} forces, {config.dynamics.scheme}, "
        f"{config.dynamics.steps} steps of dt = {config.dynamics.dt:g} hbar/t_nn, {parallel.dtype}, seed {config.dynamics.seed}"
        + (", deterministic" if parallel.deterministic else "")
        + (f"; continued at step {start.step}" if start.step else "")
    )


def _account(config: Config, simulation: Simulation, summary: Summary, attributes: dict[str, Any]) -> dict[str, Any]:
    """Content of summary.json."""
    return {
        **asdict(summary),
        "observables": {name: finite(value) for name, value in summary.observables.items()},
        "trust": {name: finite(value) for name, value in summary.trust.items()},
        "site_steps_per_second": summary.site_steps_per_second,
        "other_seconds": summary.other_seconds,
        "halo_bytes_per_step": summary.halo_bytes_per_step,
        "hidden_fraction": summary.hidden_fraction,
        "runs_together": simulation.runs,
        "ranks": simulation.domain.size,
        "grid": list(simulation.domain.grid),
        "lattice": list(config.lattice.extent),
        **attributes,
    }


def _times(summary: Summary) -> list[str]:
    """Shares of the time, and the cost of the halos if there are any."""
    share = 100 / max(summary.wall_seconds, 1e-9)
    parts = {"forces": summary.force_seconds, "communication": summary.communication_seconds}
    parts |= {"output": summary.output_seconds, "rest": summary.other_seconds}
    lines = ["time of rank 0: " + ", ".join(f"{name} {seconds * share:.0f} %" for name, seconds in parts.items())]
    if summary.halo_bytes:
        hidden = f", hidden behind work for {100 * summary.hidden_fraction:.0f} % of it" if summary.hidden_seconds else ""
        lines.append(
            f"halos of rank 0: {summary.halo_bytes_per_step / 1e3:.4g} kB a step, "
            f"{summary.halo_seconds:.3g} s waited for them ({summary.halo_seconds * share:.1f} %){hidden}"
        )
    return lines


def _closing(summary: Summary, folder: Folder, steps: int, runs: int, error: PotentialError | None) -> str:
    """The run in a few lines."""
    found, share = summary.observables, f", its share of {runs} runs together" if runs > 1 else ""
    order = next((f"order parameter {value:.4f}, " for name, value in found.items() if name.startswith("order_parameter")), "")
    lines = [
        f"{summary.steps} steps of {summary.sites} sites in {clock(summary.wall_seconds)}{share}: "
        f"{summary.site_steps_per_second:.3g} site-steps/s",
        *_times(summary),
        f"{order}kinetic temperature {found['kinetic_temperature']:.4f} t_nn, "
        f"electron number drift {summary.electron_number_drift:.1e} per site",
        "energy per site [t_nn]: "
        + ", ".join(f"{name.removesuffix('_energy')} {v:.4f}" for name, v in found.items() if name.endswith("_energy")),
        *([trust_in_words(summary.trust)] if summary.trust else []),
        *([error.in_words()] if error else []),
        f"wrote {folder.trajectory} and {folder.summary}",
    ]
    if summary.stopped:
        lines.append(f"stopped at step {summary.steps} of {steps} because {summary.stopped}: the same command continues it")
    return "\n".join(lines)
