"""The configuration as pydantic models: one class a section, unknown keys forbidden."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hpc_holstein.config.learn import LearnSection
from hpc_holstein.config.pipeline import PipelineSection
from hpc_holstein.interfaces import Ensemble

if TYPE_CHECKING:
    import torch

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Cells = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A section whose keys are all listed here."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KindSection(BaseModel):
    """A section whose ``kind`` names a file; its other keys are the ``Options`` of that file, checked in ``loading``."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str

    @property
    def option_values(self) -> dict[str, Any]:
        """All keys besides ``kind``."""
        return dict(self.model_extra or {})


class LatticeSection(Section):
    """``extent`` = cells along each array axis (rows, columns on the square lattice)."""

    kind: str = "square"
    extent: tuple[Cells, ...]
    periodic: tuple[bool, ...] = (True, True)


class EnsembleSection(Section):
    """Electrons at fixed ``filling`` (canonical) or at fixed ``chemical_potential`` (grand-canonical), temperature ``kT``."""

    kind: Literal["canonical", "grand-canonical"] = "canonical"
    kT: NonNegative
    filling: Annotated[float, Field(gt=0, lt=1)] = 0.5
    chemical_potential: Annotated[float, Field(allow_inf_nan=False)] = 0.0

    @model_validator(mode="after")
    def _one_of_the_two(self) -> EnsembleSection:
        other = "chemical_potential" if self.kind == "canonical" else "filling"
        if other in self.model_fields_set:
            raise ValueError(f"{other} has no meaning in the {self.kind} ensemble: remove it or change ensemble.kind")
        return self

    def build(self) -> Ensemble:
        """The ensemble that force providers take."""
        return Ensemble(self.kind, self.kT, self.filling, self.chemical_potential)


class DynamicsSection(Section):
    """Langevin dynamics: ``mass``, damping rate ``gamma`` [t_nn/hbar], time step ``dt`` [hbar/t_nn], ``seed`` of all noise."""

    scheme: str = "verlet-ou"
    mass: Positive
    gamma: NonNegative
    dt: Positive
    steps: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class InitialSection(Section):
    """Random start, ``Q ~ N(0, q_std^2)`` and ``v ~ N(0, velocity_std^2)``, or ``snapshot`` of a ``file``.

    A file without velocities starts with random ones of ``velocity_std``.
    """

    q_std: NonNegative | None = None
    velocity_std: NonNegative = 0.0
    file: str | None = None
    snapshot: int = -1

    @model_validator(mode="after")
    def _random_or_file(self) -> InitialSection:
        if (self.q_std is None) == (self.file is None):
            raise ValueError("give either q_std (a random start) or file (a stored snapshot), and not both")
        if self.file is None and "snapshot" in self.model_fields_set:
            raise ValueError("snapshot has no meaning without file: give the file it is in, or remove it")
        return self


class OutputSection(Section):
    """Where a run writes, and how often [steps].

    Checkpoints, of which the last ``checkpoints_kept`` stay: every ``checkpoint_every`` steps (0: not by steps) and every
    ``checkpoint_minutes`` of the wall clock (0: not by the clock); there is always one at the end and at a stop.

    ``writer`` of ``trajectory.h5``: ``gather``: the root gathers and writes one file.  ``per-rank``: each rank appends its tile
    to a file of its own in ``trajectory.d``; ``mpio``: all ranks write together into files there (needs an h5py with MPI); then
    ``trajectory.h5`` refers to those files, is read in the same way, and all ranks write the checkpoints, too.  ``auto``: as
    the run began; a new one ``per-rank`` on several ranks from 2^23 sites on, else ``gather``.

    ``compression`` of the fields: 0 (none) to 9 (gzip level).  ``locking``: ``auto``: one run a folder where the file system
    has locks; ``on``: refuse to run where it has none; ``off``: for file systems on which locks fail or hang.
    """

    folder: str = "run"
    snapshot_every: Annotated[int, Field(ge=1)] = 50
    observables_every: Annotated[int, Field(ge=1)] = 10
    checkpoint_every: Annotated[int, Field(ge=0)] = 0
    checkpoint_minutes: NonNegative = 10.0
    checkpoints_kept: Annotated[int, Field(ge=1)] = 2
    writer: Literal["auto", "gather", "per-rank", "mpio"] = "auto"
    compression: Annotated[int, Field(ge=0, le=9)] = 1
    locking: Literal["auto", "on", "off"] = "auto"


class HealthSection(Section):
    """When a run is stopped because it is not physics any more; see :class:`hpc_holstein.simulation.Health`.

    ``max_temperature``: kinetic temperature [t_nn]; ``max_energy``: kinetic and classical energy [t_nn per site]; without a
    number, 100 times ``t_nn + kT`` + those energies at the start.  ``max_electron_drift`` [electrons per site]: canonical runs.
    """

    max_temperature: Positive | None = None
    max_energy: Positive | None = None
    max_electron_drift: Positive = 1e-4


