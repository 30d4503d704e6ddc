"""Provenance of a result: versions of the libraries, revision of the sources, machine and time."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hpc_holstein
from hpc_holstein.files import new_file

UNITS = "t_nn = hbar = k_B = a = 1"
_LIBRARIES = ("torch", "numpy", "scipy", "h5py", "mpi4py")


def provenance() -> dict[str, str]:
    """Versions, git revision (when the package runs from a checkout), host and date, as attributes of files."""
    facts = {"version.hpc_holstein": hpc_holstein.__version__, "version.python": platform.python_version()}
    facts |= {f"version.{name}": version(name) for name in _LIBRARIES}
    revision = git_revision()
    return {**facts, **({"git": revision} if revision else {}), "host": platform.node(), "date": _now()}


def git_revision() -> str | None:
    """Commit of the checkout that the package is imported from, ``+`` where files differ from it; None outside of one."""
    package = Path(hpc_holstein.__file__).parent
    if not (package.parent / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(package), *command], capture_output=True, text=True, timeout=10, check=True).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None  # no git here, or a folder that is not ours: the result is as good without
    return commit.strip() + ("+" if changes.strip() else "")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A new JSON file; DataError where ``path`` exists."""
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
