"""``[pipeline]``: a study from labels to analysed quenches, for ``hpc-holstein pipeline``."""

from __future__ import annotations

from typing import Annotated

from pydantic import field_validator, model_validator

from hpc_holstein.config.sections import AtLeastOne, Cells, Count, PathText, Section, Seed
from hpc_holstein.keys import key

MOST_JOBS = 10**5
"""Jobs of a stage: arrays of Slurm hold fewer."""
_RESOURCES = 'options of hpc-holstein submit for each job that {}, such as "--ntasks-per-node 4 --time 02:00:00"'


class PipelineSection(Section):
    """Labelled snapshots, a network trained on them, and quenches driven by it, all in one folder.

    The network: [model] and [training].  Quenches: the rest of the configuration, one for each seed, with the forces of the
    network in place of [force].
    """

    folder: Annotated[PathText, key("folder of everything", "dir", "directory", "output_dir")] = "study"
    label_extent: Annotated[tuple[Cells, ...], key("cells of the lattice of the labels", "label_size")] = (40, 40)
    label_force: Annotated[str, key("kind of force that labels", "labeller", "reference")] = "exact"
    path_force: Annotated[str, key("kind of force that drives the quenches that are labelled")] = "atomic"
    random: Annotated[Count, key("random snapshots that are labelled")] = 200
    quenches: Annotated[Count, key("quenches along which snapshots are labelled")] = 40
    per_quench: Annotated[AtLeastOne, key("snapshots of each of these quenches")] = 10
    quench_steps: Annotated[AtLeastOne, key("time steps of each of these quenches")] = 2000
    label_jobs: Annotated[AtLeastOne, key("jobs that label", "jobs", le=MOST_JOBS)] = 4
    seeds: Annotated[
        tuple[Seed, ...], key("of the quenches that the network drives, one for each", "seed", max_length=MOST_JOBS)
    ] = (1,)
    label_resources: Annotated[str, key(_RESOURCES.format("labels"))] = ""
    train_resources: Annotated[str, key(_RESOURCES.format("trains"))] = ""
    run_resources: Annotated[str, key(_RESOURCES.format("runs"))] = ""
    analyze_resources: Annotated[str, key(_RESOURCES.format("analyzes"))] = ""

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"{list(seeds)} are not distinct seeds: give one for each quench")
        return seeds

    @model_validator(mode="after")
    def _enough_to_share(self) -> PipelineSection:
        if self.random + self.quenches < self.label_jobs:
            raise ValueError(
                f"{self.random} random snapshots and {self.quenches} quenches are too few for label_jobs = {self.label_jobs}: "
                "give fewer jobs"
            )
        return self
