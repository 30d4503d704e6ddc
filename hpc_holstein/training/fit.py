"""Fit a network to labelled snapshots: minimise the mean squared error of the force.

    loss = g^2 <(n_model - n)^2>   (models of the density),     loss = <(F_model - F)^2>   (models of the force)

both at the chemical potentials of the labels.  A network that drives a canonical run finds its own, so the last part of a
training, ``electron_number`` of its budget, also minimises what a wrong electron number costs there
(:meth:`training._fields.FieldData.canonical_loss`), and its weights are chosen by the error at the chemical potential that they
find (:mod:`hpc_holstein.training.own_potential`).

The weights that a training starts from are the first candidate for the best ones.  The learning rate warms up and then
follows a half cosine of the fraction of the budget that is spent; the budget is ``epochs``, and with ``time_limit_s`` the
larger of both fractions counts, so that the rate always ends at zero (such a run depends on the speed of the machine, all
others repeat bitwise on one rank).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hpc_holstein.domain.transport import Transport, agreed
from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import Ensemble, Hamiltonian
from hpc_holstein.network.supported import require_window, sight
from hpc_holstein.training._fields import FieldData
from hpc_holstein.training._judged import Judged, LabelledSystem, Rows, together
from hpc_holstein.training._record import LAST, MAIN, Record, Report, TrainingFile
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.fit_options import FitOptions
from hpc_holstein.training.own_potential import electron_number_part
from hpc_holstein.training.paths import Stop, require_going
from hpc_holstein.training.regimes import Masks

_ENDLESS_EPOCHS = 10**9
_START = (0, 0.0, 0)  # of an epoch: the place in its order, the sum of the errors so far and how many


@dataclass(frozen=True)
class FitResult:
    """The model with its best weights, what it achieves on each set, the loss curve, and the sets (snapshot numbers).

    ``refused``: why the weights are not worth keeping (:meth:`training._record.Record.refusal`), None if they are;
    ``further``, ``further_sets``: metrics and sets of the further systems.
    """

    model: nn.Module
    metrics: dict[str, Any]
    history: list[dict[str, float]]
    sets: dict[str, NDArray[np.int64]]
    refused: str | None = None
    further: list[dict[str, Rows]] = field(default_factory=list)
    further_sets: list[dict[str, NDArray[np.int64]]] = field(default_factory=list)


def fit(
    model: nn.Module,
    snapshots: Snapshots,
    hamiltonian: Hamiltonian,
    ensemble: Ensemble,
    options: FitOptions,
    transport: Transport,
    state_file: Path | None = None,
    curve_file: Path | None = None,
    start: str = "",
    stop: Stop | None = None,
    masks: Masks | None = None,
    further: Sequence[LabelledSystem] = (),
) -> FitResult:
    """Train ``model`` (changed in place), alone or data-parallel over the ranks of ``transport``.

    Each rank takes its share of every batch, and gradients are summed.  ``state_file`` continues a training that was
    interrupted, at the last validation; ``curve_file`` receives the loss curve as CSV; ``start`` names the weights that
    ``model`` has, so that a training is never continued from others; ``masks [snapshot]``: parts of the snapshots that are
    judged apart, such as :meth:`regimes.Regimes.masks`; ``further``: systems beside this one, of a network that reads the
    matrix elements of ``H``, each snapshot of which counts the same.  ``stop`` ends it after a step, on all ranks, with the
    state written and StoppedError.
    Errors: :class:`DataError` where the snapshots have no labels or allow no validation set, or where ``state_file``
    belongs to another training; :class:`ConfigError` for windows larger than the lattice, :class:`ModelError` for a lattice
    smaller than what the model sees.
    """
    main = LabelledSystem(snapshots, hamiltonian, ensemble, masks or {"all": np.ones(len(snapshots), dtype=bool)})
    for one in (main, *further):
        require_window(sight(model), one.snapshots.extent)
    if options.crop and further:
        raise ConfigError(f"crop = {options.crop} has no meaning for states of several systems: set it to 0")
    if options.crop > min(snapshots.extent):
        cells = "x".join(map(str, snapshots.extent))
        raise ConfigError(f"crop = {options.crop} exceeds the {cells} cells of the snapshots: use 0 or a smaller one")
    options = replace(options, electron_number=electron_number_part(options, model, ensemble)[0])
    torch.set_num_threads(options.threads)
    training = _Training(model, [main, *further], options, transport, start)
    training.stop = stop
    training.run(state_file, curve_file)
    return training.result()


class _Training:
    """A training under way: everything that a state file must restore, and the steps that change it."""

    def __init__(
        self,
        model: nn.Module,
        systems: Sequence[LabelledSystem],
        options: FitOptions,
        transport: Transport,
        start: str = "",
    ) -> None:
        self.options, self.transport, self.fine_tuned = options, transport, bool(start)
        dtype, device = getattr(torch, options.dtype), torch.device(options.device)
        self.judged = [Judged(system, model, options, transport) for system in systems]
        self.main = self.judged[0]
        ends = np.cumsum([0, *(one.rows for one in self.judged)])  # of a numbering of the rows of all systems
        self.starts = ends[:-1]
        self.training_rows = np.concatenate([one.training_rows + e for one, e in zip(self.judged, ends, strict=False)])
        self.model = model.to(device=device, dtype=dtype)
        calibrate = getattr(model, "calibrate", None)  # of architectures that scale their input by the data
        if calibrate is not None and isinstance(self.main.data, FieldData):
            calibrate(self.main.data.whole(self.main.index("training"))[0])
        self.model.load_state_dict(transport.bcast(self.model.state_dict()))
        self.averaged = copy.deepcopy(self.model) if options.average else self.model
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = self._new_optimiser()
        self.initial_weights = self.best_weights = copy.deepcopy(self.averaged.state_dict())
        self.record = Record()
        hashes = [system.snapshots.data_hash for system in systems]
        self.key = {"data": hashes[0], "shapes": [list(p.shape) for p in self.parameters], **asdict(options)}
        self.key |= {"further": hashes[1:]} if hashes[1:] else {}
        self.key |= {"start": start} if start else {}
        self.started = time.monotonic()
        self.stop: Stop | None = None
        self.told = False  # some rank to stop
        self.within = _START

    def run(self, state_file: Path | None, curve_file: Path | None) -> None:
        """Train until the budget is spent, validating and saving as the options say."""
        file = TrainingFile(state_file, self.key) if state_file else None
        with agreed(self.transport):
            self._restore(file.load() if file else None)
        self.started = time.monotonic() - self.record.elapsed_s
        with Report(self.transport.rank == 0, curve_file) as report:
            while self._spent() < 1 and self.record.epoch < self._epochs:
                stage = LAST if self._spent() >= 1 - self._last_part else MAIN
                if stage != self.record.stage and self.within == _START:  # never within an epoch that was interrupted
                    self._begin(stage)
                training_mse = self._train_epoch()
                if training_mse is None:
                    if file and self.transport.rank == 0:
                        file.save(self._state())
                    require_going(self.transport, self.stop)
                    continue
                done = self._spent() >= 1 or self.record.epoch == self._epochs
                if done or self.record.epoch % self.options.validate_every == 0:
                    self._validate(training_mse, report)
                    if file and self.transport.rank == 0:
                        file.save(self._state())

    def _begin(self, stage: int) -> None:
        """Start a stage with the best weights so far; a training of a model may always go back to those of that model."""
        own = self._is_own(stage)
        baseline = together([one.baseline(own) for one in self.judged])
        initial = self._loss_of(self.initial_weights, own)
        best, epoch = (
            (self._loss_of(self.best_weights, own), self.record.best_epoch) if self.record.best_epoch else (initial, 0)
        )
        if self.fine_tuned and initial <= best:
            self.best_weights, best, epoch = self.initial_weights, initial, 0
        self.record.begin(stage, baseline, initial, best, epoch)

    def _loss_of(self, weights: Mapping[str, Tensor], own: bool) -> float:
        """Validation loss of other weights than those of the training; infinite if it is not a number."""
        kept = copy.deepcopy(self.averaged.state_dict())
        self.averaged.load_state_dict(weights)
        loss = self._validation_loss(own)
        self.averaged.load_state_dict(kept)
        return math.inf if math.isnan(loss) else loss

    @property
    def _last_part(self) -> float:
        return float(self.options.electron_number)  # a number: see fit

    @property
    def _epochs(self) -> int:
        return self.options.epochs or _ENDLESS_EPOCHS

    @property
    def _steps_per_epoch(self) -> int:
        return -(-len(self.training_rows) // self.options.batch)

    def _spent(self) -> float:
        """Fraction of the budget that is spent; seconds are those of rank 0, which every rank has from the last step."""
        of_steps = self.record.step / (self._epochs * self._steps_per_epoch)
        limit = self.options.time_limit_s
        return max(of_steps, self.record.elapsed_s / limit) if limit else of_steps

    def _rate(self) -> float:
        """Learning rate of the coming step, from the middle of it: neither the first nor the last step is void."""
        spent = self._spent() + 0.5 / (self._epochs * self._steps_per_epoch)
        rising = min(1.0, spent / self.options.warmup) if self.options.warmup else 1.0
        return self.options.learning_rate * self.record.rate_scale * rising * 0.5 * (1 + math.cos(math.pi * min(spent, 1.0)))

    def _train_epoch(self) -> float | None:
        """One pass through the training set, or the rest of it; returns its mean squared force error on the way.

        The order and the windows are functions of (seed, epoch), so that only the place in it need be restored.  None where
        the ranks were told to stop.
        """
        self.model.train()
        generator = np.random.default_rng((self.options.seed, self.record.epoch))
        order = generator.permutation(self.training_rows)
        extent, crop = self.main.data.extent, self.options.crop
        shape = len(order), len(extent)
        origins = generator.integers(0, extent, size=shape) if crop else np.zeros(shape, int)
        cells = (crop,) * len(extent) if crop else None
        start, total, count = self.within
        for first in range(start, len(order), self.options.batch):
            chosen = slice(first, min(first + self.options.batch, len(order)))
            total += self._step(order[chosen], origins[chosen], cells) * (chosen.stop - first)
            count += chosen.stop - first
            if self._spent() >= 1:
                break
            if self.told:
                self.within = first + self.options.batch, total, count
                return None
        self.within = _START
        self.record.epoch += 1
        return total / count

    def _step(self, chosen: NDArray[np.int64], origins: NDArray[np.int64], cells: tuple[int, ...] | None) -> float:
        """One step of the optimiser; returns the loss of the batch, over all ranks."""
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()
        self.optimiser.zero_grad(set_to_none=True)
        share = slice(self.transport.rank, None, self.transport.size)
        inputs = self.main.data.inputs
        loss = torch.zeros((), dtype=inputs.dtype, device=inputs.device)
        if len(chosen[share]):
            loss = self._loss(chosen[share], origins[share], cells) / len(chosen)
            loss.backward()
        value = self._sum_over_ranks(loss.detach())
        if self.options.clip:
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.options.clip)
            usable = bool(torch.isfinite(norm))
        else:
            usable = math.isfinite(value)
        if usable:  # a step along NaN would spoil the optimiser for good; the validation notices what led there
            self.optimiser.step()
            self._average()
        self.record.step += 1
        return value

    def _loss(self, chosen: NDArray[np.int64], origins: NDArray[np.int64], cells: tuple[int, ...] | None) -> Tensor:
        """Loss of rows of any of the systems, summed over these."""
        of = np.searchsorted(self.starts, chosen, side="right") - 1
        losses = []
        for number in np.unique(of):
            data, mine = self.judged[number].data, of == number
            rows = torch.from_numpy(chosen[mine] - self.starts[number])
            if self.record.stage == LAST:
                losses.append(data.canonical_loss(self.model, rows))
            else:
                losses.append(data.loss(self.model, rows, torch.from_numpy(origins[mine]), cells or data.extent))
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _is_own(self, stage: int) -> bool:
        """True if networks are judged at the chemical potential that they find."""
        return stage == LAST and all(one.own is not None for one in self.judged)

    def _sum_over_ranks(self, loss: Tensor) -> float:
        """Sum gradients and loss over the ranks, in one message that carries the clock of rank 0 and who is told to stop."""
        elapsed, told = time.monotonic() - self.started, self.stop is not None and self.stop() is not None
        if self.transport.size == 1:
            self.record.elapsed_s, self.told = elapsed, told
            return float(loss)
        clock = loss.new_tensor([elapsed if self.transport.rank == 0 else 0.0, float(told)])
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        summed = self.transport.allsum(torch.cat([*(g.reshape(-1) for g in gradients), loss.reshape(1), clock]))
        pieces = torch.split(summed, [p.numel() for p in self.parameters] + [1, 1, 1])
        for parameter, piece in zip(self.parameters, pieces, strict=False):
            parameter.grad = piece.reshape(parameter.shape)
        self.record.elapsed_s, self.told = float(pieces[-2]), bool(pieces[-1])
        return float(pieces[-3])

    def _average(self) -> None:
        """Running average of the weights, of shorter memory at first."""
        if self.options.average:
            decay = min(self.options.average, (1 + self.record.step) / (10 + self.record.step))
            with torch.no_grad():
                for mean, weights in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
                    mean.lerp_(weights, 1 - decay)

    def _validation_loss(self, own: bool) -> float:
        """Force MSE of the validation sets at the ``mu`` of the labels, or at the ``own`` one of the network."""
        return together([one.loss(self.averaged, own) for one in self.judged])

    def _validate(self, training_mse: float, report: Report) -> None:
        """Measure, keep the best weights, and start again from them where the training has collapsed."""
        mse = self._validation_loss(self._is_own(self.record.stage))
        rate = self.optimiser.param_groups[0]["lr"]
        improved = self.record.add(training_mse, mse, rate)
        if improved:
            self.best_weights = copy.deepcopy(self.averaged.state_dict())
        report.validated(self.record, self._spent())
        if self.record.collapsed(self.options.patience):
            report.warn(self.record.restart())
            self.model.load_state_dict(self.best_weights)
            self.averaged.load_state_dict(self.best_weights)
            self.optimiser = self._new_optimiser()

    def _new_optimiser(self) -> torch.optim.Optimizer:
        rate, decay = self.options.learning_rate, self.options.weight_decay
        if self.options.optimiser == "adamw":
            return torch.optim.AdamW(self.parameters, lr=rate, weight_decay=decay, fused=True)
        from pytorch_optimizer import SOAP  # a second, which other trainings need not wait for

        return SOAP(self.parameters, lr=rate, weight_decay=decay)

    def _state(self) -> dict[str, Any]:
        """All that :meth:`_restore` needs, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "best_weights": self.best_weights,
            "initial_weights": self.initial_weights,
            "optimiser": self.optimiser.state_dict(),
            "record": asdict(self.record),
            "within": list(self.within),
        }

    def _restore(self, state: Mapping[str, Any] | None) -> None:
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.best_weights, self.initial_weights = state["best_weights"], state["initial_weights"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.record = Record(**state["record"])
        first, total, count = state.get("within", _START)  # files of earlier versions: at the end of an epoch
        self.within = first, total, count

    def result(self) -> FitResult:
        """The best weights in the model, and their metrics on each set, apart for the masks."""
        self.model.load_state_dict(self.best_weights)
        self.averaged = self.model
        metrics: dict[str, Any] = dict(self.main.metrics(self.model))
        own = self.main.own is not None
        metrics["baseline_mse"] = self.main.baseline(own)
        if own:
            metrics["baseline_mse_at_reference_mu"] = self.main.baseline(False)
        further = [one.metrics(self.model) for one in self.judged[1:]]
        self.model.eval()
        refused = self.record.refusal(self.fine_tuned)
        metrics |= self.record.summary()
        sets, *more = (one.sets for one in self.judged)
        return FitResult(self.model, metrics, self.record.history, sets, refused, further, more)
