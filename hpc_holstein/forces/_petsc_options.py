"""Options of PETSc that a configuration may give: they say how to solve, and can neither name a file nor load code.

A configuration may come with somebody else's files, and PETSc writes, reads and runs what some of its options name
(``-ksp_view :file``, ``-options_file``, ``-pc_python_type``).  So what is taken is listed here, by the name and by the value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from hpc_holstein.errors import ConfigError

_FAMILY = re.compile(r"-(\w+_)?(ksp|pc|mat)_\w+", re.ASCII)  # of solvers, preconditioners and matrices, inner ones too
_NEVER = frozenset({"python", "file", "filename", "dir", "tmpdir", "path", "load", "save", "dump", "print", "subdomains"})
_NUMBERS = re.compile(r"[-+.,eE\d]+|true|false|yes|no|on|off|default|decide|determine|unlimited", re.ASCII)
_VIEWER_NAME, _VIEWER = re.compile("view|monitor|converged"), re.compile(r"(ascii)?(::ascii_\w+)?", re.ASCII)  # to the screen
_CHOICE_NAME, _CHOICE = (
    re.compile("type|side|pcs|package|perm|fact|test"),
    re.compile(r"(?!python)\w+(,(?!python)\w+)*", re.ASCII),
)


def is_name(word: str) -> bool:
    """If a word of an option string is the name of an option rather than its value."""
    return word.startswith("-") and word[1:2].isalpha()


def require_solver_options(text: str) -> None:
    """Raise ConfigError if ``text`` holds anything but options of the solver with values that name no file."""
    words = text.split()
    if words and not is_name(words[0]):
        raise ConfigError(
            f"petsc = '{text}' does not start with the name of an option: give names with a dash, such as "
            "petsc = '-ksp_type gmres'"
        )
    for name, value in _pairs(words):
        if not _is_solvers(name.lower(), value.lower()):
            given = f"{name} {value}".strip()
            raise ConfigError(
                f"petsc option '{given}' is not one that a configuration may give: it takes those of the solver (-ksp_..., "
                "-pc_..., -mat_..., -sub_pc_...) with numbers, names of types or output to the screen (-ksp_monitor, -ksp_view "
                "::ascii_info), and none that names a file; check its spelling, or give it in the environment, as "
                f'PETSC_OPTIONS="-holstein_{given[1:]}" if it is of the solver'
            )


def _pairs(words: list[str]) -> Iterator[tuple[str, str]]:
    """Names of options and what follows each."""
    for start, end in pairwise([*(place for place, word in enumerate(words) if is_name(word)), len(words)]):
        yield words[start], " ".join(words[start + 1 : end])


def _is_solvers(name: str, value: str) -> bool:
    if not _FAMILY.fullmatch(name) or _NEVER & {*name.split("_")}:
        return False
    kinds = [_NUMBERS, *([_VIEWER] if _VIEWER_NAME.search(name) else []), *([_CHOICE] if _CHOICE_NAME.search(name) else [])]
    return not value or any(kind.fullmatch(value) for kind in kinds)
