"""Command-line options that several commands share, and how they override the configuration."""

from __future__ import annotations

import argparse
import difflib
import math
from pathlib import Path
from typing import Any, NoReturn

from hpc_holstein.config import PRESETS, Config, parse_assignment
from hpc_holstein.config.kinds import available
from hpc_holstein.errors import ConfigError

_DIRECT = {
    "lattice": "lattice.extent",
    "steps": "dynamics.steps",
    "seed": "dynamics.seed",
    "dtype": "parallel.dtype",
    "device": "parallel.device",
    "grid": "parallel.grid",
    "replicas": "parallel.replicas",
    "threads": "parallel.threads",
    "deterministic": "parallel.deterministic",
}
"""Option -> key that it overrides."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are ConfigErrors, with the nearest option or command."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of leaving."""
        if message.startswith("unrecognized arguments: "):
            given = message.removeprefix("unrecognized arguments: ").split()[0]
            known = [name for action in self._actions for name in action.option_strings]
            near = difflib.get_close_matches(given.partition("=")[0], known, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else f"see `{self.prog} --help`"
            raise ConfigError(f"unknown option {given}: {hint}")
        raise ConfigError(f"{message} (see `{self.prog} --help`)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Complain here about what is unknown, where the options of the command are known."""
        found, extra = super().parse_known_args(args, namespace)
        if extra:
            self.error(f"unrecognized arguments: {' '.join(extra)}")
        return found, extra


def cells(text: str) -> list[int]:
    """``200x100`` -> ``[200, 100]``."""
    try:
        numbers = [int(part) for part in text.lower().split("x")]
    except ValueError:
        numbers = []
    if len(numbers) < 2 or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not ROWSxCOLUMNS of positive numbers, such as 200x200")
    return numbers


def positive(text: str) -> int:
    """A whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return number


def positive_number(text: str) -> float:
    """A finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return number


def whole(text: str) -> int:
    """A whole number of at least 0."""
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 0")
    return int(text)


def add_physics(parser: argparse.ArgumentParser) -> None:
    """Options that say which system and on which machine."""
    parser.add_argument("--preset", metavar="NAME", help=f"start from a preset: {', '.join(PRESETS)}")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override any key of the file")
    parser.add_argument("--device", help="auto (default), cpu, cuda or cuda:N")
    threads = "threads of each rank (default: OMP_NUM_THREADS, else cores / ranks)"
    parser.add_argument("--threads", type=positive, metavar="N", help=threads)


def add_config(parser: argparse.ArgumentParser) -> None:
    """An optional configuration file."""
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG.toml", help="configuration file")


def add_lattice(parser: argparse.ArgumentParser) -> None:
    """Size of the lattice."""
    parser.add_argument("--lattice", type=cells, metavar="ROWSxCOLUMNS", help="cells of the lattice, such as 200x200")


def default_preset(args: argparse.Namespace) -> str | None:
    """The preset of the command line; without one and without a configuration file, the published setting."""
    return args.preset or (None if args.config is not None else next(iter(PRESETS)))


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """Full key -> value of everything given on the command line; ``--set`` comes last."""
    given = {key: getattr(args, name, None) for name, key in _DIRECT.items()}
    assignments = dict(parse_assignment(text) for text in args.set)
    return {key: value for key, value in given.items() if value is not None} | assignments


def force_overrides(section: str) -> dict[str, Any]:
    """``KIND``, or the path of a model file, which is kind ``neural`` with that ``model``."""
    if section.endswith(".safetensors"):
        return {"force.kind": "neural", "force.model": section}
    return {"force.kind": section}


def require_one_run(config: Config, command: str, instead: str) -> None:
    """Raise ConfigError where ``[parallel]`` asks a command for replicas that knows none; ``instead``: what to give."""
    if config.parallel.replicas > 1:
        raise ConfigError(
            f"parallel.replicas = {config.parallel.replicas} has no meaning for {command}: set it to 1{instead}, or use `run`"
        )


def providers() -> str:
    """Everyone who can be asked for forces, as help texts list them."""
    return ", ".join([*available("force"), "or a model file *.safetensors"])
