"""``[pipeline]`` and ``[learn]``: several commands on one configuration, in one folder."""

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


class LearnSection(Section):
    """Rounds of exploring, labelling and training, all in one folder.

    A round makes runs of [dynamics] on the lattice of the data, driven by force.model or the network of the round before and
    judged by its committee, with the seeds dynamics.seed + 0, 1, 2, ... over all rounds.  States beyond a limit of [trust] are
    collected, labelled and added to the data, on which [training] trains the network and the members of its committee, with the
    seeds training.seed + 0, 1, 2, ...  Without force.committee the members of the first round are trained on the data.
    """

    folder: Annotated[PathText, key("folder of everything", "dir", "directory", "output_dir")] = "learn"
    data: Annotated[PathText | None, key("labelled snapshots to start from", "dataset", "file")] = None
    rounds: Annotated[AtLeastOne, key("rounds at most", "iterations", "cycles")] = 3
    runs: Annotated[AtLeastOne, key("runs of a round")] = 2
    members: Annotated[AtLeastOne, key("networks of the committee", "committee", "ensemble_size")] = 2
    labeller: Annotated[str, key("kind of force that labels", "reference", "oracle")] = "auto"
