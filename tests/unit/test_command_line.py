"""What the command line says before anything is computed: quickly, by meaning, and in shells."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_holstein.cli import completion, main, parse, parser
from hpc_holstein.cli.arguments import COMMANDS
from hpc_holstein.cli.options import overrides
from hpc_holstein.config import load_config
from hpc_holstein.config.kinds import loadable
from hpc_holstein.errors import ConfigError

ROOT = Path(__file__).parents[2]
PRESET = ["--preset", "paper-2601.04104"]
HEAVY = ("torch", "numpy", "scipy", "numba", "h5py", "mpi4py", "matplotlib", "safetensors", "pydantic.type_adapter")
LOADED = """
import sys
from hpc_holstein.__main__ import main
sys.argv[0] = "hpc-holstein"
try:
    code = main()
except SystemExit as left:
    code = left.code or 0
print(code, *[name for name in %r if name in sys.modules], file=sys.stderr)
"""


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of a refused command."""
    capsys.readouterr()
    assert main(words) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["--print-completion", "bash"], 0),
        *(([name, "--help"], 0) for name in COMMANDS),
        (["rum"], 2),
        (["run"], 2),
        (["run", "--temperature", "0.1"], 2),
        (["run", "gone.toml"], 2),
        (["run", *PRESET, "--set", "dynamics.step=3"], 2),
        (["run", *PRESET, "--set", "hamiltonian.G=3"], 2),
        (["run", *PRESET, "--force", "exakt"], 2),
        (["run", *PRESET, "--dt", "nan"], 2),
        (["run", *PRESET, "--output", ""], 2),
        (["label", "--random", "3", "--output", "x.h5", "--kT", "hot"], 2),
        (["label", "--input", "states.h5", "--output", "x.h5", "--set", "force.tol=1e-3"], 2),
        (["train", "data.h5", "--output", "m", "--set", "training.lr=1"], 2),
        (["validate", "--input", "states.h5", "--set", "model.copy=1"], 2),
        (["submit", *PRESET, "--filling", "2"], 2),
        (["pipeline", *PRESET, "--set", "pipeline.seed=1"], 2),
    ],
)
def test_questions_and_errors_load_nothing_that_computes(tmp_path: Path, words: list[str], code: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LOADED % (HEAVY,), *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1] == str(code)  # and no library behind it
    assert done.stderr.count("error:") == (code == 2)


@pytest.mark.parametrize(
    "words", [["run", "--pre", "x"], ["run", "--f", "0.4"], ["show", "x", "--sch"], ["doctor", "--dev", "cpu"]]
)
def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    (given,) = (word for word in words if word.startswith("--"))
    assert f"unknown option {given}:" in fails(capsys, *words)


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["--g", "3"], "hamiltonian.g", 3),
        (["--g", "-3.5"], "hamiltonian.g", -3.5),
        (["--kappa", "-1e-3"], "hamiltonian.kappa", -1e-3),
        (["--dt", "0.01"], "dynamics.dt", 0.01),
        (["--kT=0.3"], "ensemble.kT", 0.3),
        (["--filling", "0.4"], "ensemble.filling", 0.4),
        (["--scheme", "baoab"], "dynamics.scheme", "baoab"),
        (["--t", "2", "--set", "hamiltonian.t=2"], "hamiltonian.t", 2),
    ],
)
def test_keys_of_the_physics_have_options(words: list[str], key: str, value: object) -> None:
    args = parse(["run", *PRESET, *words])
    assert overrides(args) == {key: value}
    section, name = key.split(".")
    assert getattr(getattr(load_config(None, args.preset, overrides(args)), section), name) == value


@pytest.mark.parametrize("command", ["run", "label", "train", "learn", "validate", "dos", "submit", "pipeline"])
def test_every_key_of_every_hamiltonian_has_an_option(command: str) -> None:
    known = {action.dest for action in parser(command)._subparsers._group_actions[0].choices[command]._actions}  # type: ignore
    wanted = {f"hamiltonian.{name}" for one in loadable("hamiltonian") for name in one.model_fields}
    assert known >= wanted | {"ensemble.kT", "ensemble.filling", "ensemble.chemical_potential"}
    assert ("dynamics.dt" in known) == (command not in ("train", "validate", "dos"))


