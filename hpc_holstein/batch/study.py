"""A study in its folder: what each stage of it makes, and what of that is there."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpc_holstein.config import Config
from hpc_holstein.config.sections import require_seeds
from hpc_holstein.errors import ConfigError
from hpc_holstein.files import replace_text
from hpc_holstein.output.summary import finished

STAGES = ("label", "train", "run", "analyze")
"""In the order of their dependence; the items of each need those of the stage before it."""

_PART = "part-"
_FREE_SECTIONS = ("output", "parallel", "health")
_FREE_KEYS = ("preset", "dynamics.steps", "pipeline.seeds", *(f"pipeline.{stage}_resources" for stage in STAGES))


class Study:
    """The files of a study; ``config`` says what is wanted of it.

    folder           root of the study
    settings         configuration that its jobs read: later changes of the file of the user do not reach jobs that wait
    submitted        record of what was submitted
    all_labels       folder of the snapshots of the labelling jobs
    model, network   folder of the network, and its file
    logs             folder of the output of the jobs
    """

    def __init__(self, config: Config) -> None:
        require_seeds("dynamics.seed", config.dynamics.seed, config.pipeline.label_jobs, "pipeline.label_jobs")
        self.config = config
        self.folder = folder = Path(config.pipeline.folder)
        self.settings, self.submitted, self.logs = folder / "config.toml", folder / "jobs.json", folder / "logs"
        self.all_labels, self.model = folder / "labels", folder / "model"
        self.network = self.model / "model.safetensors"

    def labels(self, item: str) -> Path:
        """Snapshots of one labelling job."""
        return self.all_labels / f"{item}.h5"

    def run(self, item: str) -> Path:
        """Folder of a quench."""
        return self.folder / item

    def script(self, stage: str) -> Path:
        """Batch script of a stage."""
        return self.folder / "jobs" / f"{stage}.sbatch"

    def log(self, stage: str, job: str) -> Path:
        """Output of a job, as Slurm writes its number."""
        return self.logs / f"{stage}-{job}.out"

    def items(self, stage: str) -> list[str]:
        """Items that a stage makes: one item a task of its job array, but for analyses, which one job makes."""
        wanted = self.config.pipeline
        if stage == "label":
            return [f"{_PART}{number:03d}" for number in range(wanted.label_jobs)]
        return ["model"] if stage == "train" else [f"run-{seed}" for seed in wanted.seeds]

    def tasks(self, stage: str, items: Sequence[str]) -> dict[str, int | None]:
        """Number of each item in the job array of its stage, or None where one job makes all."""
        numbers = {item: number for number, item in enumerate(self.items(stage))}
        return {item: numbers[item] if stage in ("label", "run") else None for item in items}

    def done(self, stage: str, item: str) -> bool:
        """True if an item is there, whole."""
        if stage == "label":
            return self.labels(item).exists() or self.done("train", "model")
        if stage == "train":
            return self.network.exists() and (self.model / "metrics.json").exists()
        if stage == "run":
            return finished(self.run(item), self.config.dynamics.steps, int(item.removeprefix("run-")))
        return (self.run(item) / "analysis" / "analysis.json").exists() and self.done("run", item)

    def share(self, item: str) -> list[str]:
        """Options of ``hpc-holstein label`` for one part; the seeds differ, so no two parts draw the same."""
        wanted, part = self.config.pipeline, int(item.removeprefix(_PART))
        random = share(wanted.random, wanted.label_jobs, part)
        quenches = share(wanted.quenches, wanted.label_jobs, wanted.label_jobs - 1 - part)  # larger shares to the other parts
        options: dict[str, Any] = {"--random": random} if random else {}
        if quenches:
            options |= {"--quenches": quenches, "--per-quench": wanted.per_quench, "--quench-steps": wanted.quench_steps}
            options |= {"--path-force": wanted.path_force}
        options["--seed"] = self.config.dynamics.seed + part
        return [str(word) for pair in options.items() for word in pair]

    def claim(self) -> None:
        """Store the configuration; ConfigError where the folder holds a study of another one."""
        store_settings(self.settings, self.config.toml(), deciding_keys, "is a study", "pipeline.folder")


def deciding_keys(text: str) -> dict[str, Any]:
    """Full key -> value of all that decides what a study makes, of a configuration as TOML."""
    flat: dict[str, Any] = {}
    for name, value in tomllib.loads(text).items():
        if name not in _FREE_SECTIONS:
            flat |= {f"{name}.{key}": entry for key, entry in value.items()} if isinstance(value, dict) else {name: value}
    return {key: value for key, value in flat.items() if key not in _FREE_KEYS}


def store_settings(
    settings: Path, text: str, deciding: Callable[[str], Mapping[str, Any]], what_it_does: str, other: str
) -> None:
    """Write the configuration ``text``; ConfigError where the file that is there differs in one of the keys of ``deciding``.

    ``what_it_does``: the folder of the file, in words; ``other``: what to choose instead of it.
    """
    if settings.exists():
        there, here = (deciding(toml) for toml in (settings.read_text(encoding="utf-8"), text))
        for key in {**there, **here}:
            if there.get(key) != here.get(key):
                raise ConfigError(
                    f"{settings.parent} {what_it_does} with {key} = {there.get(key)} and here it is {here.get(key)}: choose "
                    f"another {other}, or go back to that value"
                )
    replace_text(settings, text)


def share(total: int, parts: int, part: int) -> int:
    """Number of ``total`` pieces that ``part`` gets; the first ones get one more where it does not divide."""
    return total // parts + (part < total % parts)
