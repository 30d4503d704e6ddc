"""The sections of a configuration as pydantic models; those that a folder of kinds gives are made in ``kinds``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from hpc_holstein.dynamics import schemes
from hpc_holstein.errors import ConfigError, shortened
from hpc_holstein.files import usable_path
from hpc_holstein.interfaces import Ensemble
from hpc_holstein.keys import key

if TYPE_CHECKING:  # a configuration is checked without loading torch
    import torch

    Scheme = str
else:
    Scheme = Literal[tuple(schemes())]

_LARGEST_ENERGY = 1e6  # t_nn: far beyond any material, and squares of it stay finite
_SMALLEST_KT = 1e-12  # t_nn: below, levels that round-off alone makes different would be filled differently


def _temperature(kT: float) -> float:
    if 0 < kT < _SMALLEST_KT:
        raise ValueError(f"kT = {kT} is not distinguished from zero in double precision: give 0, or {_SMALLEST_KT:g} and more")
    return kT


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda|cuda:[0-9]{1,4}", name):
        raise ValueError(f"'{shortened(name)}' is no device: give auto, cpu, cuda or cuda:N")
    return name


_SEEDS = 2**63
_TOGETHER = 10**6

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Energy = Annotated[float, Field(ge=-_LARGEST_ENERGY, le=_LARGEST_ENERGY)]
Temperature = Annotated[float, Field(ge=0, le=_LARGEST_ENERGY), AfterValidator(_temperature)]
Width = Annotated[float, Field(ge=0, le=1e6)]
Cells = Annotated[int, Field(ge=1, le=10**9)]
AtLeastOne = Annotated[int, Field(ge=1, lt=2**53)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Seed = Annotated[int, Field(ge=0, lt=_SEEDS)]
Together = Annotated[int, Field(ge=1, le=_TOGETHER)]
PathText = Annotated[str, AfterValidator(usable_path)]


class Section(BaseModel):
    """A section whose keys are all listed, and whose numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


class EnsembleSection(Section):
    """Statistical ensemble of the electrons, and the temperature of electrons and lattice."""

    kind: Annotated[
        Literal["canonical", "grand-canonical"],
        key("canonical: the filling is fixed; grand-canonical: the chemical potential is", "ensemble", "type"),
    ] = "canonical"
    kT: Annotated[
        Temperature,
        key("temperature of electrons and lattice [t_nn]", "temperature", "T", "temp", "k_T", "kBT", "kB_T", "beta"),
    ]
    filling: Annotated[
        float,
        key(
            "electrons per state (site, orbital and spin), between 0 and 1; 0.5: half filling; canonical ensemble",
            "density",
            "doping",
            "n",
            "electron_density",
            "electrons",
            "occupation",
            "concentration",
            gt=0,
            lt=1,
        ),
    ] = 0.5
    chemical_potential: Annotated[
        Energy,
        key("chemical potential [t_nn], 0: half filling; grand-canonical ensemble", "mu", "fermi_energy", "fermi_level", "E_F"),
    ] = 0.0

    @model_validator(mode="after")
    def _one_of_the_two(self) -> EnsembleSection:
        other = "chemical_potential" if self.kind == "canonical" else "filling"
        if other in self.model_fields_set:
            wanted = "grand-canonical" if self.kind == "canonical" else "canonical"
            raise ValueError(
                f"{other} has no meaning in the {self.kind} ensemble: remove it, or give ensemble.kind = '{wanted}'"
            )
        return self

    def build(self) -> Ensemble:
        """The ensemble that force providers take."""
        return Ensemble(self.kind, self.kT, self.filling, self.chemical_potential)


class DynamicsSection(Section):
    """Langevin dynamics of the lattice."""

    scheme: Annotated[Scheme, key("integrator", "integrator", "algorithm", "method")] = "verlet-ou"
    mass: Annotated[float, key("mass of a coordinate [hbar^2/(t_nn a^2)]", "m", "M", "ion_mass", ge=1e-6, le=1e12)]
    gamma: Annotated[
        float, key("damping rate [t_nn/hbar]; 0: energy is conserved", "damping", "friction", "damping_rate", ge=0, le=1e6)
    ]
    dt: Annotated[
        float,
        key("time step [hbar/t_nn]", "timestep", "time_step", "step_size", "stepsize", "delta_t", gt=0, le=1e3),
    ]
    steps: Annotated[AtLeastOne, key("time steps", "n_steps", "nsteps", "num_steps", "number_of_steps", "max_steps")]
    seed: Annotated[Seed, key("seed of the initial state and the noise", "random_seed", "rng_seed", "rng")] = 0


