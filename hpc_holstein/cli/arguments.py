"""Arguments of the commands, a function a command, which load nothing that computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hpc_holstein.cli.options import (
    Parser,
    add_keys,
    add_lattice,
    add_physics,
    add_regimes,
    add_setting,
    add_walltime,
    providers,
)
from hpc_holstein.cli.values import cells, name_or_path, path, positive, positive_number, site, whole

MORE_MU, MU_WIDTH = 3, 1.0
"""Further chemical potentials of each snapshot, from which a network learns what a wrong electron number costs; their width."""
RUN_STATES = 20
"""States of a run that are compared, unless a number is given."""


class Command(NamedTuple):
    """``told``: what it does, in a few words; ``add`` gives its arguments to a parser."""

    told: str
    add: Callable[[Parser], None]
    examples: tuple[str, ...]

    @property
    def epilog(self) -> str:
        """The examples, one below the other."""
        title = "examples: " if len(self.examples) > 1 else "example: "
        return title + f"\n{' ' * len(title)}".join(self.examples)


COMMANDS: dict[str, Command] = {}


def _command(told: str, *examples: str) -> Callable[[Callable[[Parser], None]], Callable[[Parser], None]]:
    """The command of that name, whose description is the docstring."""

    def known(add: Callable[[Parser], None]) -> Callable[[Parser], None]:
        COMMANDS[add.__name__] = Command(told, add, examples)
        return add

    return known


@_command(
    "run the dynamics; writes trajectory.h5 and summary.json",
    "mpirun -n 2 hpc-holstein run --preset paper-2601.04104 --lattice 200x200 --steps 1000 --output quench",
)
def run(parser: Parser) -> None:
    """The dynamics of a configuration, alone or on the ranks that mpirun started.

    It continues a run that is in its folder already.  SIGTERM, SIGUSR1, Ctrl-C, a file STOP in the folder, --max-walltime and
    the end of a Slurm job stop it with a checkpoint and exit code 75: the same command goes on.  With --replicas they stop all
    of them, and STOP in the folder of one replica that one.
    """
    add_setting(parser)
    add_lattice(parser)
    parser.add_argument("--steps", dest="dynamics.steps", type=positive, metavar="N", help="time steps")
    parser.add_argument("--seed", dest="dynamics.seed", type=int, metavar="N", help="seed of the initial state and the noise")
    parser.add_argument("--force", type=name_or_path, metavar="KIND", help=f"force provider: {providers()}")
    numbers = "mixed (networks in float32, the rest in float64: default), float64 or float32"
    parser.add_argument("--dtype", dest="parallel.dtype", metavar="NAME", help=numbers)
    tiles = "ranks along rows and columns (default: smallest halo)"
    parser.add_argument("--grid", dest="parallel.grid", type=cells, metavar="PxQ", help=tiles)
    several = "runs at once, of seeds N, N + 1, ..., each in a folder of its own and on as many of the ranks"
    parser.add_argument("--replicas", dest="parallel.replicas", type=positive, metavar="R", help=several)
    bits = "the same bits on any number of ranks and threads, any rank grid and after restarts"
    parser.add_argument("--deterministic", dest="parallel.deterministic", action="store_true", default=None, help=bits)
    results = "folder of the results (default: run)"
    parser.add_argument("--output", dest="output.folder", type=name_or_path, metavar="FOLDER", help=results)
    continued = "auto (default): continue the run in that folder; never; or a checkpoint or folder of a run to continue"
    parser.add_argument("--restart", type=name_or_path, default="auto", metavar="auto|never|PATH", help=continued)
    add_walltime(parser, "with a checkpoint")
    add_keys(parser)


@_command(
    "add forces to snapshots, or make labelled snapshots",
    "hpc-holstein label --input states.h5 --force exact --output labelled.h5",
    "mpirun -n 2 hpc-holstein label --random 20 --quenches 8 --per-quench 40 --force exact --output data.h5",
)
def label(parser: Parser) -> None:
    """Forces for given snapshots, or labelled snapshots from scratch.

    SIGTERM, SIGUSR1, Ctrl-C, --max-walltime and the end of a Slurm job end it with what is done kept beside the output and
    exit code 75: the same command goes on, on any number of ranks.
    """
    add_setting(parser, published=True)
    add_lattice(parser)
    parser.add_argument("--input", type=path, metavar="FILE", help="HDF5 file with a dataset q[snapshot, *cells]")
    parser.add_argument("--output", type=path, required=True, metavar="FILE", help="new file with force, density and mu added")
    add_walltime(parser, "with what is done")
    labels = f"who labels: {providers()} (default: exact)"
    parser.add_argument("--force", type=name_or_path, default="exact", metavar="KIND", help=labels)
    more = "densities at M further chemical potentials of each snapshot too, from the same diagonalization (exact forces; "
    more += f"default: {MORE_MU} with exact forces of a canonical ensemble, else 0)"
    parser.add_argument("--more-mu", type=whole, metavar="M", help=more)
    width = f"how far these may be from that of the forces, in t_nn (default: {MU_WIDTH:g})"
    parser.add_argument("--mu-width", type=positive_number, metavar="W", help=width)
    parser.add_argument("--random", type=positive, metavar="N", help="make N random snapshots")
    parser.add_argument("--quenches", type=positive, metavar="N", help="make snapshots along N thermal quenches")
    parser.add_argument("--per-quench", type=positive, metavar="N", help="snapshots of each quench (default: 40)")
    parser.add_argument("--quench-steps", type=positive, metavar="N", help="time steps of each quench (default: 2000)")
    parser.add_argument("--even", action="store_true", help="record quenches evenly in time (default: early times densely)")
    driving = "who drives the quenches (default: who labels; --set force.KEY=VALUE is of who labels)"
    parser.add_argument("--path-force", type=name_or_path, metavar="KIND", help=driving)
    parser.add_argument("--seed", dest="dynamics.seed", type=int, metavar="N", help="seed of random snapshots and quenches")
    add_keys(parser)


@_command(
    "train a network on labelled snapshots; writes model.safetensors, loss.csv, loss.png and metrics.json",
    "mpirun -n 2 hpc-holstein train data.h5 --model enn --time-limit 600 --output model",
    "hpc-holstein train cold.h5 warm.h5 hot.h5 --time-limit 600 --output any_kT",
    "hpc-holstein train other_kT.h5 --set ensemble.kT=0.05 --from default --time-limit 60 --output other_kT",
)
def train(parser: Parser) -> None:
    """Labelled snapshots in, a model file out.

    SIGTERM, SIGUSR1, Ctrl-C, --max-walltime and the end of a Slurm job end it with the state of the training kept and exit
    code 75: the same command goes on, bit for bit where a training repeats bit for bit.
    """
    files = "labelled snapshots DATA.h5, from `hpc-holstein label` (files of several kT and g: one network for their range); "
    files += "and at most one CONFIG.toml, with sections [model] and [training]"
    parser.add_argument("files", nargs="+", type=path, metavar="FILE", help=files)
    add_physics(parser)
    parser.set_defaults(config=None)
    parser.add_argument("--model", dest="model.kind", metavar="NAME", help="architecture: enn, enn_energy or efnn")
    passes, seconds = "passes through the training set", "end after this time"
    parser.add_argument("--epochs", dest="training.epochs", type=positive, metavar="N", help=passes)
    parser.add_argument("--time-limit", dest="training.time_limit_s", type=float, metavar="SECONDS", help=seconds)
    seed = "seed of the weights, the split and the order of the batches"
    parser.add_argument("--seed", dest="training.seed", type=int, metavar="N", help=seed)
    start = "model whose weights the training starts from, of the same architecture and shape, at whatever g, kT and filling "
    start += "(default: random weights)"
    parser.add_argument("--from", type=name_or_path, dest="start", metavar="MODEL", help=start)
    add_regimes(parser)
    parser.add_argument("--output", type=path, required=True, metavar="FOLDER", help="folder of the results")
    add_walltime(parser, "with the state of the training")
    add_keys(parser, dynamics=False)


@_command(
    "explore, collect, label and retrain in rounds; goes on where it was ended",
    "mpirun -n 2 hpc-holstein learn learn.toml --rounds 3 --output learn",
)
def learn(parser: Parser) -> None:
    """A network finds the states that it does not know, and learns them.

    A round explores (runs that collect the states at which the committee disagrees or the network extrapolates), labels what
    was collected, and trains the network and its committee on all data so far, from the weights of the round before where
    these are of the same architecture.  It ends when a round collects nothing, or after the last one.  The sections [learn]
    and [trust] of the configuration say how.  What is there already is not made again: the same command goes on, however it
    was ended.
    """
    add_setting(parser)
    parser.add_argument("--rounds", dest="learn.rounds", type=positive, metavar="N", help="rounds at most (default: 3)")
    everything = "folder of everything (default: learn)"
    parser.add_argument("--output", dest="learn.folder", type=name_or_path, metavar="FOLDER", help=everything)
    add_keys(parser)


@_command(
    "compare forces on given snapshots or on the states of a run; writes validation.json and figures",
    "hpc-holstein validate --run quench --reference exact --states 10 --budget",
    "hpc-holstein validate --run large --states 1 --reference petsc --sites 64",
    "hpc-holstein validate --input test.h5 --force local --reach 2 --reference labels --output floor",
    "hpc-holstein validate --input test.h5 --force model.safetensors --reference labels --output test",
)
def validate(parser: Parser) -> None:
    """One force provider against another, or against stored labels."""
    add_setting(parser, published=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", type=path, metavar="FILE", help="snapshot file")
    source.add_argument("--run", type=path, metavar="FOLDER", help="folder of a run, whose configuration is used")
    states = f"at most N states, evenly, 1: the last one (default: all of a file, {RUN_STATES} of a run)"
    parser.add_argument("--states", type=positive, metavar="N", help=states)
    judged = f"who is judged: {providers()} (default: that of the run, or neural); --set force.KEY=VALUE sets its options"
    parser.add_argument("--force", type=name_or_path, metavar="KIND", help=judged)
    parser.add_argument(
        "--reference",
        type=name_or_path,
        default="exact",
        metavar="KIND",
        help="who judges: the same, or labels (default: exact)",
    )
    options = "option of the reference, such as tolerance=1e-8 (repeatable)"
    parser.add_argument("--reference-set", action="append", default=[], metavar="KEY=VALUE", help=options)
    sites = "compare at N sites, the only ones that a reference of kind petsc, kpm or local computes"
    parser.add_argument("--sites", type=positive, metavar="N", help=sites)
    parser.add_argument("--sites-seed", type=whole, metavar="S", help="seed of the choice of these sites (default: 0)")
    reach = "reach of local, on either side: with --force local, the floor of every force field that sees R cells"
    parser.add_argument("--reach", type=whole, metavar="R", help=reach)
    budget = "measure what parts the error has: probing, truncation, chemical potential, reach, network"
    parser.add_argument("--budget", action="store_true", help=budget)
    add_regimes(parser)
    parser.add_argument("--output", type=path, metavar="FOLDER", help="folder of the results (default: FOLDER/validation)")
    add_keys(parser, dynamics=False)


@_command(
    "order, domain growth, correlations and energies of a run; writes figures and analysis.json",
    "hpc-holstein analyze quench",
)
def analyze(parser: Parser) -> None:
    """Figures and numbers of a run.

    With --animate a film of its order, with --xdmf a file for ParaView instead.
    """
    parser.add_argument("run", type=path, metavar="FOLDER", help="folder of a run, or its trajectory.h5")
    parser.add_argument("--frames", type=positive, default=6, metavar="N", help="states that are shown (default: 6)")
    parser.add_argument("--output", type=path, metavar="FOLDER", help="folder of the figures (default: FOLDER/analysis)")
    film = "film of the local CDW order, of at most 240 states (default: order.gif in the folder of the figures)"
    parser.add_argument("--animate", type=path, nargs="?", const=Path(), metavar="FILE.gif|FILE.mp4", help=film)
    parser.add_argument("--xdmf", action="store_true", help="write trajectory.xdmf beside the trajectory, for ParaView")


@_command(
    "densities of states, chemical and grand potential of a state; writes dos.csv, dos.json, dos.png",
    "hpc-holstein dos --run quench --at 10,12 --at 10,13",
    "mpirun -n 2 hpc-holstein dos --input states.h5 --snapshot 3 --kernel lorentz --resolution 0.05 --exact-omega",
)
def dos(parser: Parser) -> None:
    """Densities of states, electron number and grand potential of a stored state, by KPM."""
    from hpc_holstein.output.spectrum_options import SpectrumOptions  # here: no other command needs it

    usual = SpectrumOptions()
    add_setting(parser, published=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=path, metavar="FOLDER", help="folder of a run, whose configuration is used")
    source.add_argument("--input", type=path, metavar="FILE", help="snapshot file")
    parser.add_argument("--snapshot", type=int, default=-1, metavar="N", help="which state, from 0; -1 (default): the last")
    parser.add_argument(
        "--at",
        type=site,
        action="append",
        default=[],
        metavar="Y,X",
        help="local density of states at this site, too; its number in the cell, or that of a state, follows",
    )
    parser.add_argument("--kernel", choices=["jackson", "lorentz"], default=usual.kernel, help=f"default: {usual.kernel}")
    width = f"width of a level [t_nn], sets the order (default: {usual.resolution})"
    parser.add_argument("--resolution", type=float, default=usual.resolution, metavar="E", help=width)
    decay = f"lambda of the Lorentz kernel (default: {usual.lorentz_lambda:g})"
    parser.add_argument("--lorentz-lambda", type=float, metavar="L", help=decay)
    vectors = f"random vectors of the total density of states (default: {usual.vectors})"
    parser.add_argument("--vectors", type=positive, default=usual.vectors, metavar="N", help=vectors)
    parser.add_argument("--vector-seed", type=int, default=usual.seed, metavar="N", help="seed of the vectors (default: 0)")
    exact = "grand potential without random errors, at the cost of one kpm force of TOLERANCE (default: 1e-6)"
    parser.add_argument("--exact-omega", type=float, nargs="?", const=1e-6, metavar="TOLERANCE", help=exact)
    tiles = "ranks along rows and columns (default: smallest halo)"
    parser.add_argument("--grid", dest="parallel.grid", type=cells, metavar="PxQ", help=tiles)
    parser.add_argument("--output", type=path, metavar="FOLDER", help="folder of the results (default: FOLDER/dos, or dos)")
    add_keys(parser, dynamics=False)


@_command(
    "say what a model, a snapshot file or a run is",
    "hpc-holstein show default",
    "hpc-holstein show --list",
    "hpc-holstein show data.h5",
    "hpc-holstein show quench",
)
def show(parser: Parser) -> None:
    """A model, a data file or a run in words."""
    what = parser.add_mutually_exclusive_group(required=True)
    shown = "model file or name of --list, default, snapshot file or trajectory.h5, or folder that holds one"
    what.add_argument("what", type=name_or_path, nargs="?", metavar="PATH", help=shown)
    schema = "print the JSON schema of configuration files, from which editors complete keys"
    what.add_argument("--schema", action="store_true", help=schema)
    what.add_argument("--list", action="store_true", help="list the models that come with the package")


@_command(
    "write and submit a Slurm job that runs a configuration to its end",
    "hpc-holstein submit quench.toml --nodes 2 --ntasks-per-node 16 --time 04:00:00",
)
def submit(parser: Parser) -> None:
    """The same as run, as a Slurm job that goes on over time limits until all steps are done.

    Partition, account, modules, environment and launcher come from the file of the site, $HPC_HOLSTEIN_SITE or
    ~/.config/hpc_holstein/site.toml.
    """
    run(parser)
    add_resources(parser)
    parser.add_argument("--dry-run", action="store_true", help="write the script and submit nothing")


def add_resources(parser: Parser) -> None:
    """Resources that a job asks for, by the names of sbatch; absent ones are None."""
    group = parser.add_argument_group("the job")
    group.add_argument("--nodes", type=positive, metavar="N", help="nodes (default: 1)")
    group.add_argument("--ntasks-per-node", type=positive, metavar="N", help="ranks on each node (default: 1)")
    group.add_argument("--cpus-per-task", type=positive, metavar="N", help="cores, and so threads, of each rank (default: 1)")
    group.add_argument("--gpus-per-task", type=whole, metavar="0|1", help="GPUs of each rank (default: 0)")
    group.add_argument("--time", metavar="HH:MM:SS", help="time limit of one session (default: 01:00:00)")
    group.add_argument("--partition", metavar="NAME", help="partition (default: that of the site)")
    group.add_argument("--account", metavar="NAME", help="account (default: that of the site)")
    group.add_argument("--sbatch", action="append", metavar="OPTION", help="further option of sbatch, as --sbatch=--mem=8G")
    group.add_argument("--max-requeues", type=whole, metavar="N", help="sessions after the first one (default: 20)")


@_command(
    "label, train, run and analyze as Slurm jobs; submits what is missing",
    "hpc-holstein pipeline study.toml",
    "hpc-holstein pipeline study.toml --status",
)
def pipeline(parser: Parser) -> None:
    """Label, train, run and analyze as Slurm jobs that wait for each other.

    The section [pipeline] of the configuration says what to make.  A second call submits only what is missing.
    """
    add_setting(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--status", action="store_true", help="say what is done, queued, running and failed; submit nothing")
    what.add_argument("--dry-run", action="store_true", help="write the scripts of what is missing; submit nothing")
    add_keys(parser)


@_command(
    "try out what this machine offers (MPI, threads, GPUs, HDF5, file locks, PETSc, force rates) and the time step",
    "mpirun -n 4 hpc-holstein doctor --output /scratch/runs",
)
def doctor(parser: Parser) -> None:
    """A check of this machine: all that it offers to a run is tried out for a moment, alone or under mpirun or srun.

    The table says ok, absent (a run does without) or FAILED (it is there and does not work), and what to do about it.  Exit
    code 2 where something failed.  The time step is that of the configuration, if one is given, else that of the default
    preset.
    """
    add_setting(parser, published=True)
    folder = "folder whose file system is tried out (default: this one)"
    parser.add_argument("--output", type=path, default=Path(), metavar="FOLDER", help=folder)


@_command(
    "measure the time of a step on this machine, rank by rank",
    "mpirun -n 2 hpc-holstein bench strong --lattice 512x512 --output scaling",
    "mpirun -n 2 hpc-holstein bench weak --lattice-per-rank 256x256 --output scaling",
    "hpc-holstein bench report scaling",
)
def bench(parser: Parser) -> None:
    """Speed of the package on this machine, and the number of ranks that is worth asking for.

    strong and weak measure one point of a sweep on the ranks that mpirun or srun started and write one JSON record; report
    makes a table and a figure of a folder of records.
    """
    what = parser.add_subparsers(dest="what", required=True, metavar="strong|weak|report", parser_class=Parser)
    told = {
        "strong": "one point at a fixed lattice: FOLDER/strong-...-RANKS.json",
        "weak": "one point at a fixed tile of each rank: FOLDER/weak-...-RANKS.json",
    }
    for name, help_text in told.items():
        _add_measurement(what.add_parser(name, help=help_text, description=help_text), name)
    told_report = "table and figure of a folder of records"
    report = what.add_parser("report", help=told_report, description=told_report)
    report.add_argument("records", type=path, metavar="FOLDER", help="folder of records")
    report.add_argument("--output", type=path, metavar="FOLDER2", help="folder of the report (default: FOLDER/report)")


def _add_measurement(command: Parser, name: str) -> None:
    add_setting(command, published=True)
    if name == "strong":
        add_lattice(command)
    else:
        tile = "cells of the tile of each rank (default: 256x256)"
        command.add_argument("--lattice-per-rank", type=cells, default=[256, 256], metavar="ROWSxCOLUMNS", help=tile)
    command.add_argument("--force", type=name_or_path, metavar="KIND", help=f"force provider: {providers()}")
    numbers = "mixed (default), float64 or float32"
    command.add_argument("--dtype", dest="parallel.dtype", metavar="NAME", help=numbers)
    tiles = "ranks along rows and columns"
    command.add_argument("--grid", dest="parallel.grid", type=cells, metavar="PxQ", help=tiles)
    command.add_argument("--repeats", type=positive, default=5, metavar="N", help="measurements, 3 or more (default: 5)")
    command.add_argument("--steps", dest="time_steps", type=positive, default=16, metavar="N", help="of a repeat (default: 16)")
    command.add_argument("--warm-up", type=positive, default=8, metavar="N", help="steps before, not counted (default: 8)")
    command.add_argument("--output", type=path, required=True, metavar="FOLDER", help="folder of the records")
    there = "a point that is in the folder already is done, instead of an error"
    command.add_argument("--skip-existing", action="store_true", help=there)
