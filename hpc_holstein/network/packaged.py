"""Models that come with the package: their names, and which of them serves a system.

A file ``data/NAME.safetensors`` is a model of that name.  ``default`` is the one that fits the system that is asked about,
first of all one whose training had its parameters, and of these one that had its coupling ``g``; without a system that of the
preset ``paper-2601.04104``.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from hpc_holstein.errors import ModelError

if TYPE_CHECKING:
    from hpc_holstein.interfaces import System

DEFAULT = "default"
_FIRST = "paper-2601.04104"


def packaged() -> dict[str, Path]:
    """Name and file of every model that comes with the package, that of the preset ``paper-2601.04104`` first."""
    folder = Path(str(resources.files("hpc_holstein") / "data"))
    files = sorted(folder.glob("*.safetensors"), key=lambda path: (path.stem != _FIRST, path.stem))
    return {path.stem: path for path in files}


def default_model_path() -> Path:
    """The model for the preset ``paper-2601.04104``; ModelError where it is missing."""
    found = packaged().get(_FIRST)
    if found is None:
        raise ModelError(
            f"this installation has no default model ({_FIRST}.safetensors is missing): reinstall the package, "
            "or train a model with 'hpc-holstein train' and give its path as model"
        )
    return found


def is_model(name: str) -> bool:
    """True if a word is a model: the path of a file, ``default`` or a name of :func:`packaged`."""
    return name.endswith(".safetensors") or name == DEFAULT or name in packaged()


def model_path(name: str | Path, served: System | None = None) -> Path:
    """The file that ``name`` means: a path, a name of :func:`packaged`, or ``default``: the one that fits ``served``.

    Raises ModelError where none of them does, naming those that there are.
    """
    if str(name) == DEFAULT:
        return default_model_path() if served is None else _fitting(served)
    return packaged().get(str(name), Path(name))


def _fitting(served: System) -> Path:
    from hpc_holstein.network.checkpoint import read_card
    from hpc_holstein.network.served import check_card, had_coupling, trained_elsewhere

    fitting: list[tuple[bool, bool, Path]] = []
    told: list[str] = []
    nearest: list[ModelError] = []
    for name, path in packaged().items():
        card = read_card(path)
        told.append(f"{name} ({' and '.join(card.hamiltonians)}, {card.lattice} lattice)")
        try:
            check_card(card, served.hamiltonian, served.ensemble, served.lattice)
        except ModelError as error:
            if served.hamiltonian.name in card.hamiltonians and card.lattice == served.lattice.name:
                nearest.append(error)
            continue
        elsewhere = bool(trained_elsewhere(card, served.hamiltonian, served.ensemble))
        fitting.append((elsewhere, not had_coupling(card, served.hamiltonian), path))
    if fitting:
        return min(fitting, key=lambda one: one[:2])[2]
    if len(nearest) == 1:
        raise nearest[0]
    kT = served.ensemble.kT / served.hamiltonian.hopping
    raise ModelError(
        f"none of the models that come with the package serves the {served.hamiltonian.name} Hamiltonian on the "
        f"{served.lattice.name} lattice with these parameters at kT/t = {kT:g}: there are {', '.join(told)} (`hpc-holstein "
        "show NAME` says for what); train one with 'hpc-holstein train', or use force kind 'exact' or 'kpm'"
    )
