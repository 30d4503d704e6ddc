"""The range that a network was trained on, what lies outside of it, and what a run does beyond a limit."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from commands import write_small_network

from hpc_holstein.cli import main
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, Transport, run_in_process
from hpc_holstein.errors import ModelError
from hpc_holstein.forces._committee import Committee
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square
from hpc_holstein.network.checkpoint import load_model, read_card, save_model
from hpc_holstein.network.field_range import field_range, outside
from hpc_holstein.network.models import enn
from hpc_holstein.network.models._enn import Enn
from hpc_holstein.network.surroundings import Surroundings, surroundings_of
from hpc_holstein.output import checkpoint
from hpc_holstein.simulation import Limits
from hpc_holstein.training import dataset
from hpc_holstein.training.fit import fit
from hpc_holstein.training.fit_options import FitOptions

PRESET = "paper-2601.04104"
REFERENCE = Path(__file__).parents[1] / "data" / "quench-20x20.h5"
MAIN, MEMBER = "main.safetensors", "member.safetensors"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for seed, name in enumerate((MAIN, MEMBER)):
        write_small_network(Path(name), seed)
    return tmp_path


def give_range(path: str, lowest: float, highest: float) -> None:
    """As if the network had been trained on fields in this range; sums over neighbours are four times that."""
    module, card = load_model(Path(path))
    limits = {"field": (lowest, highest), "neighbours": (4 * lowest, 4 * highest)}
    seen = {f"{name}.{end}": value for name, pair in limits.items() for end, value in zip(("min", "max"), pair, strict=True)}
    seen |= {f"{name}.{part}": 0.0 for name in limits for part in ("median", "99 %", "99.9 %")}
    save_model(path, module, dataclasses.replace(card, field_range=seen), overwrite=True)


def test_the_range_is_that_of_a_loop() -> None:
    lattice = square.build((5, 4))
    field = np.random.default_rng(0).normal(size=(3, 5, 4))
    sums = np.empty_like(field)
    for s, y, x in np.ndindex(field.shape):
        sums[s, y, x] = sum(field[s, (y + dy) % 5, (x + dx) % 4] for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)))
    domain = CartesianDomain(lattice, SerialTransport())
    seen = field_range(torch.from_numpy(field)[..., None], domain)
    for name, values in (("field", field), ("neighbours", sums)):
        assert seen[f"{name}.min"] == pytest.approx(values.min(), abs=1e-14)
        assert seen[f"{name}.max"] == pytest.approx(values.max(), abs=1e-14)
        assert seen[f"{name}.median"] == pytest.approx(np.median(np.abs(values)), rel=0.1)
    state = torch.from_numpy(field[0])[..., None].clone()
    assert not outside(state, seen, domain).any()
    state[2, 3] = 1.01 * seen["field.max"]
    found = outside(state, seen, domain)[..., 0]
    assert bool(found[2, 3])
    assert int(found.sum()) <= 5  # it, and neighbours for their sum
    flat = torch.full((5, 4, 1), 0.99 * seen["field.max"], dtype=torch.float64)  # each value was seen, such sums were not
    assert 4 * flat[0, 0, 0] > seen["neighbours.max"]
    assert outside(flat, seen, domain).all()
    flat[0, 0] = math.nan
    assert outside(flat, seen, domain)[0, 0]


@pytest.mark.parametrize("size", [2, 4])
def test_sites_outside_are_the_same_on_any_ranks(size: int) -> None:
    lattice = square.build((8, 6))
    field = 3 * torch.randn(8, 6, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    seen = {"field.min": -4.0, "field.max": 4.0, "neighbours.min": -7.0, "neighbours.max": 7.0}
    whole = outside(field, seen, CartesianDomain(lattice, SerialTransport()))
    assert 0 < int(whole.sum()) < 48

    def body(transport: Transport) -> None:
        domain = CartesianDomain(lattice, transport)
        tile = tuple(slice(*span) for span in domain.owned)
        assert torch.equal(outside(field[tile], seen, domain), whole[tile])

    run_in_process(size, body)


def test_training_writes_its_range_on_the_card(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", "model.copies=1", "--set", "model.radii=[1]", "--epochs", "1", "--set", "training.test=0.2"]
    made = ["label", "--random", "5", "--lattice", "6x6", "--seed", "1", "--output", "data.h5"]
    assert main(made) == 0
    assert main(["train", "data.h5", *settings, "--output", "model"]) == 0
    card = read_card(Path("model/model.safetensors"))
    metrics = json.loads(Path("model/metrics.json").read_text())
    data = dataset.read("data.h5")
    assert data.chemical_potential is not None
    chosen = metrics["sets"]["training"]
    shifted = data.q[chosen] + data.chemical_potential[chosen][:, None, None] / 3.5
    assert card.field_range["field.max"] == pytest.approx(shifted.max(), abs=1e-12)
    assert card.field_range["field.min"] == pytest.approx(shifted.min(), abs=1e-12)
    capsys.readouterr()
    assert main(["show", "model"]) == 0
    assert f"field {shifted.min():.4g} to {shifted.max():.4g} a" in capsys.readouterr().out


def test_older_files_stay_loadable_and_say_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).parents[1] / "data" / "model-schema-1.safetensors"
    card = read_card(path)
    assert (card.schema, card.field_range) == (1, {})
    load_model(path, square.build((12, 12)))
    assert main(["show", str(path)]) == 0
    assert "the extrapolation guard is off" in capsys.readouterr().out


def run(output: str, *more: object, steps: int = 12, extent: str = "12x10") -> int:
    fixed = ["--lattice", extent, "--set", "output.snapshot_every=4", "--seed", "2"]
    fixed += [] if "output.observables_every=1" in more else ["--set", "output.observables_every=3"]
    fixed += ["--preset", PRESET, "--force", MAIN, "--steps", str(steps), "--output", output]
    return main(["run", *fixed, *map(str, more)])


COMMITTEE = ["--set", f"force.committee=['{MEMBER}']"]


def test_a_state_far_outside_of_the_range_is_flagged(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    give_range(MAIN, -30.0, 30.0)
    assert run("inside", "--set", "trust.max_outside=0") == 0
    with h5py.File("inside/trajectory.h5") as file:
        assert file["outside_fraction"][...].tolist() == [0.0] * 5
    give_range(MAIN, -6.0, 6.0)
    capsys.readouterr()
    assert run("outside", "--set", "trust.max_outside=0.05") == 0
    said = capsys.readouterr().out
    assert said.count("part of the sites outside of the training range") == 2  # once when it happens, once at the end
    assert "is beyond 0.05 (trust.max_outside)" in said
    with h5py.File("outside/trajectory.h5") as file:
        q, mu = file["q"][0], file["chemical_potential"][0]
        expected = np.mean(np.abs(q + mu / 3.5) > 6.0)
        assert file["outside_fraction"][0] >= expected > 0.05


def test_beyond_a_limit_a_run_stops_with_the_last_good_checkpoint(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("probe", *COMMITTEE) == 0
    with h5py.File("probe/trajectory.h5") as file:
        found = file["committee_rms"][...]
    beyond = next(row for row in range(1, len(found)) if found[row] > found[:row].max())  # the first one above those before
    limit = (found[:beyond].max() + found[beyond]) / 2
    capsys.readouterr()
    stopping = [*COMMITTEE, "--set", "trust.action=stop", "--set", "output.checkpoint_every=1"]
    assert run("stopped", *stopping, "--set", f"trust.max_deviation={limit}") == 2
    message = capsys.readouterr().err
    assert f"not trusted at step {3 * beyond}: rms deviation of the force over the committee" in message
    assert f"the state of step {3 * beyond - 1} is kept in stopped/checkpoints" in message
    assert message.count("\n") == 1
    assert run("stopped", *stopping, "--set", f"trust.max_deviation={2 * found.max()}") == 0  # and it goes on from there
    with h5py.File("stopped/trajectory.h5") as one, h5py.File("probe/trajectory.h5") as other:
        np.testing.assert_array_equal(one["q"][...], other["q"][...])


def collected(output: str) -> tuple[list[int], Any]:
    made = dataset.read(f"{output}/collected.h5")
    return made.step.tolist(), made.q


COLLECT = [*COMMITTEE, "--set", "trust.max_deviation=1e-6", "--set", "trust.action=collect"]


def test_collected_states_are_those_of_the_run_and_can_be_labelled(here: Path) -> None:
    assert run("run", *COLLECT, "--set", "trust.collect_distance=4", "--set", "trust.collect_at_most=2") == 0
    steps, q = collected("run")
    assert steps == [0, 6]  # 3 is too near, 12 is one too many
    with h5py.File("run/trajectory.h5") as file:
        np.testing.assert_array_equal(q[0], file["q"][0])
    assert main(["label", "--input", "run/collected.h5", "--force", "exact", "--output", "labelled.h5"]) == 0
    assert dataset.read("labelled.h5", require_labels=True).step.tolist() == [0, 6]
    summary = json.loads(Path("run/summary.json").read_text())["trust"]
    assert (summary["collected"], summary["beyond"]) == (2, 5)


def test_a_continued_run_neither_repeats_nor_loses_collected_states(here: Path) -> None:
    more = [*COLLECT, "--set", "trust.collect_distance=1"]
    assert run("whole", *more) == 0
    assert run("parts", *more, "--set", "output.checkpoint_every=6", steps=8) == 0
    Path("parts/checkpoints/step-000000000008.h5").unlink()  # as if it had been killed after step 8, on from step 6
    assert collected("parts")[0] == [0, 3, 6, 8]
    assert run("parts", *more) == 0
    for one, other in zip(collected("whole"), collected("parts"), strict=True):
        np.testing.assert_array_equal(one, other)
    summaries = [json.loads(Path(f"{name}/summary.json").read_text())["trust"] for name in ("whole", "parts")]
    assert summaries[0] == summaries[1]


def test_collected_states_of_another_run_are_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    Path("run/collected.h5").write_text("precious")
    assert run("run", *COLLECT) == 2
    assert "collected.h5 exists already" in capsys.readouterr().err
    assert Path("run/collected.h5").read_text() == "precious"


def test_a_network_that_yields_nan_ends_the_run_with_the_last_good_checkpoint(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Enn.forward, [0]

    def failing(self: Enn, field: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return real(self, field) * (math.nan if calls[0] > 7 else 1.0)

    monkeypatch.setattr(Enn, "forward", failing)
    grand = ["--set", "ensemble.kind=grand-canonical", "--set", "output.checkpoint_every=1"]
    assert run("broken", *grand, "--set", "output.observables_every=1") == 2  # call 8 belongs to step 7
    message = capsys.readouterr().err
    assert "diverged by step 7: the forces are not finite" in message
    assert "the state of step 6 is kept in broken/checkpoints" in message
    last, complaints = checkpoint.newest(Path("broken/checkpoints"))
    assert last is not None
    assert (last.step, complaints) == (6, [])
    assert all(np.isfinite(array).all() for name, array in last.arrays.items() if name != "grand_potential")


def test_the_deviation_tells_where_the_error_is(here: Path) -> None:
    """Physics: three networks trained on parts of a quench disagree where they are wrong, on states that none has seen."""
    data = dataset.read(REFERENCE, require_labels=True)
    lattice, ensemble = square.build(data.extent), Ensemble("canonical", kT=0.1)
    system, domain = holstein.build(holstein.Options(), lattice), CartesianDomain(lattice, SerialTransport())
    training = data.select(np.arange(0, len(data), 2))
    seen = dataclasses.replace(training, quench=np.full(len(training), -1))
    providers = []
    for seed in range(3):
        torch.manual_seed(seed)
        network = enn.build(enn.Options(copies=1, radii=(1, 1), levels=4), lattice)
        fit(network, seen, system, ensemble, FitOptions(epochs=25, batch=2, seed=seed, test=0.0), SerialTransport())
        providers.append(NeuralForces(network, system, domain, ensemble))
    committee = Committee(providers[0], providers[1:])
    errors, deviations = [], []
    assert data.force is not None
    for index in range(1, len(data), 2):
        state = State.at_rest(data.fields()[index])
        state = state.moved(forces=providers[0](state))
        assert state.forces is not None
        errors.append(state.forces.force[..., 0, 0].numpy() - data.force[index])
        deviations.append(committee.deviation(state)[..., 0].numpy())
    error, deviation = np.abs(errors).ravel(), np.ravel(deviations)
    assert np.corrcoef(np.log(error + 1e-12), np.log(deviation + 1e-12))[0, 1] > 0.5  # site by site: 0.6
    suspects = deviation >= np.quantile(deviation, 0.95)
    assert (error[suspects] ** 2).sum() > 0.8 * (error**2).sum()  # 5 % of the sites hold the error: 0.96
    of_states = [np.argsort(np.argsort(np.mean(np.square(values), axis=(1, 2)))) for values in (errors, deviations)]
    assert np.corrcoef(*of_states)[0, 1] > 0.8  # state by state, in ranks: 0.98


def test_a_number_that_is_none_is_beyond_any_limit() -> None:
    limits = Limits(every=1, max_deviation=0.1, max_outside=0.5)
    assert limits.beyond({"committee_rms": 0.1, "outside_fraction": 0.5, "committee_max": math.nan}) == []
    for values in ({"committee_rms": math.nan, "outside_fraction": 0.0}, {"outside_fraction": 0.0}):
        (sentence,) = limits.beyond(values)
        assert "rms deviation of the force over the committee nan t_nn/a is beyond 0.1 (trust.max_deviation)" in sentence


def test_surroundings_are_those_of_a_loop_and_of_symmetric_copies(here: Path) -> None:
    lattice, g, width = square.build((6, 8)), 3.5, 1.4
    domain = CartesianDomain(lattice, SerialTransport())
    field = np.random.default_rng(5).normal(0, 1.5, size=(3, 6, 8))
    told = surroundings_of(torch.from_numpy(field)[..., None], torch.from_numpy(field)[..., None], g, domain)
    near = 1 / (1 + (g * field / width) ** 2)
    seen = np.zeros((16, 48), dtype=bool)
    shells = [(y, x) for y in range(-2, 3) for x in range(-2, 3) if y * y + x * x in (1, 2, 4)]
    for s, y, x in np.ndindex(field.shape):
        around = [near[s, (y + dy) % 6, (x + dx) % 8] for dy, dx in shells]
        level = g * abs(field[s, y, x])
        seen[int(16 * level / math.hypot(level, width)), int(48 * np.mean(around))] = True
    assert told["seen"] == ["".join("01"[cell] for cell in row) for row in seen.tolist()]
    assert (told["usual"], told["sites"]) == (0.005, field.size)
    known = Surroundings.of_card(told, g)
    assert known is not None
    assert not any(known.unfamiliar(torch.from_numpy(one)[..., None], domain).any() for one in field)
    other = torch.from_numpy(np.random.default_rng(6).normal(0, 1.0, size=(6, 8)))[..., None]
    found = known.unfamiliar(other, domain)
    assert 0 < int(found.sum()) < 48
    assert torch.equal(known.unfamiliar(-other, domain), found)
    assert torch.equal(known.unfamiliar(other.flip(0).roll(3, 1), domain), found.flip(0).roll(3, 1))
    other[2, 3] = math.nan
    assert known.unfamiliar(other, domain)[2, 3]

    def body(transport: Transport) -> None:
        part = CartesianDomain(lattice, transport)
        tile = tuple(slice(*span) for span in part.owned)
        assert torch.equal(known.unfamiliar(-other[tile], part), known.unfamiliar(-other, domain)[tile])

    run_in_process(4, body)


@pytest.mark.parametrize("told", [{"seen": ["01"], "usual": 0.1}, {"seen": ["0" * 48] * 16}, {"seen": 3, "usual": 0.1}])
def test_surroundings_that_are_none_are_refused(told: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"surroundings on the card.*train the model again"):
        Surroundings.of_card(told, 3.5)


def write_far_states() -> None:
    """A hot state, and one far from all training."""
    pattern = np.where(np.add.outer(np.arange(12) % 2, 2 * (np.arange(12) % 2)) == 0, 3.0, -3.0)
    hot = np.random.default_rng(0).normal(0, 5.27, size=(12, 12))
    with h5py.File("states.h5", "w") as file:
        file["q"] = [hot, pattern]


def test_the_packaged_model_notices_states_that_it_does_not_know(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A quarter-filled pattern of +-3 lies inside of every range, and the force is wrong by 0.4 there."""
    write_far_states()
    common = ["run", "--preset", PRESET, "--lattice", "12x12", "--steps", "2", "--set", "initial.file=states.h5"]
    assert main([*common, "--output", "far"]) == 0
    said = capsys.readouterr().out
    assert "warning: the state of step 0 is unlike those that the network was trained on: 50 % of the sites" in said
    assert "trust: no limit is set, 2 looks, 2 at states unlike the training (first at step 0)" in said
    assert "no committee" in said
    with h5py.File("far/trajectory.h5") as file:
        assert file["outside_fraction"][...].tolist() == [0.0, 0.0]
        assert file["unfamiliar_fraction"][0] == 0.5
    assert main([*common, "--set", "initial.snapshot=0", "--output", "near"]) == 0
    said = capsys.readouterr().out
    assert "unlike" not in said
    assert main([*common, "--set", "trust.max_unfamiliar=0.1", "--set", "trust.action=stop", "--output", "stop"]) == 2
    assert "part of the sites in unfamiliar surroundings 0.5 is beyond 0.1 (trust.max_unfamiliar)" in capsys.readouterr().err


def test_validate_counts_the_states_that_a_network_does_not_know(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_far_states()
    assert main(["validate", "--input", "states.h5", "--force", "neural", "--reference", "exact", "--output", "judged"]) == 0
    assert "1 of 2 states are unlike those that the network was trained on: up to 50 % of the sites" in capsys.readouterr().out
    assert json.loads(Path("judged/validation.json").read_text())["training"]["unlike_training"] == 1


def test_a_run_elsewhere_than_the_training_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["run", "--preset", PRESET, "--lattice", "12x12", "--steps", "1"]
    changes = ["--set", "ensemble.filling=0.4", "--set", "hamiltonian.kappa=0.1"]
    assert main([*common, *changes, "--output", "other"]) == 0
    said = capsys.readouterr().out
    assert "trained elsewhere: kappa is 0.1 and was 0.18, filling is 0.4 and was 0.5 in training" in said
    assert "kappa is 0.1" in json.loads(Path("other/summary.json").read_text())["model.trained_elsewhere"]
    assert main([*common, "--lattice", "10x14", "--output", "same"]) == 0
    assert "trained elsewhere" not in capsys.readouterr().out
