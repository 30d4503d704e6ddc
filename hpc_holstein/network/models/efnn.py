"""E-FNN: the published equivariant force-field network of arXiv:2601.04104, the baseline of every comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import Lattice
from hpc_holstein.keys import key

if TYPE_CHECKING:
    from hpc_holstein.network.models._efnn import EFNN


@dataclass(frozen=True)
class Options:
    """Keys of ``[model]`` for ``efnn``; the defaults are the published network."""

    radius_squared: Annotated[
        float, key("neighbourhood: all sites with |r|^2 up to this [a^2]; 13 gives 45 sites", "radius", "cutoff")
    ] = 13.0
    widths: Annotated[
        tuple[int, ...], key("copies of every irreducible representation in the hidden layers", "width", "hidden", "channels")
    ] = (32, 8, 4)

    @property
    def fewest_weights(self) -> float:
        """A lower bound on the weights of such a network, which costs nothing to know."""
        return self.radius_squared + sum(a * b for a, b in zip(self.widths, self.widths[1:], strict=False)) + sum(self.widths)


def build(options: Options, lattice: Lattice) -> EFNN:
    """The network for ``lattice``, with random weights.  Raises ConfigError for options that give no network."""
    if len(lattice.basis) != 1:
        raise ConfigError(
            f"efnn needs one site per cell but the {lattice.name} lattice has {len(lattice.basis)}: choose another architecture"
        )
    if not options.widths or min(options.widths) < 1:
        raise ConfigError(f"widths = {list(options.widths)} of efnn is not valid: give at least one positive number of copies")
    if not 1 <= options.radius_squared < math.inf:
        raise ConfigError(f"radius_squared = {options.radius_squared} of efnn is not valid: give a number of at least 1")
    from hpc_holstein.network.models._efnn import EFNN

    return EFNN(options, lattice)