class InitialSection(Section):
    """State that a run starts from: random coordinates and velocities, or a stored snapshot."""

    q_std: Annotated[
        Width | None,
        key("standard deviation of random coordinates [a]; either this or file", "sigma", "q_sigma", "amplitude", "std"),
    ] = None
    velocity_std: Annotated[
        Width,
        key("standard deviation of random velocities [a t_nn/hbar], also for a file without velocities", "v_std", "v_sigma"),
    ] = 0.0
    file: Annotated[
        PathText | None,
        key("snapshot file, trajectory or folder of a run to start from", "input", "path", "state", "filename"),
    ] = None
    snapshot: Annotated[int, key("number of the snapshot in file, from 0; -1: the last", "index", "frame")] = -1

    @model_validator(mode="after")
    def _random_or_file(self) -> InitialSection:
        if (self.q_std is None) == (self.file is None):
            raise ValueError("give either q_std (a random start) or file (a stored snapshot), and not both")
        if self.file is None and "snapshot" in self.model_fields_set:
            raise ValueError("snapshot has no meaning without file: give the file it is in, or remove it")
        return self


_EVERY_RANK = 10**9  # more than there are
_WRITERS: dict[str, dict[str, Any]] = {
    "auto": {},
    "gather": {"writers": 1},
    "per-rank": {"writers": _EVERY_RANK, "pack": False},
    "mpio": {"writers": _EVERY_RANK, "pack": False},
}


class OutputSection(Section):
    """Files of a run, and how often it writes them.  There is always a checkpoint at the end and at a stop."""

    folder: Annotated[PathText, key("folder of the results", "dir", "directory", "output_dir", "outdir", "path")] = "run"
    snapshot_every: Annotated[
        AtLeastOne, key("steps between two snapshots", "snapshot_interval", "dump_every", "save_every")
    ] = 50
    observables_every: Annotated[
        AtLeastOne, key("steps between two rows of observables", "observables_interval", "log_every")
    ] = 10
    checkpoint_every: Annotated[Count, key("steps between two checkpoints; 0: not by steps", "checkpoint_interval")] = 0
    checkpoint_minutes: Annotated[
        NonNegative, key("minutes of the wall clock between two checkpoints; 0: not by the clock")
    ] = 10.0
    checkpoints_kept: Annotated[AtLeastOne, key("checkpoints that stay, the last ones", "keep_checkpoints")] = 2
    writers: Annotated[
        Count,
        key(
            "ranks that write trajectory.h5, slabs of the lattice or, if all ranks write, what each of them owns; if several "
            "do, all ranks write the checkpoints. 0: one for every 2^22 sites"
        ),
    ] = 0
    pack: Annotated[
        bool | None,
        key("make one file of trajectory.h5 and the segments in trajectory.d at the end; when absent: up to 1 GiB"),
    ] = None
    compression: Annotated[int, key("of the fields: 0 (none) to 9 (gzip level)", "gzip", "compression_level", ge=0, le=9)] = 1
    locking: Annotated[
        Literal["auto", "on", "off"],
        key(
            "auto: one run a folder if the file system has locks; on: refuse to run if it has none; off: for file systems on "
            "which locks fail or hang"
        ),
    ] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, values: Any) -> Any:
        """``writer``: gather is one rank, per-rank and mpio are all of them, with files that stay as they are."""
        if not isinstance(values, dict) or values.get("writer") not in _WRITERS:
            return values
        if "writers" in values:
            raise ValueError(f"writer = '{values['writer']}' is the older name of writers = {values['writers']}: give one")
        kept = {name: value for name, value in values.items() if name != "writer"}
        return _WRITERS[values["writer"]] | kept


class HealthSection(Section):
    """When a run is stopped because it is not physics any more.

    Without a number, a limit is 100 times t_nn + kT + the energies at the start.
    """

    max_temperature: Annotated[Positive | None, key("largest kinetic temperature [t_nn]")] = None
    max_energy: Annotated[Positive | None, key("largest kinetic and classical energy [t_nn per site]")] = None
    max_electron_drift: Annotated[
        Positive, key("largest change of the electron number [electrons per site] of canonical runs", "max_drift")
    ] = 1e-4


