"""Training: the split, the windows, the schedule, resuming, ranks, and what happens when it collapses."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import torch
from small_fits import KT, G, Responsive, Stencil, curve, data, options, run

from hpc_holstein.domain.transport import run_in_process
from hpc_holstein.errors import ConfigError, DataError, StoppedError
from hpc_holstein.training._fields import FieldData, split
from hpc_holstein.training._record import Record
from hpc_holstein.training.dataset import Snapshots


def test_split_never_divides_a_quench():
    snapshots = data(quenches=10, random=20)
    sets = split(snapshots, 0.2, 0.1, seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate(list(sets.values()))), np.arange(len(snapshots)))
    ids = {name: set(snapshots.quench[index]) - {-1} for name, index in sets.items()}
    assert [len(ids[name]) for name in ("training", "validation", "test")] == [7, 2, 1]
    assert not ids["training"] & ids["validation"]
    assert not (ids["training"] | ids["validation"]) & ids["test"]
    assert [(snapshots.quench[sets[name]] == -1).sum() for name in sets] == [14, 4, 2]
    again, other = split(snapshots, 0.2, 0.1, seed=3), split(snapshots, 0.2, 0.1, seed=4)
    assert all(np.array_equal(sets[name], again[name]) for name in sets)
    assert not np.array_equal(sets["validation"], other["validation"])


@pytest.mark.parametrize(("quenches", "random"), [(1, 0), (1, 1), (0, 1)])
def test_split_without_validation_is_refused(quenches, random):
    with pytest.raises(DataError, match="label at least two quenches"):
        split(data(quenches=quenches, random=random), 0.1, 0.1, seed=0)


def test_split_trains_on_what_is_left_of_few_quenches():
    sets = split(data(quenches=2, random=0), 0.1, 0.4, seed=0)
    assert [len(sets[name]) for name in ("training", "validation", "test")] == [4, 4, 0]


@pytest.mark.parametrize(("reach", "cells"), [(2, (8, 8)), (2, (3, 3)), (11, (8, 8))])
def test_windows_wrap_periodically(reach, cells):
    snapshots = data(quenches=2, random=0)
    model = Stencil()
    model.reach = reach
    fields = FieldData(snapshots, model, G, torch.float64, torch.device("cpu"))
    inputs, targets = fields.batch(torch.tensor([5, 2]), torch.tensor([[6, 1], [0, 7]]), cells)
    shifted = snapshots.q + snapshots.chemical_potential[:, None, None] / G
    for row, (i, y0, x0) in enumerate(((5, 6, 1), (2, 0, 7))):
        for y in range(-reach, cells[0] + reach):
            for x in range(-reach, cells[1] + reach):
                assert inputs[row, y + reach, x + reach] == shifted[i, (y0 + y) % 8, (x0 + x) % 8]
                if 0 <= y < cells[0] and 0 <= x < cells[1]:
                    assert targets[row, y, x] == snapshots.density[i, (y0 + y) % 8, (x0 + x) % 8]


def test_baseline_is_the_atomic_limit_or_the_mean():
    snapshots, every = data(), torch.arange(20)
    shifted = snapshots.q + snapshots.chemical_potential[:, None, None] / G
    atomic = 1 / (1 + np.exp(-G * shifted / KT))
    fields = FieldData(snapshots, Stencil(), G, torch.float64, torch.device("cpu"))
    assert fields.baseline(KT, every) == pytest.approx(G**2 * np.mean((atomic - snapshots.density) ** 2))
    plain = FieldData(snapshots, Stencil("plain", "force"), G, torch.float64, torch.device("cpu"))
    assert plain.baseline(KT, every) == pytest.approx(np.var(snapshots.force))
    assert torch.equal(plain.inputs, torch.from_numpy(snapshots.q))


@pytest.mark.parametrize(("field", "predicts"), [("shifted", "density"), ("plain", "force"), ("shifted", "force")])
def test_training_lowers_the_error_and_reports_it_truly(field, predicts):
    snapshots = data()
    result = run(options(epochs=80, average=0.9), snapshots=snapshots, model=Stencil(field, predicts))
    mse = "mse_at_reference_mu" if (field, predicts) == ("shifted", "density") else "mse"
    assert result.metrics["validation"]["all"][mse] < 0.3 * result.history[0]["validation_mse"]
    assert result.metrics["validation"]["all"][mse] == pytest.approx(min(c[0] for c in curve(result, "validation_mse")))
    # The model of the result, on whole lattices, by a second route.
    index = result.sets["test"]
    x = snapshots.q + (snapshots.chemical_potential[:, None, None] / G if field == "shifted" else 0)
    ghosted = np.pad(x[index], ((0, 0), (2, 2), (2, 2)), mode="wrap").astype(np.float32)
    with torch.no_grad():
        output = result.model(torch.from_numpy(ghosted)).numpy()
    force = G * (output - 0.5) - snapshots.q[index] if predicts == "density" else output
    expected = np.mean((force - snapshots.force[index]) ** 2)
    assert result.metrics["test"]["all"][mse] == pytest.approx(expected, rel=1e-4)
    assert {"all", "random", "early", "late"} <= result.metrics["training"].keys()
    assert next(result.model.parameters()).dtype == torch.float32
    assert not result.model.training


@pytest.mark.parametrize("predicts", ["density", "force"])
def test_loss_is_the_force_error(predicts):
    result = run(options(epochs=1, learning_rate=1e-12, batch=3), model=Stencil(predicts=predicts))
    mse = "mse_at_reference_mu" if predicts == "density" else "mse"
    assert result.history[0]["training_mse"] == pytest.approx(result.metrics["training"]["all"][mse], rel=1e-4)


def test_rate_warms_up_then_falls_as_a_cosine():
    result = run(options(epochs=20, warmup=0.25, batch=100))
    rates = [c[0] for c in curve(result, "learning_rate")]
    for n, rate in enumerate(rates, 1):
        spent = (n - 0.5) / 20
        assert rate == pytest.approx(1e-2 * min(1, spent / 0.25) * 0.5 * (1 + math.cos(math.pi * spent)))


def test_same_seed_same_bits_other_seed_other_curve():
    first, second, other = run(), run(), run(options(seed=1))
    assert curve(first) == curve(second)
    assert curve(first) != curve(other)


@pytest.mark.parametrize(
    "changes", [{}, {"optimiser": "soap"}, {"average": 0.95, "crop": 5, "validate_every": 2, "weight_decay": 0.01}]
)
def test_resumed_training_is_bitwise_the_uninterrupted_one(tmp_path, changes, monkeypatch):
    whole = run(options(**changes))
    real, left = FieldData.batch, [14]

    def stopping(self, *arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(FieldData, "batch", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(options(**changes), state_file=tmp_path / "state.pt")
    monkeypatch.setattr(FieldData, "batch", real)
    resumed = run(options(**changes), state_file=tmp_path / "state.pt", model=Stencil(seed=5))
    assert curve(resumed) == curve(whole)
    for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)
    finished = run(options(**changes), state_file=tmp_path / "state.pt", model=Stencil(seed=6))
    assert curve(finished) == curve(whole)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_training_that_is_told_to_stop_keeps_the_step_and_goes_on_bitwise(tmp_path, steps):
    """Within an epoch, as at its end: no step is done twice or left out."""
    whole, looks = run(), [steps]

    def stop():
        looks[0] -= 1
        return "a test said so" if looks[0] <= 0 else None

    with pytest.raises(StoppedError, match="a test said so"):
        run(state_file=tmp_path / "state.pt", stop=stop)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["record"]["step"] == steps
    resumed = run(state_file=tmp_path / "state.pt", model=Stencil(seed=5))
    assert curve(resumed) == curve(whole)
    for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_ranks_of_a_training_stop_together_when_one_is_told(tmp_path):
    def body(transport):
        return run(transport=transport, state_file=tmp_path / "state.pt", stop=lambda: "rank 1" if transport.rank else None)

    with pytest.raises(StoppedError, match="rank 1"):
        run_in_process(2, body)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["record"]["step"] == 1


def test_state_file_of_another_training_or_damaged_is_refused(tmp_path):
    file = tmp_path / "state.pt"
    run(options(epochs=1), state_file=file)
    with pytest.raises(DataError, match="other data, model or options"):
        run(options(epochs=1, learning_rate=1e-3), state_file=file)
    with pytest.raises(DataError, match="other data, model or options"):
        run(options(epochs=1, electron_number=True), state_file=file, model=Responsive())
    with pytest.raises(DataError, match="other data, model or options"):
        run(options(epochs=1), state_file=file, snapshots=data(seed=1))
    run(options(epochs=2), state_file=file)  # a longer budget continues
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DataError, match="no usable training state"):
        run(options(epochs=2), state_file=file)


@pytest.mark.parametrize("changes", [{}, {"optimiser": "soap"}, {"crop": 6, "average": 0.9, "batch": 3}])
def test_two_ranks_train_as_one(changes):
    opts = options(dtype="float64", **changes)
    alone = run(opts)
    together = run_in_process(2, lambda t: run(opts, t, model=Stencil(seed=t.rank)))  # rank 0 gives the weights
    for result in together:
        np.testing.assert_allclose(curve(result), curve(alone), rtol=1e-9)
        np.testing.assert_allclose(result.metrics["test"]["all"]["mse"], alone.metrics["test"]["all"]["mse"], rtol=1e-9)
    for a, b in zip(*(r.model.parameters() for r in together), strict=True):
        assert torch.equal(a, b)


def test_more_ranks_than_snapshots_in_a_batch():
    opts = options(dtype="float64", batch=1, epochs=2)
    for result in run_in_process(3, lambda t: run(opts, t)):
        np.testing.assert_allclose(curve(result), curve(run(opts)), rtol=1e-9)


def test_a_rank_without_a_snapshot_evaluates_nothing():
    class Strict(Stencil):
        def forward(self, ghosted):
            if not len(ghosted):
                raise RuntimeError("nothing to evaluate")
            return super().forward(ghosted)

    few = data(quenches=0, random=4)  # one snapshot to validate on, for three ranks
    results = run_in_process(3, lambda t: run(options(epochs=1, test=0.0), t, snapshots=few, model=Strict()))
    assert [len(result.sets["validation"]) for result in results] == [1, 1, 1]


def test_time_limit_ends_the_training_and_the_schedule():
    result = run(options(epochs=0, time_limit_s=0.5))
    assert 0.4 < result.metrics["elapsed_s"] < 3
    assert result.history[-1]["learning_rate"] < 1e-3
    assert result.metrics["epochs"] > 2


def test_curve_file_has_columns_with_units(tmp_path):
    result = run(curve_file=tmp_path / "curve.csv")
    with (tmp_path / "curve.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0][0] == "epoch"
    assert "validation loss [(t_nn/a)^2]" in rows[0]
    assert len(rows) == 1 + 6
    assert float(rows[-1][5]) == result.history[-1]["validation_mse"]


class Collapsing(Stencil):
    """Gives nonsense from a certain call in training on, for as long as its learning rate would be the first one."""

    calls = 0

    def forward(self, ghosted):
        out = super().forward(ghosted)
        if self.training:
            self.calls += 1
            if 60 <= self.calls < 70:
                return out + 1e4 * self.layers[1].bias  # a gradient that throws the weights far off
        return out


def test_collapse_is_noticed_and_training_recovers(caplog):
    result = run(options(epochs=120, batch=100, clip=0, patience=5, learning_rate=0.05), model=Collapsing())
    assert result.metrics["restarts"] >= 1
    assert "the training collapsed" in caplog.text
    after = result.history[-1]
    assert after["validation_mse"] < result.metrics["baseline_mse"]
    assert after["learning_rate"] < 0.05


def test_nan_never_reaches_the_weights():
    class Poisoned(Stencil):
        calls = 0

        def forward(self, ghosted):
            self.calls += self.training
            return super().forward(ghosted) * (math.nan if self.training and self.calls == 4 else 1.0)

    for clip in (0.0, 1.0):
        result = run(options(clip=clip), model=Poisoned())
        assert all(torch.isfinite(p).all() for p in result.model.parameters())
        assert np.isfinite(curve(result, "validation_mse")).all()


def test_collapse_rule():
    record = Record(baseline=1.0)
    for mse in (5.0, 4.0, 3.0, 2.9, 2.95, 2.9, 2.9, 2.9, 2.9):
        record.add(0.0, mse, 0.0)
    assert not record.collapsed(3)  # never beat the baseline: it is learning, not collapsed
    for mse in (0.01, 0.2, 0.3):
        record.add(0.0, mse, 0.0)
    assert not record.collapsed(3)  # ten times the best, but twice only
    record.add(0.0, math.nan, 0.0)
    assert record.collapsed(3)
    assert "0.5 times" in record.restart()
    assert not record.collapsed(3)
    record = Record(baseline=1.0)
    for mse in (0.3, 1.1, 1.1, 1.1):
        record.add(0.0, mse, 0.0)
    assert record.collapsed(3)  # back at the baseline, though less than ten times the best


def test_architectures_that_scale_their_input_see_the_training_set_first():
    class Calibrated(Stencil):
        def calibrate(self, ghosted):
            self.seen = ghosted.shape

    result = run(options(epochs=1), model=Calibrated())
    assert result.model.seen == (len(result.sets["training"]), 12, 12)


def test_missing_labels_and_unknown_mu_are_refused():
    full = data()
    unlabelled = Snapshots.of(full.q, full.quench, full.step)
    with pytest.raises(DataError, match="chemical potential of 20 snapshots"):
        run(snapshots=unlabelled)
    with pytest.raises(DataError, match="no labels to train on"):
        run(snapshots=unlabelled, model=Stencil("plain", "force"))
    mu = full.chemical_potential.copy()
    mu[3] = np.nan
    some = Snapshots.of(full.q, full.quench, full.step, force=full.force, density=full.density, chemical_potential=mu)
    with pytest.raises(DataError, match="chemical potential of 1 snapshots"):
        run(snapshots=some)


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 0.0},
        {"batch": 0},
        {"epochs": 0},
        {"epochs": -1},
        {"validation": 0.6, "test": 0.5},
        {"average": 1.0},
        {"learning_rate": math.nan},
        {"dtype": "float16"},
        {"optimiser": "sgd"},
        {"crop": -2},
    ],
)
def test_impossible_options_are_refused(changes):
    with pytest.raises(ConfigError):
        options(**changes)


def test_window_larger_than_the_lattice_is_refused():
    with pytest.raises(ConfigError, match="crop = 9 exceeds the 8x8 cells"):
        run(options(crop=9))
