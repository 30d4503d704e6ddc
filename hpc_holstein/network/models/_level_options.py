"""Options of networks of levels, apart from what computes, so that a configuration is checked without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from hpc_holstein.keys import key


@dataclass(frozen=True)
class NetworkOptions:
    """Shape of a network of group convolutions; each architecture has its own defaults."""

    copies: Annotated[
        int,
        key("copies of the regular representation of the group in each hidden layer", "copy", "channels", "width", "hidden"),
    ] = 4
    radii: Annotated[
        tuple[int, ...],
        key("stencil radius of each layer [a], the first one lifts; what a site sees is their sum", "radius", "kernel_size"),
    ] = (2, 1, 1, 0)
    levels: Annotated[int, key("effective levels of the read-out", "n_levels")] = 8
    scales: Annotated[
        tuple[float, ...], key("the field Q' enters as tanh(g Q' / s) for these energies s [t_nn]", "input_scales")
    ] = (16.0, 6.4, 2.5, 1.0, 0.4, 0.2)
    kT: Annotated[
        float, key("temperature that the weights belong to [t_nn]; default: that of the system", "temperature", "T")
    ] = 0.1
    kT_range: Annotated[
        tuple[float, ...],
        key(
            "lowest and highest kT [t_nn] of a network that takes kT as an input; empty: kT is fixed; a training with data at "
            "several kT sets it",
            "temperature_range",
        ),
    ] = ()

    @property
    def fewest_weights(self) -> int:
        """A lower bound on the weights of such a network, which costs nothing to know."""
        hidden = len(self.radii) - 1
        return self.copies * (len(self.scales) + hidden * self.copies + self.levels + max(self.radii, default=0) ** 2)


@dataclass(frozen=True)
class LevelOptions(NetworkOptions):
    """Of one that reads the shifted field, whose coupling makes energies of it."""

    g: Annotated[float, key("coupling that the weights belong to [t_nn/a]; default: that of the system", "coupling")] = 3.5