class TrustSection(Section):
    """How far the network of a run is trusted; see :class:`hpc_holstein.simulation.trust.Limits`.

    Every ``every`` steps (a multiple of ``output.observables_every``, which it is when absent) a run looks at its committee
    (``force.committee``) and at the range of the field that its network was trained on (on the card of the model), writes the
    scalars ``committee_rms``, ``committee_max`` and ``outside_fraction``, and compares them with the limits:
    ``max_deviation`` [t_nn/a] of ``committee_rms``, ``max_site_deviation`` [t_nn/a] of ``committee_max``, ``max_outside`` of
    ``outside_fraction``.  Beyond a limit, ``action``: ``warn``; ``stop`` as a run that is not healthy; ``collect`` the state in
    ``collected.h5`` of the folder of the run, at most ``collect_at_most`` states and ``collect_distance`` steps apart.
    """

    every: Annotated[int, Field(ge=1)] | None = None
    max_deviation: Positive | None = None
    max_site_deviation: Positive | None = None
    max_outside: NonNegative | None = None
    action: Literal["warn", "stop", "collect"] = "warn"
    collect_at_most: Annotated[int, Field(ge=1)] = 50
    collect_distance: Annotated[int, Field(ge=1)] = 20

    @property
    def limited(self) -> list[str]:
        """Keys of the limits that are given."""
        return [key for key in ("max_deviation", "max_site_deviation", "max_outside") if getattr(self, key) is not None]

    @model_validator(mode="after")
    def _something_to_act_on(self) -> TrustSection:
        if self.action != "warn" and not self.limited:
            raise ValueError(f"action = '{self.action}' has no meaning without a limit: give max_deviation or max_outside")
        collecting = sorted({"collect_at_most", "collect_distance"} & self.model_fields_set)
        if collecting and self.action != "collect":
            raise ValueError(f"{collecting[0]} has no meaning without action = 'collect': give that, or remove it")
        return self


class ParallelSection(Section):
    """Rank ``grid`` (chosen when absent), ``threads`` of each rank, arithmetic and device.

    ``replicas``: independent runs at once, ranks = replicas x tiles.  Replica ``r`` is the run with ``dynamics.seed + r``, in
    ``replica-000r`` of ``output.folder``.  ``grid`` is that of one replica.  With fewer ranks than replicas times tiles each
    group of ranks has several replicas: with forces that take batches (networks, ``atomic``) they advance together and one
    evaluation serves all, as many at a time as there is memory for; with others they run in turn.

    ``transport`` of halos and sums: ``mpi``, or ``nccl``, from GPU to GPU, where each rank has one of its own.

    ``gpu_buffers``: how MPI gets the halos of GPUs.  ``direct``: where they are; ``staged``: in pinned host memory; ``auto``:
    directly if a trial of that on this machine brings the right bytes.

    ``dtype``: ``float64`` or ``float32`` throughout, or ``mixed``: networks in float32, the state, its integration and all
    sums in float64, so that the electron number is kept to 1e-10 per site at the speed of float32.

    ``deterministic``: no bit of the trajectory depends on the number of ranks and threads, the rank grid or restarts, on one
    kind of device and one set of libraries; for networks, ``exact`` and ``atomic``.
    """

    grid: tuple[Cells, ...] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    replicas: Annotated[int, Field(ge=1)] = 1
    transport: Literal["mpi", "nccl"] = "mpi"
    gpu_buffers: Literal["auto", "direct", "staged"] = "auto"
    dtype: Literal["mixed", "float64", "float32"] = "mixed"
    deterministic: bool = False
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda|cuda:\d+)$")] = "auto"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype of the state."""
        import torch  # here: a configuration is checked without it

        return torch.float32 if self.dtype == "float32" else torch.float64


class Config(Section):
    """Everything that a run depends on; :func:`hpc_holstein.config.load_config` makes it from a preset, a file and options."""

    preset: str | None = None
    lattice: LatticeSection
    hamiltonian: KindSection = KindSection(kind="holstein")
    ensemble: EnsembleSection
    dynamics: DynamicsSection
    initial: InitialSection
    force: KindSection
    output: OutputSection = OutputSection()
    health: HealthSection = HealthSection()
    trust: TrustSection = TrustSection()
    parallel: ParallelSection = ParallelSection()
    model: KindSection = KindSection(kind="enn")
    training: dict[str, Any] = {}  # keys of training.fit.FitOptions, checked in ``loading``
    pipeline: PipelineSection = PipelineSection()
    learn: LearnSection = LearnSection()

    def toml(self) -> str:
        """The configuration as TOML text that can be run again."""
        tables = self.model_dump(exclude_none=True)
        tables["ensemble"].pop("chemical_potential" if self.ensemble.kind == "canonical" else "filling")
        if self.initial.file is None:
            tables["initial"].pop("snapshot")
        if self.trust == TrustSection():
            tables.pop("trust")
        elif self.trust.action != "collect":
            tables["trust"] = {key: value for key, value in tables["trust"].items() if not key.startswith("collect_")}
        if self.pipeline == PipelineSection():  # a run that is part of no study says nothing of one
            tables.pop("pipeline")
        if self.learn == LearnSection():
            tables.pop("learn")
        top = _lines({name: value for name, value in tables.items() if not isinstance(value, dict)})
        sections = [f"[{name}]\n{_lines(value)}" for name, value in tables.items() if isinstance(value, dict) and value]
        return "\n".join([top, *sections])


def _lines(values: dict[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
