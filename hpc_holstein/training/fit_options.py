"""Options of a training, apart from what trains it, so that a configuration is checked without it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated, Literal

from hpc_holstein.errors import ConfigError, shortened
from hpc_holstein.keys import key


@dataclass(frozen=True)
class FitOptions:
    """Options of a training."""

    epochs: Annotated[
        int,
        key(
            "passes through the training set, further chemical potentials included; 0: until time_limit_s",
            "n_epochs",
            "num_epochs",
            "max_epochs",
            "iterations",
        ),
    ] = 200
    optimiser: Annotated[
        Literal["adamw", "soap"],
        key(
            "adamw, or soap, which is Adam in the eigenbases of the gradients' covariance: a third of the epochs for the same "
            "error, at a lower learning rate such as 3e-3",
            "optimizer",
            "algorithm",
        ),
    ] = "adamw"
    learning_rate: Annotated[float, key("of the optimiser, at its maximum", "lr", "rate")] = 4e-3
    warmup: Annotated[float, key("fraction of the budget over which the rate rises linearly", "warmup_fraction")] = 0.03
    batch: Annotated[int, key("snapshots (or windows) in a step, over all ranks", "batch_size", "minibatch")] = 4
    crop: Annotated[int, key("cells along each side of random periodic windows; 0: whole snapshots", "window")] = 0
    weight_decay: Annotated[float, key("of the optimiser, decoupled from the gradient", "l2", "regularization")] = 0.0
    clip: Annotated[float, key("largest norm of the gradient; 0: no limit", "grad_clip", "gradient_clipping", "max_norm")] = 1.0
    electron_number: Annotated[
        Literal["auto"] | bool | float,
        key(
            "last part of the budget, a fraction (true: 1, false: 0), in which the cost of a wrong electron number is trained "
            "as well, which shifts the chemical potential of a canonical run, for models that know their response, on whole "
            "snapshots; auto: 0.3 if that is possible, else 0"
        ),
    ] = "auto"
    average: Annotated[
        float,
        key("decay per step of the running average of the weights that is validated and kept; 0: no average", "ema"),
    ] = 0.0
    validation: Annotated[
        float, key("fraction of the quenches (and of the random snapshots) that is held out to choose the weights", "val")
    ] = 0.1
    test: Annotated[
        float, key("fraction of the quenches (and of the random snapshots) that is held out to judge the model", "holdout")
    ] = 0.1
    validate_every: Annotated[int, key("epochs between two validations", "validation_interval", "eval_every")] = 1
    patience: Annotated[
        int, key("validations above the baseline after which a training counts as collapsed", "early_stopping")
    ] = 10
    seed: Annotated[
        int, key("of the weights, the split, the order of the batches and the windows", "random_seed", "rng_seed", "rng")
    ] = 0
    time_limit_s: Annotated[
        float, key("seconds of training after which it ends; 0: no limit", "time_limit", "max_time", "walltime")
    ] = 0.0
    dtype: Annotated[str, key("of weights and fields: float32 or float64", "precision")] = "float32"
    device: Annotated[str, key("where: cpu, cuda or cuda:N")] = "cpu"
    threads: Annotated[int, key("of the CPU")] = 1

    def __post_init__(self) -> None:
        least = {"learning_rate": 1e-12, "batch": 1, "validate_every": 1, "patience": 1, "threads": 1}
        for name in (f.name for f in fields(self) if f.name not in ("dtype", "device", "electron_number", "optimiser")):
            value = getattr(self, name)
            if not least.get(name, 0) <= value < math.inf:
                raise ConfigError(f"{name} = {value} cannot train a network: give a number from {least.get(name, 0):g} on")
        for name in ("warmup", "average", "validation", "test"):
            if getattr(self, name) >= 1:
                raise ConfigError(f"{name} = {getattr(self, name)} is not a fraction: give a number in [0, 1)")
        if self.electron_number != "auto" and not 0 <= self.electron_number <= 1:
            raise ConfigError(
                f'electron_number = {self.electron_number} is no part of a training: give a fraction from 0 to 1, or "auto"'
            )
        if self.validation + self.test >= 1:
            raise ConfigError(f"validation + test = {self.validation + self.test} leaves nothing to train on: keep it below 1")
        if self.epochs == 0 and self.time_limit_s == 0:
            raise ConfigError("epochs = 0 and time_limit_s = 0 would train forever: limit at least one of them")
        if self.optimiser not in ("adamw", "soap"):
            raise ConfigError(f'optimiser = "{shortened(self.optimiser)}" cannot train a network: use "adamw" or "soap"')
        if self.dtype not in ("float32", "float64"):
            raise ConfigError(f'dtype = "{shortened(self.dtype)}" cannot train a network: use "float32" or "float64"')