class TrustSection(Section):
    """Limits of the trust in the network of a run.

    A run looks at its committee (force.committee), at the range of the field that its network was trained on and at the
    surroundings of the training sites (both on the card of the model), writes the scalars committee_rms, committee_max,
    outside_fraction and unfamiliar_fraction, and compares them with the limits.
    """

    every: Annotated[
        AtLeastOne | None,
        key("steps between two looks, a multiple of output.observables_every, which it is when absent", "interval"),
    ] = None
    max_deviation: Annotated[
        Positive | None, key("limit of committee_rms [t_nn/a]", "max_uncertainty", "threshold", "uncertainty")
    ] = None
    max_site_deviation: Annotated[Positive | None, key("limit of committee_max [t_nn/a]")] = None
    max_outside: Annotated[NonNegative | None, key("limit of outside_fraction", "max_outside_fraction")] = None
    max_unfamiliar: Annotated[
        NonNegative | None, key("limit of unfamiliar_fraction; without it, that of the card warns", "max_unfamiliar_fraction")
    ] = None
    action: Annotated[
        Literal["warn", "stop", "collect"],
        key("beyond a limit. warn; stop as a run that is not healthy; collect the state in collected.h5 of the folder"),
    ] = "warn"
    collect_at_most: Annotated[AtLeastOne, key("states that are collected at most", "max_collect")] = 50
    collect_distance: Annotated[AtLeastOne, key("steps between two states that are collected, at least")] = 20

    @property
    def limited(self) -> list[str]:
        """Keys of the limits that are given."""
        every = ("max_deviation", "max_site_deviation", "max_outside", "max_unfamiliar")
        return [name for name in every if getattr(self, name) is not None]

    @model_validator(mode="after")
    def _something_to_act_on(self) -> TrustSection:
        if self.action != "warn" and not self.limited:
            raise ValueError(f"action = '{self.action}' has no meaning without a limit: give max_deviation or max_outside")
        collecting = sorted({"collect_at_most", "collect_distance"} & self.model_fields_set)
        if collecting and self.action != "collect":
            raise ValueError(f"{collecting[0]} has no meaning without action = 'collect': give that, or remove it")
        return self


class ParallelSection(Section):
    """Ranks, threads, devices and arithmetic.

    replicas are independent runs at once, ranks = replicas x tiles.  Replica r is the run with dynamics.seed + r, in
    replica-000r of output.folder.  With fewer ranks than replicas times tiles each group of ranks has several replicas: with
    forces that take batches (networks, atomic) they advance together and one evaluation serves all, as many at a time as there
    is memory for; with others they run in turn.
    """

    grid: Annotated[
        tuple[Cells, ...] | None,
        key(
            "ranks along rows and columns, of one replica; absent: smallest halo", "rank_grid", "process_grid", "decomposition"
        ),
    ] = None
    threads: Annotated[
        Annotated[int, Field(ge=1, le=10**6)] | None,
        key("threads of each rank; absent: OMP_NUM_THREADS, else cores / ranks", "num_threads", "nthreads", "omp_num_threads"),
    ] = None
    replicas: Annotated[Together, key("independent runs at once", "n_replicas", "num_replicas", "runs")] = 1
    transport: Annotated[
        Literal["mpi", "nccl"],
        key("of halos and sums: mpi; nccl: from GPU to GPU, each rank with one of its own", "backend", "communication"),
    ] = "mpi"
    gpu_buffers: Annotated[
        Literal["staged", "direct"],
        BeforeValidator(lambda given: "staged" if given == "auto" else given),  # as earlier versions wrote
        key("where MPI gets the halos of GPUs: staged, in pinned host memory; direct, where they are", "cuda_aware"),
    ] = "staged"
    dtype: Annotated[
        Literal["mixed", "float64", "float32"],
        key(
            "float64 or float32 throughout; mixed: networks in float32, the state, its integration and all sums in float64, so "
            "that the electron number is kept to 1e-10 per site at the speed of float32",
            "precision",
        ),
    ] = "mixed"
    deterministic: Annotated[
        bool,
        key(
            "no bit of the trajectory depends on the number of ranks and threads, the rank grid or restarts, on one kind of "
            "device and one set of libraries; for enn on a CPU, exact and atomic",
            "reproducible",
        ),
    ] = False
    device: Annotated[str, AfterValidator(_device), key("auto, cpu, cuda or cuda:N", "gpu", "cuda")] = "auto"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype of the state."""
        import torch  # here: a configuration is checked without it

        return torch.float32 if self.dtype == "float32" else torch.float64


def require_seeds(key: str, first: int, count: int, of: str) -> None:
    """Raise ConfigError where ``count`` seeds from ``first`` on, one after another, go beyond the largest one.

    ``key`` gives the first one and ``of`` the number.
    """
    if first + count > _SEEDS:
        raise ConfigError(
            f"{key} = {first} is followed by fewer seeds than {of} = {count} needs: give a seed of at most {_SEEDS - count}"
        )
