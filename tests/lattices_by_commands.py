"""The table of lattices and commands: every command on every lattice and Hamiltonian, with periodic and with open edges.

The docstring of each command says what runs on one rank and what on two.  ``python tests/lattices_by_commands.py`` runs all of
it, a process for each core and ranks as threads, prints the table as Markdown and exits with 1 if a cell fails; with
``--check FILE`` also if the table in FILE, a page of docs/, is another one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
import torch
from commands import LEARN, execute

from hpc_holstein.config.folders import available
from hpc_holstein.config.kinds import site_axes
from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.errors import ModelError
from hpc_holstein.network.checkpoint import load_model, save_model
from hpc_holstein.output import plots

CELLS = {1: (8,), 2: (6, 6), 3: (4, 2, 2)}  # by the dimension of the lattice
SETTINGS = {"holstein": ["hamiltonian.kappa=0.1"], "peierls": ["initial.q_std=0.1"]}
TRAINED = ["model.copies=1", "model.levels=2", "training.validate_every=10"]
NETWORKS = {"holstein": "enn", "peierls": "enn_matrix"}
RADII = {"enn": {1: [1, 1], 2: [1, 1], 3: [1, 0]}, "enn_matrix": {1: [1, 0], 2: [1, 0], 3: [0, 0]}}
CELLS_OF_TRAINING = {"enn": {1: (100,), 2: (10, 10), 3: (4, 4, 4)}, "enn_matrix": {1: (100,), 2: (10, 10), 3: (6, 5, 5)}}
ORBITALS = {"jahn_teller"}  # several on a site, on the square lattice alone
NO_NETWORK = "no network"


@dataclass(frozen=True)
class Case:
    """A system and the folder in which its commands run, one after another."""

    lattice: str
    hamiltonian: str
    periodic: bool
    folder: Path

    @property
    def extent(self) -> tuple[int, ...]:
        return CELLS[site_axes(self.lattice).dimension]

    def physics(self, *more: str) -> list[str]:
        """``--set`` of all that differs from the preset."""
        extent, edges = list(self.extent), json.dumps([self.periodic] * len(self.extent))
        words = [f"lattice.kind={self.lattice}", f"lattice.extent={extent}", f"lattice.periodic={edges}"]
        words += [f"hamiltonian.kind={self.hamiltonian}", *SETTINGS.get(self.hamiltonian, []), *more]
        if any(word.startswith("initial.file") for word in more):
            words = [word for word in words if not word.startswith("initial.q_std")]
        return [word for assignment in words for word in ("--set", assignment)]

    def of_file(self, *more: str) -> list[str]:
        """The same for commands that take the extent from a file."""
        words = self.physics(*more)
        return words[:2] + words[4:]

    def run(self, name: str, steps: int, ranks: int = 1, *more: str) -> None:
        cadence = ("output.snapshot_every=1", "output.observables_every=1")
        physics = ["--preset", "paper-2601.04104", *self.physics(*cadence, *more)]
        self.call(ranks, "run", *physics, "--force", "exact", "--steps", steps, "--output", self.folder / name)

    def call(self, ranks: int, *arguments: object) -> None:
        if ranks == 1:
            execute(SerialTransport(), *arguments)
        else:
            run_in_process(ranks, lambda transport: execute(transport, *arguments))

    def last(self, name: str) -> np.ndarray:
        """The last coordinates of a run."""
        with h5py.File(self.folder / name / "trajectory.h5") as file:
            return np.asarray(file["q"][-1])


def run(case: Case) -> None:
    """Alone, on two ranks, and begun alone and continued on two: the same trajectory."""
    case.run("run", 3)
    case.run("ranks", 3, 2)
    case.run("restarted", 1)
    case.run("restarted", 3, 2)
    for other in ("ranks", "restarted"):
        np.testing.assert_allclose(case.last(other), case.last("run"), rtol=0, atol=1e-10)


def label(case: Case) -> None:
    """States made and labelled, on one rank and on two; and the coordinates alone, labelled on two: the same forces."""
    lattice = "x".join(map(str, case.extent))
    states = ["--random", 2, "--quenches", 2, "--per-quench", 2, "--quench-steps", 3, "--lattice", lattice]
    made, together, bare, again = (case.folder / f"{name}.h5" for name in ("made", "together", "bare", "again"))
    for ranks, output in ((1, made), (2, together)):
        case.call(ranks, "label", *states, *case.of_file(), "--force", "exact", "--output", output)
    with h5py.File(made) as source, h5py.File(bare, "w") as target:
        target["q"] = source["q"][...]
    case.call(2, "label", "--input", bare, *case.of_file(), "--force", "exact", "--output", again)
    for path in (together, again):
        with h5py.File(made) as one, h5py.File(path) as other:
            for name in ("force", "density", "more_density"):
                np.testing.assert_allclose(other[name][...], one[name][...], rtol=0, atol=1e-9)


def validate(case: Case) -> None:
    """Labels of a file at all sites, and a run at some sites, each on one rank and on two: the same errors."""
    made, run = ["--input", case.folder / "made.h5", *case.of_file()], ["--run", case.folder / "run"]
    kpm = ["--force", "kpm", "--reference", "labels"]
    sites = ["--reference", "kpm", "--sites", 3, "--states", 2]
    for name, options in (("file", [*made, *kpm]), ("run", [*run, *sites])):
        errors = []
        for ranks in (1, 2):
            judged = case.folder / f"judged-{name}-{ranks}"
            case.call(ranks, "validate", *options, "--output", judged)
            errors.append(json.loads((judged / "validation.json").read_text())["all"]["max_error"])
        assert max(errors) < 1e-3, errors
        np.testing.assert_allclose(*errors, rtol=0, atol=1e-8)


def dos(case: Case) -> None:
    """Of a run on one rank and of a file on two, with a local density of states."""
    site = ",".join(["1"] * (site_axes(case.lattice).number + (case.hamiltonian in ORBITALS)))
    for ranks, source in ((1, ["--run", case.folder / "run"]), (2, ["--input", case.folder / "made.h5", *case.of_file()])):
        case.call(ranks, "dos", *source, "--at", site, "--resolution", 2, "--output", case.folder / f"dos-{ranks}")


def show(case: Case) -> None:
    """A run and a file, on one rank."""
    case.call(1, "show", case.folder / "run")
    case.call(1, "show", case.folder / "made.h5")


def initial_file(case: Case) -> None:
    """Runs that start from a run, on one rank, and from a file of states, on two."""
    for ranks, start in ((1, case.folder / "run"), (2, case.folder / "made.h5")):
        case.run(f"from-{start.stem}", 1, ranks, f"initial.file={start}")


def train(case: Case) -> str | None:
    """A network on one rank, one from its weights on two, and a round of ``learn`` with both on one rank and on two.

    Where there is no network, each of these says why.  (Ranks that are threads share the random numbers of PyTorch, so only
    one of them begins with random weights.)
    """
    data, physics = case.folder / "training.h5", case.of_file()
    kind, dimension = NETWORKS.get(case.hamiltonian, "enn_matrix"), len(case.extent)
    cells = CELLS_OF_TRAINING[kind][dimension]
    lattice = "x".join(map(str, cells))
    random = ["--random", 8, "--lattice", lattice]
    case.call(2, "label", *random, *physics, "--force", "exact", "--output", data)
    model = [f"model.kind={kind}", f"model.radii={RADII[kind][dimension]}"]
    training = [data, *case.of_file("training.test=0.0", *TRAINED, *model), "--epochs", 150]
    file, models, said = case.folder / "learn.toml", [], []
    file.write_text(LEARN)
    for ranks in (1, 2):
        warm = ["--from", models[0]] if ranks == 2 and models[0].exists() else []
        models.append(case.folder / f"model-{ranks}" / "model.safetensors")
        said.append(network(case, ranks, "train", *training, *warm, "--output", models[-1].parent))
    start, committee = (models[0], disturbed(models[0])) if said[0] is None else ("default", "default")
    networks = [f"force.model={start}", f'force.committee=["{committee}"]']
    for ranks in (1, 2):
        folder = case.folder / f"learn-{ranks}"
        extent = f"lattice.extent={list(cells)}"
        learning = [file, *case.of_file(f"learn.data={data}", *networks, extent, *model)]
        said.append(network(case, ranks, "learn", *learning, "--output", folder))
        if said[-1] is None:
            assert json.loads((folder / "learn.json").read_text())["rounds"][0]["collected"] > 0
    assert len(set(said)) == 1, said
    return said[0]


def disturbed(model: Path) -> Path:
    """A network that differs a little, as the second of a committee: of few epochs, one trained on may be the same."""
    module, card = load_model(model)
    with torch.no_grad():
        for name, weights in module.named_parameters():
            if "head" in name and name.endswith("weight"):
                weights *= 1.1
    save_model(model.parent / "disturbed.safetensors", module, card)
    return model.parent / "disturbed.safetensors"


def network(case: Case, ranks: int, *arguments: object) -> str | None:
    """Nothing, or, where the command says in one sentence why no network is there, what the table says."""
    try:
        case.call(ranks, *arguments)
    except ModelError as error:
        if "\n" in str(error):
            raise
        return NO_NETWORK
    return None


def submit(case: Case) -> None:
    """The script of a job, which is written and not given to Slurm."""
    physics = ["--preset", "paper-2601.04104", *case.physics(), "--force", "exact"]
    case.call(1, "submit", *physics, "--dry-run", "--ntasks-per-node", 2, "--output", case.folder / "job")


def analyze(case: Case) -> None:
    """Numbers and figures on one rank; the index for ParaView on two."""
    case.call(1, "analyze", case.folder / "run", "--output", case.folder / "figures")
    case.call(2, "analyze", case.folder / "run", "--xdmf")


COMMANDS: dict[str, Callable[[Case], str | None]] = {
    "run, restart": run,
    "label": label,
    "validate": validate,
    "dos": dos,
    "show": show,
    "initial.file": initial_file,
    "analyze": analyze,
    "submit": submit,
    "train, learn": train,
}


def cell(command: Callable[[Case], str | None], case: Case) -> str:
    """``yes``, what the command says instead, or ``FAILED``, whose reason goes to stderr."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stdout(told):
            return command(case) or "yes"
    except Exception:
        name = f"{case.hamiltonian} on {case.lattice}, {'periodic' if case.periodic else 'open'}: {command.__name__}"
        print(f"--- {name}\n{told.getvalue()}{traceback.format_exc(limit=-6)}", file=sys.stderr)
        return "FAILED"


