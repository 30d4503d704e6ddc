"""Record of a training: its loss curve, the detection of a collapse, what is shown, and the file that continues it."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from tqdm import tqdm

from hpc_holstein.errors import DataError
from hpc_holstein.files import replaced
from hpc_holstein.inputs import reason_of
from hpc_holstein.storage.background import Pace

_LOG = logging.getLogger(__name__)
_LOG_LINES = 40  # lines of a whole training where there is no terminal
_FAR_ABOVE_BEST = 10.0
_ROUND_OFF = 1e-5  # of a loss in float32
_SECONDS = 2.0  # between two times that a curve is written, at least
# Names in the history, and the column heads of the CSV file; the loss is the force MSE unless a training minimises another one.
COLUMNS = {
    "epoch": "epoch",
    "step": "step",
    "elapsed_s": "elapsed [s]",
    "learning_rate": "learning rate",
    "training_mse": "training loss [(t_nn/a)^2]",
    "validation_mse": "validation loss [(t_nn/a)^2]",
    "best_mse": "best validation loss [(t_nn/a)^2]",
    "stage": "stage",
}
MAIN, LAST = 1, 2
"""Stages of a training: the force at the chemical potentials of the labels, then the electron number as well."""
_NOT_IN_KEY = frozenset({"epochs", "time_limit_s", "device", "threads"})  # may change when a training is continued


@dataclass
class Record:
    """State of a training; plain values only, so that it can be stored.

    stage        :data:`MAIN` or :data:`LAST`, 0 before the first one
    baseline     validation loss of a prediction that needs no training: what a collapsed network falls back to
    initial_mse  validation loss of the weights that the training started from
    best_mse     the smallest one of the stage, from ``best_epoch``; 0: of the initial weights
    learned      whether the stage before beat its baseline
    """

    baseline: float = float("nan")
    initial_mse: float = float("inf")
    stage: int = 0
    epoch: int = 0
    step: int = 0
    elapsed_s: float = 0.0
    rate_scale: float = 1.0
    restarts: int = 0
    above: int = 0
    best_mse: float = float("inf")
    best_epoch: int = 0
    learned: bool = False
    history: list[dict[str, float]] = field(default_factory=list)

    def begin(self, stage: int, baseline: float, initial_mse: float, best_mse: float, best_epoch: int) -> None:
        """Start a stage, whose validation loss is another one than before, with the weights that it has to beat."""
        self.learned = self.stage == MAIN and self.best_epoch > 0 and self.useful
        self.stage, self.baseline, self.initial_mse, self.above = stage, baseline, initial_mse, 0
        self.best_mse, self.best_epoch = best_mse, best_epoch

    def add(self, training_mse: float, validation_mse: float, learning_rate: float) -> bool:
        """Record one validation; returns whether it is the best so far."""
        improved = validation_mse < self.best_mse  # False for NaN
        if improved:
            self.best_mse, self.best_epoch = validation_mse, self.epoch
        reached = min(self._reached(), validation_mse)
        far_above = not validation_mse < min(max(self.baseline, 2 * reached), _FAR_ABOVE_BEST * reached)
        self.above = self.above + 1 if far_above else 0
        values = (self.epoch, self.step, self.elapsed_s, learning_rate, training_mse, validation_mse, self.best_mse, self.stage)
        self.history.append(dict(zip(COLUMNS, values, strict=True)))
        return improved

    def collapsed(self, patience: int) -> bool:
        """True if the last ``patience`` validations stayed above the baseline, or ten times the best, with no new best.

        The best is that of the epochs of the stage: weights that a training starts from may be far better than what it passes
        through.  The threshold is at least twice the best, so that a network that never beats the baseline is left to learn.
        """
        return self.above >= patience

    def _reached(self) -> float:
        """The smallest validation loss of an epoch of this stage."""
        own = [row["validation_mse"] for row in self.history if row["stage"] == self.stage]
        return min((mse for mse in own if not math.isnan(mse)), default=math.inf)

    def refusal(self, fine_tuned: bool) -> str | None:
        """Why the best weights are not worth keeping, None if they are.

        They must beat the prediction that needs no training in one of the stages, and be those of an epoch; a training that
        started from the weights of a model (``fine_tuned``) may keep these.
        """
        useful = self.learned or self.useful
        if useful and (fine_tuned or self.best_epoch > 0):
            return None
        than = f"{self.initial_mse:.3g} of the weights that it started from"
        if not useful:
            than = f"{self.baseline:.3g} of a prediction that needs no training"
        return f"the smallest validation loss of {self.epoch} epochs is {self._reached():.3g} (t_nn/a)^2, not below {than}"

    @property
    def useful(self) -> bool:
        """True if the best weights of the stage beat the prediction that needs no training, up to round-off."""
        return self.best_mse <= self.baseline * (1 + _ROUND_OFF)

    def restart(self) -> str:
        """Halve the learning rate of what follows; returns the warning that says so."""
        self.rate_scale *= 0.5
        self.restarts += 1
        self.above = 0
        last = self.history[-1]["validation_mse"]
        best = f"at epoch {self.best_epoch}" if self.best_epoch else "of the weights that it started from"
        return (
            f"the training collapsed: validation loss {last:.2e} at epoch {self.epoch}, against {self.best_mse:.2e} "
            f"{best} and {self.baseline:.2e} of the baseline; continuing from the best weights at "
            f"{self.rate_scale:g} times the learning rate"
        )

    def summary(self) -> dict[str, Any]:
        """Description of the training for a model card."""
        return {
            "best_epoch": self.best_epoch,
            "epochs": self.epoch,
            "steps": self.step,
            "restarts": self.restarts,
            "elapsed_s": self.elapsed_s,
        }


class Report:
    """Shows a training on rank 0: a bar of the spent budget on a terminal, else log lines; and keeps the CSV file."""

    def __init__(self, root: bool, curve_file: Path | None) -> None:
        self._root = root
        self._curve_file = curve_file if root else None
        self._bar = tqdm(total=100, unit="%", desc="train", disable=not (root and sys.stderr.isatty()), leave=True)
        self._lines = 0

    def __enter__(self) -> Report:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()

    def validated(self, record: Record, spent: float) -> None:
        """Show and write the last line of the history; ``spent`` is the fraction of the budget."""
        if not self._root:
            return
        last = record.history[-1]
        text = f"training loss {last['training_mse']:.2e}, validation {last['validation_mse']:.2e}, best {record.best_mse:.2e}"
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(round(100 * min(spent, 1.0), 2) - self._bar.n)
        if self._bar.disable and (spent >= 1 or spent * _LOG_LINES >= self._lines):
            self._lines = int(spent * _LOG_LINES) + 1
            _LOG.info("epoch %d (%.0f %%, %.0f s): %s", record.epoch, 100 * spent, record.elapsed_s, text)
        if self._curve_file:
            write_curve(self._curve_file, record.history)

    def warn(self, message: str) -> None:
        """Say something that the user must see."""
        if self._root:
            with tqdm.external_write_mode():
                _LOG.warning(message)


def write_curve(path: Path, history: list[dict[str, float]]) -> None:
    """The loss curve as CSV, one validation a row, columns with units; replaced as a whole."""
    with replaced(path, synced=False) as temporary, temporary.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS.values())
        rows.writerows([row[name] for name in COLUMNS] for row in history)


class TrainingFile:
    """The full state of a training, with a key of the data and options that it belongs to.

    It is written at each validation, and brought onto the disk now and then: a kill loses nothing, a power cut seconds.
    """

    def __init__(self, path: Path, job: Mapping[str, Any]) -> None:
        self._path, self._pace = path, Pace(_SECONDS)
        kept = {name: value for name, value in job.items() if name not in _NOT_IN_KEY}
        self._key = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

    def load(self) -> dict[str, Any] | None:
        """The state, or None where there is no file yet.

        Errors: :class:`DataError` for a file that is damaged or belongs to another training.
        """
        if not self._path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
            key = state.pop("key")
        except Exception as error:  # PyTorch and pickle raise many kinds, by the place of the damage
            reason = reason_of(error)
            raise DataError(f"{self._path} is no usable training state ({reason}): remove it to start afresh") from None
        if key != self._key:
            raise DataError(
                f"{self._path} belongs to a training with other data, model or options: remove it to start afresh, "
                "or name another state file"
            )
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state, whole or not at all."""
        start, due = time.monotonic(), self._pace.due()
        with replaced(self._path, synced=due) as temporary:
            torch.save({"key": self._key, **state}, temporary)
        if due:
            self._pace.taken(start)
