"""Completion of the command line by Bash and Zsh: a script that knows commands, options, kinds, presets and keys."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

import shtab

from hpc_holstein.cli import parser
from hpc_holstein.config.folders import WITH_OPTIONS, available
from hpc_holstein.config.kinds import loadable
from hpc_holstein.config.loading import keys_of
from hpc_holstein.config.presets import PRESETS
from hpc_holstein.config.sections import DynamicsSection, EnsembleSection, ParallelSection
from hpc_holstein.errors import ConfigError
from hpc_holstein.network.packaged import packaged

SHELLS = ("bash", "zsh")
_FOLDERS = ("FOLDER", "FOLDER2")
_WITH_FILES = ("force", "path_force", "reference", "start")  # a model file as well as a name
_FUNCTIONS = {
    "bash": """\
{name}() {{
  compgen -W "{words}" -- "$1"{files}
}}
""",
    "zsh": """\
{name}() {{
  local -a words=({words})
  compadd {suffix}-a words{files}
}}
""",
}
_FILES = {"bash": '\n  compgen -f -- "$1"', "zsh": "\n  _files"}

_NO_SPACE_AFTER_EQUALS = """
_hpc_holstein_complete() {
  _shtab_hpc_holstein "$@"
  [[ ${COMPREPLY[0]-} != *= ]] || compopt -o nospace 2>/dev/null
}
complete -o bashdefault -F _hpc_holstein_complete hpc-holstein
"""


def script(shell: str) -> str:
    """The completion script of ``shell``; ConfigError for one that is not known."""
    if shell not in SHELLS:
        raise ConfigError(f"--print-completion {shell} is not known: choose from {', '.join(SHELLS)}")
    top, words = parser(), _words()
    for action in _actions(top):
        if action.dest in words:
            name = _name(action.dest)
            action.complete = dict.fromkeys(SHELLS, name)  # type: ignore[attr-defined]
        elif isinstance(action.metavar, str) and action.metavar in _FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif getattr(action.type, "__name__", "") == "path":
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    text = str(shtab.complete(top, shell, root_prefix="hpc_holstein", preamble=_preamble(shell, words)))
    return text + _NO_SPACE_AFTER_EQUALS if shell == "bash" else text


def _name(dest: str) -> str:
    """The shell function that completes an argument."""
    return f"_hpc_holstein_{dest.replace('.', '_')}"


def _preamble(shell: str, words: Mapping[str, Iterable[str]]) -> str:
    """A function for each set of words."""
    functions = []
    for dest, choices in words.items():
        files = _FILES[shell] if dest in _WITH_FILES else ""
        suffix = "-S '' " if dest == "set" else ""
        functions.append(_FUNCTIONS[shell].format(name=_name(dest), words=" ".join(choices), files=files, suffix=suffix))
    return "\n".join(functions)


def _words() -> dict[str, list[str]]:
    """Name of an argument -> what may stand there."""
    models = ["default", *packaged()]
    forces = [*available("force"), *models]
    keys = {key for key in keys_of({}) if "." in key}
    for section in WITH_OPTIONS:
        keys |= {f"{section}.{name}" for one in loadable(section) for name in one.model_fields}
    return {
        "preset": [*PRESETS],
        "set": [f"{key}=" for key in sorted(keys)],
        "force": forces,
        "path_force": forces,
        "reference": [*forces, "labels"],
        "start": models,
        "what": models,
        "model.kind": available("model"),
        "parallel.device": ["auto", "cpu", "cuda"],
        "parallel.dtype": _choices(ParallelSection, "dtype"),
        "restart": ["auto", "never"],
        "hamiltonian.kind": available("hamiltonian"),
        "ensemble.kind": _choices(EnsembleSection, "kind"),
        "dynamics.scheme": _choices(DynamicsSection, "scheme"),
    }


def _choices(section: Any, name: str) -> list[str]:
    """The values of a key that takes only some."""
    return [str(choice) for choice in get_args(section.model_fields[name].annotation)]


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of all commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from _actions(one)
        else:
            yield action
