"""The table of lattices and commands: every command on every lattice and Hamiltonian, periodic and open, on one and two ranks.

``python tests/lattices_by_commands.py`` runs all of it, a process for each core and ranks as threads, prints the table as
Markdown and exits with 1 if a cell fails; with ``--check FILE`` also if the table in FILE, a page of docs/, is another one.
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
from commands import execute

from hpc_holstein.config.folders import available
from hpc_holstein.config.kinds import site_axes
from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.errors import ModelError

CELLS = {1: (8,), 2: (6, 6), 3: (4, 2, 2)}  # by the dimension of the lattice
SETTINGS = {"holstein": ["hamiltonian.kappa=0.1"], "peierls": ["initial.q_std=0.1"]}
TRAINED = ["model.copies=1", "model.radii=[1,1]", "model.levels=2", "training.validate_every=10"]
CELLS_OF_TRAINING = {1: (100,), 2: (10, 10), 3: (5, 5, 5)}
NO_NETWORK = "no network"


@dataclass(frozen=True)
class Case:
    """A system and the folder in which its commands run, one after another."""

    lattice: str
    hamiltonian: str
    periodic: bool
    folder: Path

    @property
    def other_ranks(self) -> int:
        """Ranks of a command that is not run on both numbers of them: one for periodic edges, two for open ones."""
        return 1 if self.periodic else 2

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
    """Made states, labelled; and the coordinates alone, labelled again on two ranks: the same forces."""
    lattice = "x".join(map(str, case.extent))
    states = ["--random", 2, "--quenches", 2, "--per-quench", 2, "--quench-steps", 3, "--lattice", lattice]
    made, bare, again = (case.folder / f"{name}.h5" for name in ("made", "bare", "again"))
    case.call(1, "label", *states, *case.of_file(), "--force", "exact", "--output", made)
    with h5py.File(made) as source, h5py.File(bare, "w") as target:
        target["q"] = source["q"][...]
    case.call(2, "label", "--input", bare, *case.of_file(), "--force", "exact", "--output", again)
    with h5py.File(made) as one, h5py.File(again) as other:
        for name in ("force", "density", "more_density"):
            np.testing.assert_allclose(other[name][...], one[name][...], rtol=0, atol=1e-9)


def validate(case: Case) -> None:
    """Labels at all sites, and, with periodic edges on two ranks, a run at some sites."""
    made, run = case.folder / "made.h5", case.folder / "run"
    kpm = ["--force", "kpm", "--reference", "labels"]
    case.call(case.other_ranks, "validate", "--input", made, *case.of_file(), *kpm, "--output", case.folder / "judged")
    content = json.loads((case.folder / "judged" / "validation.json").read_text())
    assert content["all"]["max_error"] < 1e-3, content["all"]
    if case.periodic:
        sites = ["--reference", "kpm", "--sites", 3, "--states", 2]
        case.call(2, "validate", "--run", run, *sites, "--output", case.folder / "judged-run")


def dos(case: Case) -> None:
    """Of a run, with a local density of states, or of a file on two ranks."""
    source = ["--run", case.folder / "run"] if case.periodic else ["--input", case.folder / "made.h5", *case.of_file()]
    site = ",".join(["1"] * site_axes(case.lattice).number)
    case.call(case.other_ranks, "dos", *source, "--at", site, "--resolution", 2, "--output", case.folder / "dos")


def show(case: Case) -> None:
    """A run and a file."""
    case.call(1, "show", case.folder / "run")
    case.call(1, "show", case.folder / "made.h5")


def initial_file(case: Case) -> None:
    """Runs that start from a run and from a file of states."""
    for name, start in (("from-run", case.folder / "run"), ("from-file", case.folder / "made.h5")):
        case.run(name, 1, 1, f"initial.file={start}")


def train(case: Case) -> str | None:
    """A network where there is one, else one sentence that there is none; ``learn`` asks the same question."""
    data, physics = case.folder / "training.h5", case.of_file()
    lattice = "x".join(map(str, CELLS_OF_TRAINING[len(case.extent)]))
    random = ["--random", 8, "--lattice", lattice]
    case.call(2, "label", *random, *physics, "--force", "exact", "--output", data)
    options = case.of_file("training.test=0.0", *TRAINED)
    try:
        case.call(case.other_ranks, "train", data, *options, "--epochs", 150, "--output", case.folder / "model")
    except ModelError as error:
        if "network" not in str(error) or "\n" in str(error):
            raise
        return NO_NETWORK
    return None


def submit(case: Case) -> None:
    """The script of a job."""
    physics = ["--preset", "paper-2601.04104", *case.physics(), "--force", "exact"]
    case.call(1, "submit", *physics, "--dry-run", "--ntasks-per-node", 2, "--output", case.folder / "job")


def analyze(case: Case) -> None:
    """Numbers and figures, and the index for ParaView."""
    case.call(1, "analyze", case.folder / "run", "--output", case.folder / "figures")
    case.call(1, "analyze", case.folder / "run", "--xdmf")


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
    """The cells of a system; in a process of its own."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        case = Case(lattice, hamiltonian, periodic, Path(folder))
        return [cell(command, case) for command in COMMANDS.values()]


def table() -> list[str]:
    """Lines of the table; a cell is of both edges."""
    systems = list(itertools.product(available("lattice"), available("hamiltonian")))
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
