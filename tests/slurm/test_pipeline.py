"""`hpc-holstein pipeline`: what it submits, again and again, and a small study from nothing to figures."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from slurm_cluster import wait_for

from hpc_holstein.batch import slurm
from hpc_holstein.cli import main

STUDY = """
preset = "paper-2601.04104"

[lattice]
extent = [16, 16]

[dynamics]
steps = 20
seed = 5

[model]
kind = "enn"
copies = 1
radii = [1, 0]
levels = 3

[training]
epochs = 60

[pipeline]
label_extent = [8, 8]
random = 7
quenches = 2
per_quench = 4
quench_steps = 20
label_jobs = 2
seeds = [1, 2]
"""

# Makes the files of each stage without their content, and fails where a file FAIL.WORD names a word of its arguments.
STAND_IN = """\
#!/bin/bash
echo "$*" >>calls.txt
seed=$(sed -n 's/.*--seed \\([0-9]*\\).*/\\1/p' <<<"$*")
for file in FAIL.*; do
    [[ -e $file && " $* " == *"${file#FAIL.}"* ]] && echo "error: told to fail" && exit 2
done
while [[ -n $2 && $1 != --output ]]; do [[ $1 == *.toml ]] && steps=$(sed -n 's/^steps = //p' "$1"); shift; done
case "$2" in
    *.h5) mkdir -p "$(dirname "$2")" && touch "$2" ;;
    */model) mkdir -p "$2" && touch "$2/model.safetensors" "$2/metrics.json" ;;
    */.analysis) mkdir -p "$2" && touch "$2/analysis.json" ;;
    */run-*) mkdir -p "$2/checkpoints" && PYTHON FINISH "$2" "$steps" "$seed" ;;
esac
"""

# The files of a run that is done, without its content: folder, steps, seed.
FINISH = """\
import json, sys, h5py
folder, steps, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with h5py.File(f"{folder}/trajectory.h5", "w") as file:
    file.attrs["run"] = "one"
    file["step"] = [steps]
with h5py.File(f"{folder}/checkpoints/step-{steps:012d}.h5", "w") as file:
    file.attrs["run"] = "one"
told = {"steps": steps, "seed": seed, "stopped": None, "observables": {}, "trust": {}, "run": "one"}
open(f"{folder}/summary.json", "w").write(json.dumps(told))
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site whose environment holds the stand-in, and the study."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "finish.py").write_text(FINISH)
    stand_in = STAND_IN.replace("PYTHON", sys.executable).replace("FINISH", str(tmp_path / "finish.py"))
    (tmp_path / "bin" / "hpc-holstein").write_text(stand_in)
    (tmp_path / "bin" / "hpc-holstein").chmod(0o755)
    Path("site.toml").write_text(f'environment = "{tmp_path}"\nlauncher = "srun"\n')
    monkeypatch.setenv("HPC_HOLSTEIN_SITE", str(tmp_path / "site.toml"))
    Path("study.toml").write_text(STUDY)


def pipeline(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `hpc-holstein pipeline study.toml ARGUMENTS` prints."""
    assert main(["pipeline", "study.toml", *arguments]) == 0
    return capfd.readouterr().out


def submitted() -> list[tuple[str, list[str]]]:
    """Stage and items of each job so far."""
    return [(row["stage"], list(row["tasks"])) for row in json.loads(Path("study/jobs.json").read_text())]


def settle() -> None:
    """Wait until nothing is queued."""
    wait_for(lambda: not slurm.live_jobs(), "the study")


@pytest.mark.usefixtures("cluster", "stand_in")
def test_what_is_missing_and_nothing_else_is_submitted(capfd: pytest.CaptureFixture[str]) -> None:
    Path("FAIL.--seed 2").touch()  # of the quenches, and of no label
    told = pipeline(capfd)
    both, runs = ["part-000", "part-001"], ["run-1", "run-2"]
    first = [("label", both), ("train", ["model"]), ("run", runs), ("analyze", runs)]
    assert submitted() == first
    assert told.count("--dependency=afterok:") == 3
    again = pipeline(capfd)
    assert "nothing is missing" in again
    assert submitted() == first

    settle()  # the analysis was cancelled with the quench that it waited for
    status = pipeline(capfd, "--status")
    assert "label    2 done (of 2)" in status
    assert "train    1 done (of 1)" in status
    assert "run      1 done, 1 failed (of 2)" in status
    log = re.search(r"run-2 failed, see (\S+): error: told to fail", status)
    assert log
    assert Path(log[1]).exists()
    assert re.search(r"analyze  2 failed.*run-1 failed: job \d+ ended before it began", status, re.DOTALL)
    assert submitted() == first

    Path("FAIL.--seed 2").unlink()
    pipeline(capfd)
    assert submitted() == [*first, ("run", ["run-2"]), ("analyze", runs)]
    settle()
    status = pipeline(capfd, "--status")
    assert re.findall(r"^(\w+) +(\d) done \(of \2\)$", status, re.MULTILINE) == [
        ("label", "2"), ("train", "1"), ("run", "2"), ("analyze", "2"),
    ]  # fmt: skip

    Path("study.toml").write_text(STUDY.replace("[1, 2]", "[1, 2, 9]"))
    pipeline(capfd)
    assert submitted()[6:] == [("run", ["run-9"]), ("analyze", ["run-9"])]
    settle()
    calls = Path("calls.txt").read_text().splitlines()
    assert sum(line.startswith("label") for line in calls) == 2
    assert sum(line.startswith("train") for line in calls) == 1
    assert sum(line.startswith("run") and "--seed 1" in line for line in calls) == 1
    assert sum(line.startswith("analyze study/run-9") for line in calls) == 1


@pytest.mark.usefixtures("cluster", "stand_in")
def test_a_study_of_another_configuration_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    pipeline(capfd, "--dry-run")
    assert not Path("study/jobs.json").exists()
    assert main(["pipeline", "study.toml", "--set", "ensemble.kT=0.2"]) == 2
    assert "study is a study with ensemble.kT = 0.1 and here it is 0.2" in capfd.readouterr().err
    assert not slurm.live_jobs()


@pytest.mark.usefixtures("cluster")
def test_a_small_study_from_nothing_to_figures(capfd: pytest.CaptureFixture[str]) -> None:
    study = Path('-a PART of 50%j, "$HOME" `RUN`')
    Path("study.toml").write_text(f"{STUDY.replace('[1, 2]', '[3]')}folder = '{study}'\n")
    pipeline(capfd)
    settle()
    status = pipeline(capfd, "--status")
    assert status.count("done (of") == 4, status
    assert "failed" not in status, "\n".join(path.read_text() for path in (study / "logs").iterdir())
    assert "nothing is missing" in pipeline(capfd)
    assert (study / "run-3" / "analysis" / "cdw_maps.png").exists()
    summary = json.loads((study / "run-3" / "summary.json").read_text())
    assert (summary["seed"], summary["steps"]) == (3, 20)
    trained = json.loads((study / "model" / "metrics.json").read_text())
    assert [Path(path).name for path in trained["data"]] == ["part-000.h5", "part-001.h5"]
    assert sum(map(len, trained["sets"].values())) == 15
