"""Errors that a user can cause: each message names the value, what is valid, and the remedy.

Every class derives from :class:`HolsteinError`; the command line prints the message alone and exits with its ``exit_code``.
"""

LONGEST = 60
"""Characters of a value that are shown."""


def shortened(text: str) -> str:
    """``text`` for a sentence, with its middle left out if it is long."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 13]}...{text[-10:]}"


class HolsteinError(Exception):
    """Base of all errors that a user can cause."""

    exit_code = 2


class ConfigError(HolsteinError):
    """A configuration or command line that cannot be run: unknown key, wrong type, inconsistent values."""


class DomainError(HolsteinError):
    """A decomposition that cannot hold the lattice: sub-domain thinner than the halo, grid that does not match the ranks."""


class SpectrumError(HolsteinError):
    """An electronic problem with no solution: filling outside (0, 1), a spectrum outside its bounds."""


class DataError(HolsteinError):
    """A data file that is missing, truncated, of another schema, holds NaN, or would be overwritten."""


class ModelError(HolsteinError):
    """A model file that cannot be used: damaged, of another architecture, or made for another Hamiltonian."""


class StoppedError(Exception):
    """Work that was told to end before it was done, and why; what it has done is kept, and the same command goes on.

    No :class:`HolsteinError`: it ends with exit code 75.
    """


class TrainingError(HolsteinError):
    """A training that was done as asked for, and whose network is not worth keeping."""

    exit_code = 1
