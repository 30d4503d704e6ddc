"""Kernels, options, ranks and the command of the densities of states."""

from __future__ import annotations

import json
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from hpc_holstein.cli import main
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.errors import ConfigError, SpectrumError
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble
from hpc_holstein.lattice import square
from hpc_holstein.output.spectrum import SpectrumOptions, jackson, kernel_order, lorentz, spectrum

KT = 0.1


def random_q(extent, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*extent, 1, 1, generator=generator, dtype=torch.float64)


def of(q, options, transport=None, **more):
    lattice = square.build(tuple(q.shape[:2]))
    domain = CartesianDomain(lattice, transport or SerialTransport())
    tile = tuple(slice(*span) for span in domain.owned)
    return spectrum(holstein.build(holstein.Options(), lattice), domain, q[tile].contiguous(), options, **more)


@pytest.mark.parametrize("terms", [4, 5, 64, 1000])
def test_kernels_keep_the_sum_rule_and_fall(terms):
    for g in (jackson(terms), lorentz(terms, 4.0)):
        assert g.shape == (terms,)
        assert g[0] == pytest.approx(1, abs=1e-12)
        assert (np.diff(g) < 0).all()
        assert 0 < g[-1] < 0.5


def test_the_jackson_kernel_is_nowhere_negative():
    """The series of a delta function, anywhere in the spectrum; without the kernel it is negative in places."""
    angles = np.linspace(0.01, math.pi - 0.01, 500)
    m = np.arange(40)
    for level in (0.1, 1.0, math.pi / 2):
        plain = 2 * np.cos(np.outer(angles, m)) * np.cos(m * level)
        plain[:, 0] *= 0.5
        assert (plain @ jackson(40)).min() > -1e-12
        assert plain.sum(axis=1).min() < -1


def test_the_order_follows_from_the_resolution():
    assert kernel_order("jackson", 10.0, 0.1, 4.0) == math.ceil(100 * math.pi)
    assert kernel_order("lorentz", 10.0, 0.1, 4.0) == 400
    assert kernel_order("jackson", 1.0, 1e3, 4.0) == 4
    with pytest.raises(ConfigError, match=r"resolution = 1e-05 .* more than 100000 moments: give 0.00031 t_nn or more"):
        kernel_order("jackson", 10.0, 1e-5, 4.0)


@pytest.mark.parametrize(
    ("options", "more", "words"),
    [
        ({"kernel": "fejer"}, {}, "kernel = 'fejer'"),
        ({"resolution": 0.0}, {}, "resolution = 0.0"),
        ({"resolution": math.nan}, {}, "resolution = nan"),
        ({"lorentz_lambda": -1.0}, {}, "lorentz_lambda = -1.0"),
        ({"vectors": 1}, {}, "vectors = 1"),
        ({"seed": -1}, {}, "seed = -1"),
        ({}, {"at": [24]}, "site 24 .* from 0 to 23"),
    ],
)
def test_options_out_of_range_are_refused(options, more, words):
    with pytest.raises(ConfigError, match=words):
        of(random_q((4, 6)), SpectrumOptions(**options), kT=KT, **more)


def test_states_without_a_spectrum_and_energies_outside_of_it_are_refused():
    q = random_q((4, 6))
    found = of(q, SpectrumOptions(resolution=1.0, vectors=2), kT=0.0)
    with pytest.raises(ConfigError, match="leave the interval"):
        found.density_of_states(np.array([0.0, 1e3]))
    with pytest.raises(SpectrumError, match="kT = 0"):
        found.thermodynamics(Ensemble("canonical", 0.0))
    q[1, 2] = math.nan
    with pytest.raises(SpectrumError, match="NaN"):
        of(q, SpectrumOptions(), kT=KT)


def test_nothing_depends_on_the_ranks():
    """Uneven tiles of one to six ranks, to round-off; the chosen sites lie on different ones."""
    q, options, at = random_q((7, 10)), SpectrumOptions(resolution=2.0, vectors=3, seed=11), [0, 34, 69]
    alone = of(q, options, kT=1.0, at=at)
    for size in (2, 6):
        for found in run_in_process(size, lambda transport: of(q, options, transport, kT=1.0, at=at)):
            assert np.allclose(found.total, alone.total, atol=1e-13, rtol=0)
            assert np.allclose(found.local, alone.local, atol=1e-13, rtol=0)
            assert found.interval == alone.interval