def test_a_grand_canonical_run_from_options_alone() -> None:
    args = parse(["run", *PRESET, "--ensemble", "grand-canonical", "--chemical-potential", "-0.5"])
    ensemble = load_config(None, args.preset, overrides(args)).ensemble
    assert (ensemble.kind, ensemble.chemical_potential) == ("grand-canonical", -0.5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", *PRESET, "--temperature", "0.1"], "did you mean --kT?"),
        (["run", *PRESET, "--T", "0.1"], "did you mean --kT?"),
        (["run", *PRESET, "--coupling", "3"], "did you mean --g?"),
        (["run", *PRESET, "--G", "3"], "did you mean --g?"),
        (["run", *PRESET, "--timestep", "3"], "did you mean --dt?"),
        (["run", *PRESET, "--doping", "0.1"], "did you mean --filling?"),
        (["run", *PRESET, "--mu", "0.1"], "did you mean --chemical-potential?"),
        (["run", *PRESET, "--n-steps", "10"], "did you mean --steps?"),
        (["run", *PRESET, "--size", "10x10"], "did you mean --lattice?"),
        (["run", *PRESET, "--learning-rate", "1"], "did you mean --set training.learning_rate=...?"),
        (["train", "x.h5", "--output", "m", "--dt", "0.1"], "did you mean --set dynamics.dt=...?"),
        (["run", *PRESET, "--U", "4"], "see `hpc-holstein run --help`"),
        (["run", *PRESET, "--lattic", "4x4"], "did you mean --lattice?"),
        (["run", *PRESET, "--set", "ensemble.temperature=1"], "did you mean 'ensemble.kT'?"),
        (["run", *PRESET, "--set", "temperature=1"], "did you mean 'ensemble.kT'?"),
        (["run", *PRESET, "--set", "ensemble.beta=1"], "did you mean 'ensemble.kT'?"),
        (["run", *PRESET, "--set", "hamiltonian.coupling=1"], "did you mean 'hamiltonian.g'?"),
        (["run", *PRESET, "--set", "hamiltonian.U=1"], "unknown key 'hamiltonian.U': valid keys"),
        (["run", *PRESET, "--set", "ensemble.density=0.4"], "did you mean 'ensemble.filling'?"),
        (["run", *PRESET, "--g", "3", "--set", "hamiltonian.g=4"], "hamiltonian.g is given twice"),
        (["run", *PRESET, "--output", "a", "--set", "output.folder=b"], "output.folder is given twice"),
        (["train", "x.h5", "--output", "m", "--epochs", "3", "--set", "training.epochs=4"], "training.epochs is given twice"),
        (["bench", "weak", "--output", "r", "--set", "lattice.extent=[9,9]"], "give --lattice-per-rank instead"),
        (
            ["run", *PRESET, "--ensemble", "grand-canonical", "--filling", "0.4"],
            "filling has no meaning in the grand",
        ),
        (["run", *PRESET, "--chemical-potential", "1"], "give ensemble.kind = 'grand-canonical'"),
        (["label", "--input", "x.h5", "--dt", "0.1", "--output", "y.h5"], "--dt has no meaning without quenches"),
        (["analyze", "x", "--kT", "0.1"], "unknown option --kT"),
        (["show", "x", "--g", "3"], "unknown option --g"),
    ],
)
def test_what_is_meant_is_said(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert said in fails(capsys, *words)


def test_default_is_the_packaged_model() -> None:
    from hpc_holstein.cli.options import force_overrides

    assert force_overrides("default") == {"force.kind": "neural", "force.model": "default"}


def completed(script: str, line: str) -> list[str]:
    """What Bash offers at the end of ``line``."""
    words = line.split(" ")
    ask = f"""
{script}
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}) COMP_CWORD={len(words) - 1} COMP_LINE='{line}' COMP_POINT={len(line)}
_hpc_holstein_complete hpc-holstein '{words[-1]}' '{words[-2]}'
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    return subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True, timeout=60).stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("hpc-holstein r", ["run"]),
        ("hpc-holstein run --ki", []),
        ("hpc-holstein run --kT", ["--kT"]),
        ("hpc-holstein run --chem", ["--chemical-potential"]),
        ("hpc-holstein run --force k", ["kpm"]),
        ("hpc-holstein run --preset paper-26", ["paper-2601.04104"]),
        ("hpc-holstein run --set dynamics.d", ["dynamics.dt="]),
        ("hpc-holstein run --set force.cu", ["force.cuda_graphs="]),
        ("hpc-holstein train --model enn", ["enn", "enn_energy", "enn_matrix"]),
        ("hpc-holstein run --scheme b", ["baoab"]),
        ("hpc-holstein bench st", ["strong"]),
    ],
)
def test_bash_completes(line: str, offered: list[str]) -> None:
    assert completed(completion.script("bash"), line) == offered


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--print-completion csh is not known: choose from bash, zsh" in fails(capsys, "--print-completion", "csh")
    assert "#compdef hpc-holstein" in completion.script("zsh")
    with pytest.raises(ConfigError):
        parse(["run", "--print-completion", "bash"])
