"""Whatever is written into a configuration: a checked one, or one sentence; and names, files and streams of any kind."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpc_holstein.cli import main
from hpc_holstein.config import Config, config_of_text, load_config
from hpc_holstein.config.loading import keys_of
from hpc_holstein.errors import HolsteinError

ROOT = Path(__file__).parents[2]
PAPER = "paper-2601.04104"
KEYS = sorted(key for kind in ("neural", "kpm", "petsc") for key in keys_of({"force": {"kind": kind}}))
ODD: list[Any] = [
    *(0, -1, 1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400, 10**4000),
    *(0.0, -0.0, 1e-308, 5e-324, 1e308, -1e308, 0.5, 1 / 3, math.nan, math.inf, -math.inf),
    *(
        True,
        False,
        "",
        " ",
        "x",
        "\0",
        "\x07",
        "a\nb",
        "ä",
        "\U0001d4e0",
        "\udcff",
        "exact",
        "float64",
        "x" * 5000,
        "../" * 900,
    ),
    *([], [0], [[]], [1, "x"], [math.nan], [1.5, math.inf], [True, True], [4, 4], [10**400], ["a", "b"], [2**70, 2]),
    *({}, {"kind": "exact"}, {"kind": 3}, {"kind": None}, {"kind": []}, {"x": {"y": {"z": 1}}}, {"": 1}, {"\0": 1}),
]
DEEP: list[Any] = []
for _ in range(3000):
    DEEP = [DEEP]


def checked(overrides: dict[str, Any]) -> Config | str:
    """The configuration, or the sentence about it."""
    try:
        return load_config(preset_name=PAPER, overrides=overrides)
    except HolsteinError as error:
        return str(error)


@pytest.mark.parametrize("number", range(len(ODD) + 1))
def test_any_value_of_any_key_is_checked_or_refused_in_a_sentence(number: int) -> None:
    value = [*ODD, DEEP][number]
    for key in random.Random(number).sample(KEYS, 25):
        kind = {"force.kind": "kpm"} if key in ("force.tolerance", "force.vectors") else {}
        found = checked({**kind, key: value})
        if isinstance(found, str):
            assert 20 < len(found) < 700, found
            assert key.split(".")[0] in found or "kT" in found, found
        else:
            assert all(math.isfinite(number) for number in _numbers(found.model_dump()))
            assert config_of_text(found.toml()) == found


@pytest.mark.parametrize("value", ["x" * 5000, "../" * 900, "a b " * 900])
def test_a_long_value_of_any_key_is_shortened(value: str) -> None:
    for key in KEYS:
        found = checked({key: value})
        assert not isinstance(found, str) or len(found) < 700, found


def test_any_values_of_several_keys_at_once() -> None:
    draw = random.Random(7)
    for _ in range(300):
        keys = draw.sample(KEYS, draw.randint(1, 4))
        found = checked({key: draw.choice(ODD) for key in keys})
        if isinstance(found, Config):
            assert config_of_text(found.toml()) == found


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in _numbers(inner)]
    if isinstance(value, list | tuple):
        return [number for inner in value for number in _numbers(inner)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("hamiltonian.g", math.nan, "hamiltonian.g = nan"),
        ("hamiltonian.kappa", math.inf, "hamiltonian.kappa = inf"),
        ("ensemble.kT", 1e308, "at most 1000000"),
        ("ensemble.kT", 1e-308, "give 0, or 1e-12 and more"),
        ("dynamics.dt", 1e308, "dynamics.dt = 1e+308"),
        ("training.learning_rate", math.nan, "training.learning_rate = nan"),
        ("model.scales", [1.0, math.inf], "model.scales[1] = inf"),
        ("dynamics.seed", 10**4000, "64 bits"),
        ("lattice.extent", [10**18, 4], "lattice.extent[0]"),
        ("output.folder", "x" * 300, "too long"),
    ],
)
def test_the_key_that_is_wrong_is_blamed(key: str, value: Any, words: str) -> None:
    found = checked({key: value})
    assert isinstance(found, str)
    assert words in found


BAD_FILES = {
    "digits.toml": (b"[dynamics]\nsteps = " + b"9" * 5000, "an integer has thousands of digits"),
    "nested.toml": (b"a = " + b"[" * 5000 + b"]" * 5000, "nested too deeply"),
    "tables.toml": (b"[" + b".".join([b"a"] * 3000) + b"]\nb = 1", "nested too deeply"),
    "binary.toml": (bytes(range(256)), "not UTF-8 text"),
    "twice.toml": (b"[dynamics]\ndt = 1\n[dynamics]\ndt = 2", "not valid TOML"),
    "zero.toml": (b"preset = 'a\0b'", "not valid TOML"),
    "large.toml": (b"#" + b"x" * (5 << 20), "larger than 4 MiB"),
    "empty.toml": (b"", "is missing"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_are_no_configuration(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, words = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    assert main(["run", str(tmp_path / name)]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert len(message) < 400


def test_what_is_no_file_is_refused_and_a_pipe_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")  # nobody writes
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, words in (("", "Is a directory"), ("loop", "symbolic links"), ("pipe", "missing"), ("gone", "does not exist")):
        assert main(["run", str(tmp_path / name)]) == 2
        assert words in capsys.readouterr().err
    assert main(["run", "/dev/zero"]) == 2
    assert "larger than 4 MiB" in capsys.readouterr().err
    command = f"echo 'preset = \"{PAPER}\"\n[dynamics]\nstep = 3' | {sys.executable} -m hpc_holstein run /dev/stdin"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert "did you mean 'dynamics.steps'?" in done.stderr


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_texts_of_any_editor_are_read(tmp_path: Path, ends: str, mark: bytes) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(mark + ends.join([f'preset = "{PAPER}"', "[dynamics]", "steps = 7", ""]).encode())
    assert load_config(path).dynamics.steps == 7


@pytest.mark.parametrize("name", ["", "x" * 300, "/".join(["y" * 100] * 60), "a\0b"])
@pytest.mark.parametrize(
    "words",
    [
        *(["run"], ["run", "--preset", PAPER, "--output"], ["run", "--preset", PAPER, "--restart"], ["show"], ["analyze"]),
        *(
            ["run", "--preset", PAPER, "--force"],
            ["doctor", "--output"],
            ["doctor"],
            ["validate", "--run"],
            ["bench", "report"],
        ),
        *(["label", "--output", "x.h5", "--input"], ["train", "d.h5", "--output", "m", "--from"], ["dos", "--run"]),
    ],
    ids=lambda words: "-".join(words[:1] + words[-1:]),
)
def test_names_that_no_file_can_have(words: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, name]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "\0" not in message
    assert any(told in message for told in ("no file or folder", "too long", "one argument too many"))


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ("{run} show default", 0),
        ("PYTHONIOENCODING=ascii {run} show ä", 2),
        ("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {run} show ä", 2),
        ("{run} show default >&-", 0),
        ("{run} show default >&- 2>&- <&-", 0),
        ("{run} --help >&-", 0),
        ("{run} --help > /dev/full", 0),
        ("{run} show default > /dev/full", 0),
        ("{run} run gone.toml 2>&-", 2),
        ("{run} --help | true; exit ${{PIPESTATUS[0]}}", 0),
    ],
)
def test_streams_of_any_kind(tmp_path: Path, shell: str, code: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = shell.format(run=f"{sys.executable} -m hpc_holstein")
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
