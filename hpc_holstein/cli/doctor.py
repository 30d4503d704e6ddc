"""``hpc-holstein doctor``: what this machine offers to a run, each tried out for a moment, alone or under mpirun or srun."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

from hpc_holstein.cli import probes_machine, probes_numerics
from hpc_holstein.cli.options import configuration
from hpc_holstein.cli.probes_machine import Finding, Place, Probe
from hpc_holstein.cli.session import Session

PROBES: tuple[Probe, ...] = (*probes_machine.PROBES, *probes_numerics.PROBES)
_FAILED = 2
_WIDTH = 2 + max(len(probe.name) for probe in PROBES)


def execute(args: argparse.Namespace, session: Session) -> int:
    """Run all probes and print the table; returns the exit code."""
    config = configuration(args)
    device = session.use(config.parallel.threads, config.parallel.device)
    folder = Path(session.on_root(lambda: _scratch(args.output)))
    place = Place(session, device, folder, str(args.output), config)
    failed = 0
    try:
        for probe in PROBES:  # told one by one: if one hangs, it is the next one
            finding = _joined(session.transport.allgather(probe.run(place)))
            session.say(_shown(probe.name, finding))
            failed += finding.state == "FAILED"
    finally:
        if session.is_root and folder.name:
            rmtree(folder, ignore_errors=True)
    session.say(f"{failed} of {len(PROBES)} failed" if failed else "all that is there works")
    return _FAILED if failed else os.EX_OK


def _shown(name: str, finding: Finding) -> str:
    """A line of the table, and one more for a remedy."""
    line = f"{name:<{_WIDTH}}{finding.state:<8}{finding.told}"
    return f"{line}\n{'':<{_WIDTH + 8}}-> {finding.remedy}" if finding.remedy else line


def _scratch(parent: Path) -> str:
    """A folder of our own in ``parent``; an empty name where there can be none, which the probes of files tell."""
    try:
        return tempfile.mkdtemp(prefix=".doctor-", dir=parent)
    except OSError:
        return ""


def _joined(of_ranks: Sequence[Finding]) -> Finding:
    """The finding of rank 0, or the first failure of a rank."""
    for rank, finding in enumerate(of_ranks):
        if finding.state == "FAILED":
            return replace(finding, told=f"rank {rank}: {finding.told}" if len(of_ranks) > 1 else finding.told)
    return of_ranks[0]
