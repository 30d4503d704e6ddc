"""``[pipeline]``: a study from labels to analysed quenches, for ``hpc-holstein pipeline``."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_Count = Annotated[int, Field(ge=0)]
_AtLeastOne = Annotated[int, Field(ge=1)]
_Seed = Annotated[int, Field(ge=0, lt=2**63)]


class PipelineSection(BaseModel):
    """Labelled snapshots, a network trained on them, and quenches driven by it, all in ``folder``.

    Labels: ``random`` snapshots and ``per_quench`` along each of ``quenches`` quenches of ``quench_steps`` steps on a lattice
    of ``label_extent`` cells, driven by ``path_force`` and labelled by ``label_force``, in ``label_jobs`` jobs.
    The network: ``[model]`` and ``[training]``.  Quenches: the rest of the configuration, one for each of ``seeds``, with
    the forces of the network in place of ``[force]``.  ``*_resources``: options of ``hpc-holstein submit`` for each job of
    a stage, such as ``"--ntasks-per-node 4 --time 02:00:00"``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str = "study"
    label_extent: tuple[_AtLeastOne, ...] = (40, 40)
    label_force: str = "exact"
    path_force: str = "atomic"
    random: _Count = 200
    quenches: _Count = 40
    per_quench: _AtLeastOne = 10
    quench_steps: _AtLeastOne = 2000
    label_jobs: _AtLeastOne = 4
    seeds: tuple[_Seed, ...] = (1,)
    label_resources: str = ""
    train_resources: str = ""
    run_resources: str = ""
    analyze_resources: str = ""

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