def cells(lattice: str, hamiltonian: str, periodic: bool) -> list[str]:
    """The cells of a system; in a process of its own, whose figures are coarse and not laid out."""
    torch.set_num_threads(1)
    plots._STYLE.update({"savefig.dpi": 40, "figure.constrained_layout.use": False})
    with tempfile.TemporaryDirectory() as folder:
        case = Case(lattice, hamiltonian, periodic, Path(folder))
        return [cell(command, case) for command in COMMANDS.values()]


def table() -> list[str]:
    """Lines of the table; a cell is of both edges."""
    pairs = itertools.product(available("lattice"), available("hamiltonian"))
    systems = [(lattice, of) for lattice, of in pairs if lattice == "square" or of not in ORBITALS]
    lines = [f"| lattice | Hamiltonian | {' | '.join(COMMANDS)} |", "|---" * (len(COMMANDS) + 2) + "|"]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        rows = pool.map(cells, *zip(*((*system, edges) for system in systems for edges in (True, False)), strict=True))
        for system, closed, opened in zip(systems, rows, rows, strict=True):
            both = [one if one == other else f"{one}; open: {other}" for one, other in zip(closed, opened, strict=True)]
            lines.append(f"| {' | '.join((*system, *both))} |")
    return lines


def main() -> int:
    """Print the table; 1 if a cell of it failed, or the page to check has another one."""
    parser = argparse.ArgumentParser(description="Run every command on every lattice and Hamiltonian; print the table.")
    parser.add_argument("--check", type=Path, metavar="FILE", help="a page that holds this table")
    args = parser.parse_args()
    os.environ["MPLBACKEND"] = "Agg"
    text = "\n".join(table())
    print(text)
    if args.check is not None and text not in args.check.read_text(encoding="utf-8"):
        print(f"{args.check} holds another table: put this one there", file=sys.stderr)
        return 1
    return int("FAILED" in text)


if __name__ == "__main__":
    sys.exit(main())
