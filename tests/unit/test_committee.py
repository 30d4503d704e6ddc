"""A committee judges the forces of a run and changes no bit of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from commands import write_small_network

from hpc_holstein.cli import main
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.forces import neural
from hpc_holstein.forces._committee import Committee
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square
from hpc_holstein.network.checkpoint import load_model
from hpc_holstein.network.models import efnn

PRESET = "paper-2601.04104"
LATTICE = square.build((12, 10))
CANONICAL, GRAND = Ensemble("canonical", kT=0.1), Ensemble("grand-canonical", kT=0.1, chemical_potential=0.3)
MODELS = ("a.safetensors", "b.safetensors", "c.safetensors")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for seed, name in enumerate(MODELS):
        write_small_network(Path(name), seed)


def forces(ensemble: Ensemble, members: tuple[str, ...], **options: Any) -> NeuralForces:
    domain = CartesianDomain(LATTICE, SerialTransport())
    chosen = neural.Options(MODELS[0], committee=members, **options)
    return neural.build(chosen, holstein.build(holstein.Options(), LATTICE), domain, ensemble)


def random_state(seed: int = 1, std: float = 3.0) -> State:
    generator = torch.Generator().manual_seed(seed)
    return State.at_rest(std * torch.randn(12, 10, 1, 1, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("ensemble", [CANONICAL, GRAND], ids=lambda e: e.kind)
def test_the_deviation_is_that_of_numpy(ensemble: Ensemble) -> None:
    provider = forces(ensemble, MODELS[1:])
    state = random_state()
    state = state.moved(forces=provider(state))
    assert state.forces is not None
    assert provider.committee is not None
    shifted = state.q[..., 0, 0].numpy() + float(state.forces.chemical_potential) / 3.5
    ghosted = torch.from_numpy(np.pad(shifted, 3, mode="wrap"))[None]  # the networks see 3 cells
    with torch.no_grad():
        of_each = np.stack([3.5 * load_model(Path(name))[0](ghosted)[0].numpy() for name in MODELS])
    deviation = provider.committee.deviation(state)[..., 0].numpy()
    np.testing.assert_allclose(deviation, of_each.std(axis=0), rtol=0, atol=1e-12)
    assert deviation.max() > 0.01


@pytest.mark.parametrize("ensemble", [CANONICAL, GRAND], ids=lambda e: e.kind)
def test_members_that_are_the_main_network_do_not_deviate(ensemble: Ensemble) -> None:
    provider = forces(ensemble, (MODELS[0], MODELS[0]), following=1e-2)
    state = random_state()
    state = state.moved(forces=provider(state))
    state = state.moved(forces=provider(random_state(1, 3.0001).moved(forces=state.forces)))  # followed, so not quite its force
    assert provider.committee is not None
    assert float(provider.committee.deviation(state).abs().max()) == 0.0


def test_a_network_of_the_plain_field_can_be_a_member() -> None:
    hamiltonian, domain = holstein.build(holstein.Options(), LATTICE), CartesianDomain(LATTICE, SerialTransport())
    torch.manual_seed(0)
    published = NeuralForces(efnn.build(efnn.Options(), LATTICE).double(), hamiltonian, domain, CANONICAL)
    main = forces(CANONICAL, ())
    state = random_state()
    state = state.moved(forces=main(state))
    assert state.forces is not None
    expected = (published(state).force - state.forces.force).abs() / 2  # the standard deviation of two values
    found = Committee(main, [published]).deviation(state)
    torch.testing.assert_close(found, expected[..., 0], rtol=0, atol=1e-4)  # mu is found to 1e-5


def run(output: str, *more: object, steps: int = 12) -> int:
    fixed = ["--lattice", "12x10", "--set", "output.snapshot_every=4", "--set", "output.observables_every=3", "--seed", "2"]
    fixed += ["--preset", PRESET, "--force", MODELS[0], "--steps", str(steps), "--output", output]
    return main(["run", *fixed, *map(str, more)])


WITH = ("--set", f"force.committee={json.dumps(MODELS[1:])}")


def test_the_trajectory_is_that_without_a_committee_bit_for_bit() -> None:
    assert run("alone") == 0
    assert run("judged", *WITH, "--set", "trust.every=6", "--set", "trust.max_deviation=1e-6") == 0
    with h5py.File("alone/trajectory.h5") as alone, h5py.File("judged/trajectory.h5") as judged:
        assert set(judged) - set(alone) == {"committee_rms", "committee_max", "force_deviation"}
        for name in alone.keys() - {"timing"}:
            np.testing.assert_array_equal(alone[name][...], judged[name][...], err_msg=name)
        rms, largest = judged["committee_rms"][...], judged["committee_max"][...]
        assert np.isfinite(rms).tolist() == [True, False, True, False, True]  # steps 0, 3, 6, 9, 12
        field = judged["force_deviation"][...]  # steps 0, 4, 8, 12
        assert field.shape == (4, 12, 10)
        assert judged["force_deviation"].attrs["units"] == "t_nn/a"
        for row, snapshot in ((0, 0), (4, 3)):
            assert rms[row] == pytest.approx(np.sqrt(np.mean(field[snapshot] ** 2)), rel=1e-6)
            assert largest[row] == pytest.approx(field[snapshot].max(), rel=1e-6)
    summary = json.loads(Path("judged/summary.json").read_text())["trust"]
    assert (summary["looks"], summary["beyond"], summary["first_beyond"]) == (3, 3, 0)
    assert summary["largest_committee_rms"] == pytest.approx(np.nanmax(rms), rel=1e-12)


def test_a_run_is_continued_with_and_without_a_committee() -> None:
    """The committee decides nothing, so it may come and go; what it said of steps that are made again is said again."""
    assert run("whole", *WITH) == 0
    assert run("parts", *WITH, steps=5) == 0
    assert run("parts", steps=8) == 0
    assert run("parts", *WITH) == 0
    with h5py.File("whole/trajectory.h5") as whole, h5py.File("parts/trajectory.h5") as parts:
        for name in whole.keys() - {"timing", "committee_rms", "committee_max", "force_deviation"}:
            np.testing.assert_array_equal(whole[name][...], parts[name][...], err_msg=name)
        assert np.isfinite(parts["committee_rms"][...]).tolist() == [True, True, False, True, True]  # 0, 3, 6, 9, 12
        seen = np.isfinite(parts["committee_rms"][...])
        np.testing.assert_array_equal(whole["committee_rms"][...][seen], parts["committee_rms"][...][seen])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--set", "force.committee=['gone.safetensors']"], "gone.safetensors does not exist"),
        ([*WITH, "--set", "ensemble.kT=0.2"], "made for another system: kT"),
        (["--set", "trust.max_deviation=0.1"], "trust.max_deviation needs a committee"),
        ([*WITH, "--set", "trust.max_outside=0.1"], "trust.max_outside needs a network whose card"),
        ([*WITH, "--set", "trust.every=4"], "trust.every = 4 is no multiple of output.observables_every = 3"),
        ([*WITH, "--set", "trust.action=stop"], "action = 'stop' has no meaning without a limit"),
        ([*WITH, "--set", "trust.max_deviation=1", "--set", "trust.collect_at_most=3"], "collect_at_most has no meaning"),
        (["--force", "exact", "--set", "trust.max_deviation=1"], "trust.max_deviation needs a committee"),
    ],
)
def test_what_cannot_be_judged_is_refused(more: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("refused", *more) == 2
    assert words in capsys.readouterr().err
    assert not Path("refused").exists()