def test_seeds_and_vectors_are_independent_and_repeatable():
    q = random_q((6, 6))
    one, same, other = (of(q, SpectrumOptions(resolution=2.0, vectors=4, seed=seed), kT=0.0) for seed in (1, 1, 2))
    assert np.array_equal(one.total, same.total)
    assert not np.allclose(one.total[:, 5], other.total[:, 5])
    assert len(set(one.total[:, 5].round(12))) == 4


def test_progress_counts_to_the_end():
    told = []
    found = of(
        random_q((4, 4)), SpectrumOptions(resolution=2.0, vectors=3), kT=0.0, at=[5], progress=lambda *now: told.append(now)
    )
    total = 4 * len(found.damping)
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with h5py.File("states.h5", "w") as file:
        file["q"] = random_q((6, 8), seed=1)[None, ..., 0, 0].numpy()
    return tmp_path


def test_command_writes_curves_numbers_and_a_figure(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dos", "--input", "states.h5", "--at", "0,0", "--at", "5,7", "--resolution", "0.5", "--exact-omega"]) == 0
    assert "random vectors, canonical, kT = 0.1 t_nn: mu" in capsys.readouterr().out
    assert {path.name for path in Path("dos").iterdir()} == {"dos.csv", "dos.json", "dos.png"}
    header = Path("dos/dos.csv").read_text().splitlines()[0].split(",")
    assert header[:2] == ["energy [t_nn]", "dos [1/(state t_nn)]"]
    assert header[-2:] == ["ldos_0_0 [1/t_nn]", "ldos_5_7 [1/t_nn]"]
    table = np.loadtxt("dos/dos.csv", delimiter=",", skiprows=1)
    step = table[1, 0] - table[0, 0]
    assert table[:, [5, 6]].sum(axis=0) * step == pytest.approx(1, abs=1e-3)
    assert table[[0, -1], 3] == pytest.approx([0, 1], abs=1 / 48)  # a level may lie in the first or last step
    assert (np.diff(table[:, 3]) > -1e-12).all()
    numbers = json.loads(Path("dos/dos.json").read_text())
    free = [numbers[name]["free_energy"] for name in ("random_vectors", "coloured_vectors")]
    assert abs(free[0]["value"] - free[1]["value"]) < 4 * free[0]["error"]
    assert (numbers["states"], numbers["local_sites"], numbers["snapshot"]) == (48, [[0, 0], [5, 7]], -1)
    assert main(["dos", "--input", "states.h5"]) == 2
    assert "never overwritten" in capsys.readouterr().err


def test_command_on_a_run_at_zero_temperature(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "--preset", "paper-2601.04104", "--lattice", "6x6", "--steps", "2", "--force", "atomic", "--output", "r"]
    assert main([*run, "--set", "ensemble.kT=0.0"]) == 0
    assert main(["dos", "--run", "r", "--snapshot", "0", "--kernel", "lorentz", "--resolution", "1"]) == 0
    assert "kT = 0: chemical and grand potential" in capsys.readouterr().out
    numbers = json.loads(Path("r/dos/dos.json").read_text())
    assert (numbers["step"], numbers["random_vectors"], numbers["lorentz_lambda"]) == (0, None, 4.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input", "states.h5", "--at", "6,0"], "--at 6,0 is not on the lattice: give Y,X from 0,0 to 5,7"),
        (["--input", "states.h5", "--at", "6"], "--at 6 is not on the lattice"),
        (["--input", "states.h5", "--at", "here"], "'here' is not a site"),
        (["--input", "states.h5", "--snapshot", "1"], "snapshot 1 is not in states.h5: it holds 1"),
        (["--input", "states.h5", "--kernel", "fejer"], "invalid choice: 'fejer'"),
        (["--input", "states.h5", "--lorentz-lambda", "3"], "no meaning with the jackson kernel"),
        (["--input", "states.h5", "--resolution", "1e-9"], "more than 100000 moments"),
        (["--input", "states.h5", "--vectors", "1"], "vectors = 1"),
        (["--input", "states.h5", "--exact-omega", "0"], "tolerance = 0.0"),
        (["--input", "states.h5", "--set", "ensemble.kT=0.0", "--exact-omega"], "kT = 0"),
        (["--run", "nowhere"], "nowhere/trajectory.h5 does not exist"),
        ([], "--run --input is required"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["dos", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert words in message
    assert not Path("dos").exists()
