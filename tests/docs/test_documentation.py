"""Every command in README.md and docs/ is run, page by page, in the order of the page, in a folder of its own.

A fenced block ``console`` holds commands behind ``$``.  A comment before a block says more, which readers do not see:
``<!-- file: NAME -->`` stores the block under that name, ``<!-- not run by the tests: REASON -->`` leaves it out, but the
options of its ``hpc-holstein`` commands must exist.  Long runs are shortened by :data:`SHORTER`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpc_holstein.cli import parser

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "slurm" / "README.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
SHORTER = (
    (r"--lattice (?:24x24|32x32|40x40)", "--lattice 16x16"),
    (r"--lattice \d{2,}x\d{3,}", "--lattice 32x32"),
    (r"--lattice-per-rank \d+x\d+", "--lattice-per-rank 32x32"),
    (r"--steps 1100", "--steps 50"),
    (r"--steps \d*\d00\b", "--steps 40"),
    (r"--max-walltime 00:00:10", "--max-walltime 00:00:06"),
    (
        r"learn learn.toml",
        "learn learn.toml --set dynamics.steps=20 --set training.epochs=20 --set learn.members=1 --set learn.runs=2",
    ),
    (r"--time-limit \d+", "--epochs 20"),  # not seconds: on a slow machine they would teach nothing, which train refuses
    (r"--states \d+", "--states 1"),
    (r"--quenches \d+", "--quenches 3"),
    (r"--per-quench \d+", "--per-quench 4"),
    (r"--quench-steps 3000", "--quench-steps 60"),
    (r"--random 40", "--random 4"),
    (r"--sites 64", "--sites 4"),
)
_BLOCK = re.compile(r"(?:<!--\s*(?P<note>[^>]*?)\s*-->\n+)?^```(?P<language>\S*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block with the comment before it."""

    note: str
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Those behind ``$``, continued lines joined, without what a comment says."""
        if self.language != "console":
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        return [re.sub(r"\s+#\s.*$", "", line[2:]) for line in lines if line.startswith("$ ")]

    @property
    def runs(self) -> bool:
        return not self.note.startswith("not run by the tests:")


def blocks(page: Path) -> list[Block]:
    return [Block(found["note"] or "", found["language"], found["text"]) for found in _BLOCK.finditer(page.read_text("utf-8"))]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", [page for page in PAGES if any(b.commands and b.runs for b in blocks(page))], ids=name)
def test_commands_of_a_page_run(page: Path, tmp_path: Path) -> None:
    for folder in ("examples", "slurm", "benchmarks"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    home = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{home}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    for block in blocks(page):
        if block.note.startswith("file: "):
            (tmp_path / block.note.removeprefix("file: ")).write_text(block.text, encoding="utf-8")
        for command in block.commands if block.runs else []:
            for pattern, shorter in SHORTER:
                command = re.sub(pattern, shorter, command)
            done = subprocess.run(
                command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
            )
            stopped = "--max-walltime" in command and done.returncode == os.EX_TEMPFAIL
            assert done.returncode == 0 or stopped, f"{command}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_of_commands_that_need_a_cluster_exist(page: Path) -> None:
    for block in blocks(page):
        for command in block.commands if not block.runs else []:
            words = shlex.split(command)
            with suppress(ValueError):
                parser().parse_args(words[words.index("hpc-holstein") + 1 :])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_block_that_is_left_out_says_why(page: Path) -> None:
    for block in blocks(page):
        if block.note.startswith("not run"):
            assert re.fullmatch(r"not run by the tests: \S.{5,}", block.note)
