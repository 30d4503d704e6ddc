"""The five contracts of the package, and the values that pass between them.

Fields live on a structured tile: torch tensors of shape ``[*batch, *cells, basis, components]`` on the device of the
domain, ``cells`` in array order (y, x on the square lattice).  A *ghosted* field carries ``halo`` extra cells on each
side of every cell axis.  Units: ``t_nn = hbar = k_B = a = 1``.

One sentence is the architecture: ``force = -dV/dq - Tr[rho dH/dq]``, and only the entries of the density matrix
``rho`` on the sparsity pattern of ``H`` are needed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from hpc_holstein.errors import ConfigError
from hpc_holstein.fields import Field

if TYPE_CHECKING:  # a configuration is checked without loading torch
    import torch
    from torch import Tensor

    from hpc_holstein.symmetry.point_group import PointGroup
    from hpc_holstein.symmetry.space_group import SpaceGroup


@dataclass(frozen=True)
class Bond:
    """One directed bond of a cell: site ``source`` of cell ``r`` to site ``target`` of cell ``r + offset``."""

    source: int
    target: int
    offset: tuple[int, ...]


@dataclass(frozen=True)
class Ensemble:
    """Statistical ensemble of the electrons: ``rho = f(H - mu)`` at temperature ``kT`` (same for lattice noise).

    Canonical: ``filling`` (electrons per state, in (0, 1)) is fixed and ``mu`` follows from it.
    Grand-canonical: ``chemical_potential`` is fixed (0 is half filling).
    """

    kind: Literal["canonical", "grand-canonical"]
    kT: float
    filling: float = 0.5
    chemical_potential: float = 0.0


@dataclass(frozen=True)
class ForceResult:
    """Result of a force provider for the owned cells of one rank.

    force               ``[*batch, *cells, basis, components]``, total adiabatic force ``-dE/dq``
    density             ``[*batch, *cells, basis]``, electrons on each site, ``n_i = rho_ii`` summed over its states
    chemical_potential  ``[*batch]``, the same on all ranks (NaN where a provider does not know it)
    grand_potential     ``[*batch]``, electronic ``Omega = -kT Tr ln(1 + exp(-(H - mu)/kT))`` of the whole lattice, or None
    info                scalars that say what the evaluation cost (``force_calls``, ``iterations``, ...)
    of_states           of a batch: the scalars of each state that its next forces start from
    """

    force: Tensor
    density: Tensor
    chemical_potential: Tensor
    grand_potential: Tensor | None = None
    info: dict[str, float] = field(default_factory=dict)
    of_states: tuple[dict[str, float], ...] = ()


@dataclass(frozen=True)
class State:
    """Phase-space point of the lattice on the owned cells of one rank.

    ``q`` and ``velocity`` are ``[*batch, *cells, basis, components]``; ``step`` counts from the start of the run;
    ``forces`` belongs to ``q``, or to the step before while a new force is being asked for (a warm start for ``mu``).
    """

    q: Tensor
    velocity: Tensor
    step: int = 0
    forces: ForceResult | None = None

    @classmethod
    def at_rest(cls, q: Tensor) -> State:
        """A state that has positions only: what labelling and validation ask a force provider about."""
        return cls(q=q, velocity=q.new_zeros(q.shape))

    def moved(self, **changes: object) -> State:
        """A copy with some members replaced."""
        return replace(self, **changes)  # type: ignore[arg-type]


class Lattice(Protocol):
    """Geometry only: no global arrays, so that a lattice of any size costs nothing.

    extent, periodic   cells along each array axis, and whether it closes onto itself
    vectors, basis     primitive vector of each array axis and positions of the sites of a cell, Cartesian (x, y, z), in units
                       of the distance of nearest neighbours; x is the last array axis of the square and cubic lattices
    symmetry           point group about an origin, with the permutations of the sites of a cell
    """

    @property
    def name(self) -> str: ...
    @property
    def extent(self) -> tuple[int, ...]: ...
    @property
    def periodic(self) -> tuple[bool, ...]: ...
    @property
    def vectors(self) -> tuple[tuple[float, ...], ...]: ...
    @property
    def basis(self) -> tuple[tuple[float, ...], ...]: ...
    @property
    def point_group(self) -> PointGroup: ...
    @property
    def symmetry(self) -> SpaceGroup: ...
    @property
    def sites(self) -> int: ...
    def bonds(self, shell: int) -> tuple[Bond, ...]: ...


class Domain(Protocol):
    """The part of a lattice that one rank owns, and everything that crosses ranks."""

    lattice: Lattice
    grid: tuple[int, ...]  # ranks along each cell axis
    rank: int
    size: int
    owned: tuple[tuple[int, int], ...]  # [start, stop) of the owned cells along each axis, global indices
    device: torch.device

    @property
    def local_extent(self) -> tuple[int, ...]: ...
    def require_halo(self, width: int) -> None: ...
    def global_cells(self) -> Tensor: ...
    def pad(self, owned: Tensor, width: int) -> Tensor: ...
    def exchange(self, ghosted: Tensor, width: int) -> Tensor: ...
    def exchange_start(self, ghosted: Tensor, widths: Sequence[int]) -> Callable[[], Tensor]: ...
    def accumulate(self, ghosted: Tensor, width: int) -> Tensor: ...
    def crop(self, ghosted: Tensor, width: int) -> Tensor: ...
    def allsum(self, value: Tensor) -> Tensor: ...
    def gather(self, owned: Tensor) -> Tensor | None: ...
    def scatter(self, global_field: Tensor | None, like: Tensor) -> Tensor: ...


class Hamiltonian(Protocol):
    """One-body matrix ``H(q)`` on a fixed sparsity pattern, and the classical potential ``V(q)``.

    A site has ``orbitals`` states; those of a cell are numbered ``site * orbitals + orbital``, and ``rho`` and the pattern are
    of states: the ends of a :class:`Bond` of ``pattern`` are states of a cell.

    ``matrix`` and ``energy`` are functions of coordinates with ``halo >= reach`` ghosts; the forces follow from them, see
    :class:`hamiltonian._base.LatticeHamiltonian`.
    """

    name: str
    lattice: Lattice
    coordinates: Field
    components: int
    reach: int  # cells that the pattern and the classical potential extend over
    orbital_kind: str  # symmetry of the states of a site, a name in symmetry.orbitals.ORBITALS
    orbitals: int  # their number
    states: int  # of a cell
    pattern: tuple[Bond, ...]  # upper half: each off-diagonal pair of states once, the diagonal first

    tells_density: bool  # by its electronic force: :meth:`density` is the inverse of :meth:`electronic_force`

    @property
    def parameters(self) -> dict[str, float]: ...
    @property
    def hopping(self) -> float: ...  # unit of energy in which a network reads the matrix, positive
    @property
    def stiffness(self) -> tuple[float, float]: ...  # lowest and highest eigenvalue of the Hessian of V
    def require_ground_state(self) -> None: ...
    def matrix(self, ghosted_q: Tensor, halo: int) -> Tensor: ...
    def energy(self, ghosted_q: Tensor, halo: int) -> Tensor: ...
    def force(self, ghosted_q: Tensor, halo: int, rho: Tensor, domain: Domain) -> Tensor: ...
    def electronic_force(self, ghosted_q: Tensor, halo: int, rho: Tensor, domain: Domain) -> Tensor: ...
    def classical_force(self, ghosted_q: Tensor, halo: int, domain: Domain) -> Tensor: ...
    def density(self, electronic_force: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class System:
    """The physics of a configuration, on no particular domain."""

    lattice: Lattice
    hamiltonian: Hamiltonian
    ensemble: Ensemble


class ForceProvider(ABC):
    """Anything that maps a state to the adiabatic force: exact diagonalization, KPM, a network, ...

    Inherit from it, and say what is not as here:

    reach            cells; None: needs the whole lattice
    tolerance        promised max |dF| against exact, of coordinates in float64; None: promises nothing (a network)
    deterministic    the bits of the forces do not depend on the ranks
    takes_batches    a batch of states costs less than one after another
    batches_exactly  those of a state have the same bits in any batch
    knows_spectrum   densities at further chemical potentials come with the forces: :meth:`at_potentials`
    """

    reach: int | None
    tolerance: float | None
    deterministic: bool = False
    takes_batches: bool = False
    batches_exactly: bool = False
    knows_spectrum: bool = False

    @abstractmethod
    def __call__(self, state: State) -> ForceResult:
        """Force, density and potentials of ``state``, of any batch; collective."""

    def at_potentials(self, state: State, offsets: Sequence[float]) -> tuple[ForceResult, Tensor, Tensor | None]:
        """The forces, and densities and forces at ``mu + offset``, float64 ``[*batch, *cells, offsets, basis(, components)]``.

        None for the latter if the density tells the force.
        """
        raise ConfigError(
            f"{type(self).__name__} gives no densities at further chemical potentials: write at_potentials and set "
            "knows_spectrum, or use force kind 'exact'"
        )

    def memory_bytes(self, dtype: torch.dtype) -> float:
        """Bytes of one evaluation on this rank with its result, for coordinates of ``dtype``, where they are many."""
        return 0.0


class Observable(Protocol):
    """Scalars of a state, recorded besides orders and energies.  ``series``: unit and meaning of each, by its name."""

    series: Mapping[str, tuple[str, str]]

    def __call__(self, state: State, domain: Domain) -> Mapping[str, float]: ...  # the same on all ranks; collective


class Integrator(Protocol):
    """One time step of the lattice dynamics."""

    weak_order: int
    force_calls: int  # per step

    def require_stable(self, stiffness: float) -> None: ...  # ConfigError where a mode of this stiffness is unstable
    def is_safe(self, stiffness: float) -> bool: ...
    def time_step_in_words(self, stiffness: float) -> str: ...
    def init(self, state: State, forces: ForceProvider) -> State: ...
    def step(self, state: State, forces: ForceProvider, noise: Noise) -> State: ...


Noise: TypeAlias = "Callable[[int], Tensor]"
"""``noise(step)`` -> standard normal field of the shape of ``q``, a pure function of (seed, stream, step, global site)."""
