"""The configuration as one pydantic model: a field for each section, unknown keys forbidden."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import tomli_w

from hpc_holstein.config.folders import WITH_OPTIONS
from hpc_holstein.config.kinds import Chosen, KindSection, OptionsSection, available, modelled, new_section
from hpc_holstein.config.sections import (
    Cells,
    DynamicsSection,
    EnsembleSection,
    HealthSection,
    InitialSection,
    OutputSection,
    ParallelSection,
    Section,
    TrustSection,
)
from hpc_holstein.config.studies import LearnSection, PipelineSection
from hpc_holstein.keys import key
from hpc_holstein.training.fit_options import FitOptions

if TYPE_CHECKING:
    LatticeKind: TypeAlias = str
    TrainingSection: TypeAlias = OptionsSection
else:
    LatticeKind = Literal[tuple(available("lattice"))]
    # device and threads are those of [parallel]
    TrainingSection = modelled("training", FitOptions, OptionsSection, without=("device", "threads"))


class LatticeSection(Section):
    """Geometry of the lattice."""

    kind: Annotated[LatticeKind, key("lattice", "lattice", "geometry", "type")] = "square"
    extent: Annotated[
        tuple[Cells, ...],
        key(
            "cells along each axis, x last: rows, columns of a plane",
            "size",
            "L",
            "shape",
            "lattice_size",
            "dimensions",
        ),
    ]
    periodic: Annotated[
        tuple[bool, ...],
        key(
            "if an axis closes onto itself, for each axis; absent: all do",
            "pbc",
            "boundary",
            "boundary_conditions",
            "periodic_boundaries",
            default_factory=lambda given: (True,) * len(given["extent"]),
        ),
    ]


class Config(Section):
    """Everything that a run depends on; :func:`hpc_holstein.config.load_config` makes it from a preset, a file and options."""

    preset: Annotated[str | None, key("published setting that the other keys change")] = None
    lattice: Annotated[LatticeSection, key("geometry of the lattice", "geometry", "system")]
    hamiltonian: Annotated[
        KindSection,
        Chosen("hamiltonian", "holstein"),
        key("model of electrons and lattice", default_factory=lambda: new_section("hamiltonian", "holstein")),
    ]
    ensemble: Annotated[EnsembleSection, key("electrons and temperature", "electrons", "thermostat")]
    dynamics: Annotated[DynamicsSection, key("time steps", "md", "langevin", "integrator", "time")]
    initial: Annotated[InitialSection, key("start of a run", "init", "start")]
    force: Annotated[
        KindSection, Chosen("force"), key("who computes the forces", "provider", "solver", "calculator", "potential")
    ]
    observable: Annotated[
        tuple[Annotated[KindSection, Chosen("observable", "order")], ...],
        key("what a run records besides the order of its lattice", "observables", "order"),
    ] = ()
    output: Annotated[OutputSection, key("files of a run", "io", "files", default_factory=OutputSection)]
    health: Annotated[HealthSection, key("when a run is stopped", default_factory=HealthSection)]
    trust: Annotated[TrustSection, key("how far a network is trusted", "uncertainty", default_factory=TrustSection)]
    parallel: Annotated[
        ParallelSection, key("ranks, threads, devices and arithmetic", "mpi", "machine", default_factory=ParallelSection)
    ]
    model: Annotated[
        KindSection,
        Chosen("model", "enn"),
        key(
            "architecture of a network to train",
            "network",
            "architecture",
            default_factory=lambda: new_section("model", "enn"),
        ),
    ]
    training: Annotated[TrainingSection, key("how to train", "train", "fit", default_factory=TrainingSection)]
    pipeline: Annotated[PipelineSection, key("a study, for hpc-holstein pipeline", "study", default_factory=PipelineSection)]
    learn: Annotated[
        LearnSection, key("active learning, for hpc-holstein learn", "active_learning", default_factory=LearnSection)
    ]

    def toml(self) -> str:
        """The configuration as TOML text that can be run again."""
        tables = self.model_dump(exclude_none=True)
        for name in WITH_OPTIONS:
            section: KindSection = getattr(self, name)
            tables[name] = {"kind": section.kind, **section.option_values}
        tables["training"] = self.training.option_values
        tables["ensemble"].pop("chemical_potential" if self.ensemble.kind == "canonical" else "filling")
        if self.initial.file is None:
            tables["initial"].pop("snapshot")
        if self.trust == TrustSection():
            tables.pop("trust")
        elif self.trust.action != "collect":
            tables["trust"] = {name: value for name, value in tables["trust"].items() if not name.startswith("collect_")}
        if not self.observable:
            tables.pop("observable")
        if self.pipeline == PipelineSection():  # a run that is part of no study says nothing of one
            tables.pop("pipeline")
        if self.learn == LearnSection():
            tables.pop("learn")
        return tomli_w.dumps({name: value for name, value in tables.items() if value != {}})


def file_schema() -> dict[str, Any]:
    """The JSON schema of configuration files, which editors complete from; every key may come from a preset instead."""
    schema = Config.model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        part.pop("required", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "hpc-holstein configuration"}
