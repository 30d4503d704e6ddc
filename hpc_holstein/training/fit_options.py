"""How a network is trained, apart from what trains it, so that a configuration is checked without it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from hpc_holstein.errors import ConfigError


@dataclass(frozen=True)
class FitOptions:
    """How to train.

    epochs              passes through the training set, further chemical potentials included; 0 = until ``time_limit_s``
    learning_rate       of AdamW, at its maximum
    warmup              fraction of the budget over which the rate rises linearly
    batch               snapshots (or windows) in a step, over all ranks
    crop                cells along each side of random periodic windows; 0 = whole snapshots
    weight_decay        of AdamW
    clip                largest norm of the gradient; 0 = no limit
    electron_number     add what a wrong electron number costs in the canonical ensemble, where it shifts mu: a last stage of a
                        training, for models that know their response, on whole snapshots; validated likewise
    average             decay per step of the running average of the weights that is validated and kept; 0 = no average
    validation, test    fractions of the quenches (and of the random snapshots) that are held out
    validate_every      epochs between two validations
    patience            validations above the baseline after which a training counts as collapsed
    seed                of the split, the order of the batches and the windows
    time_limit_s        seconds of training after which it ends; 0 = no limit
    dtype               of weights and fields, "float32" or "float64"
    device, threads     where; ``threads`` of the CPU
    """

    epochs: int = 200
    learning_rate: float = 4e-3
    warmup: float = 0.03
    batch: int = 4
    crop: int = 0
    weight_decay: float = 0.0
    clip: float = 1.0
    electron_number: bool = False
    average: float = 0.0
    validation: float = 0.1
    test: float = 0.1
    validate_every: int = 1
    patience: int = 10
    seed: int = 0
    time_limit_s: float = 0.0
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        least = {"learning_rate": 1e-12, "batch": 1, "validate_every": 1, "patience": 1, "threads": 1}
        for name in (f.name for f in fields(self) if f.name not in ("dtype", "device")):
            value = getattr(self, name)
            if not least.get(name, 0) <= value < math.inf:
                raise ConfigError(f"{name} = {value} cannot train a network: give a number from {least.get(name, 0):g} on")
        for name in ("warmup", "average", "validation", "test"):
            if getattr(self, name) >= 1:
                raise ConfigError(f"{name} = {getattr(self, name)} is not a fraction: give a number in [0, 1)")
        if self.validation + self.test >= 1:
            raise ConfigError(f"validation + test = {self.validation + self.test} leaves nothing to train on: keep it below 1")
        if self.epochs == 0 and self.time_limit_s == 0:
            raise ConfigError("epochs = 0 and time_limit_s = 0 would train forever: limit at least one of them")
        if self.dtype not in ("float32", "float64"):
            raise ConfigError(f'dtype = "{self.dtype}" cannot train a network: use "float32" or "float64"')
