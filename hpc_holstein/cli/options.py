"""Command-line options that several commands share, and how they override the configuration."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from hpc_holstein.config.folders import available
from hpc_holstein.config.presets import PRESETS
from hpc_holstein.errors import ConfigError
from hpc_holstein.files import usable_path

if TYPE_CHECKING:  # loaded when a command has such options or they are wrong: --help of the others does without
    from pydantic.fields import FieldInfo

    from hpc_holstein.config import Config
    from hpc_holstein.fields import SiteAxes

N = TypeVar("N", int, float)

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
    "model": "model.kind",
}
"""Option -> key that it overrides; the options of :func:`add_keys` have the key for a name."""
_OF_STATICS = ("hamiltonian", "ensemble")
_OF_DYNAMICS = ("scheme", "mass", "gamma", "dt")  # steps and seed are options of those commands that have them
_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$|-inf$|-nan$")
_LONG_WORD = re.compile(r"\S{100,}")
_NO_REGIMES = ("all", "random", "force", "reference", "units", "sites", "budget", "ranks", "mpi", "git", "host", "date")
"""Names in the records of a comparison that are none of a regime."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are ConfigErrors, with the nearest option; options are not abbreviated."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        self._negative_number_matcher = _NEGATIVE  # that of argparse takes -1e-3 for an option

    def error(self, message: str) -> NoReturn:
        """Raise instead of leaving."""
        if message.startswith("unrecognized arguments: "):
            given = message.removeprefix("unrecognized arguments: ").partition(" ")[0].partition("=")[0]
            told = f"unknown option {_short(given)}" if given.startswith("-") else f"one argument too many, '{_short(given)}'"
            raise ConfigError(f"{told}: {self._meant(given) or f'see `{self.prog} --help`'}")
        raise ConfigError(f"{_LONG_WORD.sub(lambda word: _short(word[0]), message)} (see `{self.prog} --help`)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Complain here about what is unknown, where the options of the command are known."""
        found, extra = super().parse_known_args(args, namespace)
        if extra:
            self.error(f"unrecognized arguments: {' '.join(extra)}")
        return found, extra

    def _meant(self, given: str) -> str:
        """Guess of the option that a user means by one that there is not, as a question; empty without a guess."""
        from hpc_holstein.config.loading import keys_of
        from hpc_holstein.config.messages import nearest
        from hpc_holstein.keys import other_names

        wanted, keys = given.lstrip("-").replace("-", "_"), keys_of({})
        names = {key: other_names(field) for key, field in keys.items()}
        options = {}
        for action in self._actions:
            for option in action.option_strings:
                key = action.dest if "." in action.dest else _DIRECT.get(action.dest, "")
                options[option.lstrip("-").replace("-", "_")] = (option, names.get(key, []))
        if not given.startswith("-"):
            return ""
        near = nearest(wanted, {name: others for name, (_, others) in options.items()})
        if near is not None:
            return f"did you mean {options[near][0]}?"
        settable = nearest(wanted, names) if "set" in options else None
        return f"did you mean --set {settable}=...?" if settable is not None and "." in settable else ""


def _short(text: str) -> str:
    return text if len(text) < 60 else f"{text[:40]}...{text[-10:]}"


def path(text: str) -> Path:
    """The name of a file or folder that there can be."""
    try:
        return Path(usable_path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def name_or_path(text: str) -> str:
    """A name, or that of a file or folder that there can be."""
    return str(path(text))


def cells(text: str) -> list[int]:
    """``200x100`` -> ``[200, 100]``; as many numbers as the lattice has axes."""
    try:
        numbers = [int(part) for part in text.lower().split("x")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not one positive number for each axis, such as 64, 200x200 or 8x8x8")
    return numbers


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _number(text, int, lambda number: number >= 1, "a whole number of at least 1")


def positive_number(text: str) -> float:
    """A finite number above 0."""
    return _number(text, float, lambda number: 0 < number < math.inf, "a number above 0")


def whole(text: str) -> int:
    """A whole number of at least 0."""
    return _number(text, int, lambda number: number >= 0, "a whole number of at least 0")


def _number(text: str, kind: Callable[[str], N], valid: Callable[[N], bool], told: str) -> N:
    with suppress(ValueError):
        number = kind(text)
        if valid(number):
            return number
    raise argparse.ArgumentTypeError(f"'{text}' is not {told}")


def value(text: str) -> Any:
    """A value as TOML, or a bare word as a string."""
    from hpc_holstein.config.loading import parse_value

    return parse_value(text)


def duration(text: str) -> float:
    """``HH:MM:SS`` in seconds."""
    found = re.fullmatch(r"(\d{1,7}):([0-5]\d):([0-5]\d)", text, re.ASCII)
    if found is None:
        raise argparse.ArgumentTypeError(f"'{text}' is not a time HH:MM:SS, such as 01:30:00")
    hours, minutes, seconds = map(int, found.groups())
    return 3600.0 * hours + 60 * minutes + seconds


def add_walltime(parser: argparse.ArgumentParser, kept: str) -> None:
    """Add the option for the time that a command may take in all; ``kept``: what it leaves, in words."""
    budget = f"end {kept} and exit code 75 before this time is over (default: before the Slurm job ends)"
    parser.add_argument("--max-walltime", type=duration, metavar="HH:MM:SS", help=budget)


def regime_steps(text: str) -> dict[str, tuple[int, int | None]]:
    """``hot=0:200,late=800:`` -> first step of each regime, and the one after its last."""
    found: dict[str, tuple[int, int | None]] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([A-Za-z_]\w*)=(\d{1,18}):(\d{1,18})?\s*", part, re.ASCII)
        name, first, end = match.groups() if match else ("", "0", "0")
        if not match or name in found or name in _NO_REGIMES or (end and int(first) >= int(end)):
            raise argparse.ArgumentTypeError(
                f"'{text}' is not understood at '{part}': give NAME=FIRST:END of each regime, from its first step to the one "
                f"after its last, under different names other than {', '.join(_NO_REGIMES)}, such as "
                "hot=0:200,coarsening=200:800,late=800:"
            )
        found[name] = (int(first), int(end) if end else None)
    return found


def add_regimes(parser: argparse.ArgumentParser) -> None:
    """Add the option that tells the states along quenches apart."""
    regimes = "judge states of quenches apart by their steps (default: by their charge order, as hot, coarsening, ordered), "
    regimes += "such as hot=0:200,coarsening=200:800,late=800:"
    parser.add_argument("--regimes", type=regime_steps, metavar="NAME=FIRST:END,...", help=regimes)


def add_physics(parser: argparse.ArgumentParser) -> None:
    """Options that say which system and on which machine."""
    parser.add_argument("--preset", metavar="NAME", help=f"start from a preset: {', '.join(PRESETS)}")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override any key of the file")
    parser.add_argument("--device", help="auto (default), cpu, cuda or cuda:N")
    threads = "threads of each rank (default: OMP_NUM_THREADS, else cores / ranks)"
    parser.add_argument("--threads", type=positive, metavar="N", help=threads)


def add_keys(parser: argparse.ArgumentParser, dynamics: bool = True) -> None:
    """An option for each key of the Hamiltonians, of the ensemble and, if asked for, of the dynamics, under its own name.

    A key whose option is taken, or that two sections share, has the name of its section before it.
    """
    group = parser.add_argument_group("the physics, in place of the preset and the file")
    for section, name, field in _keys_of_physics(dynamics):
        option = f"--{section if name == 'kind' else name.replace('_', '-')}"
        if option in parser._option_string_actions:
            option = f"--{section}-{name.replace('_', '-')}"
        group.add_argument(
            option, dest=f"{section}.{name}", type=value, metavar="X", help=(field.description or "").replace("%", "%%")
        )


def _keys_of_physics(dynamics: bool) -> Iterable[tuple[str, str, FieldInfo]]:
    """Section, name and what is said of each key."""
    from hpc_holstein.config.kinds import KindSection, loadable
    from hpc_holstein.config.sections import DynamicsSection, EnsembleSection

    several: list[type[KindSection]] = loadable("hamiltonian")
    known: dict[str, FieldInfo] = {}
    for one in several:
        known = {**one.model_fields, **known}
    yield from (("hamiltonian", name, field) for name, field in known.items())
    yield from (("ensemble", name, field) for name, field in EnsembleSection.model_fields.items())
    if dynamics:
        yield from (("dynamics", name, DynamicsSection.model_fields[name]) for name in _OF_DYNAMICS)


def add_config(parser: argparse.ArgumentParser, published: bool = False) -> None:
    """An optional configuration file; ``published``: without one, and without a preset, the published setting is meant."""
    parser.add_argument("config", nargs="?", type=path, metavar="CONFIG.toml", help="configuration file")
    parser.set_defaults(published=published)


def add_lattice(parser: argparse.ArgumentParser) -> None:
    """Size of the lattice."""
    parser.add_argument("--lattice", type=cells, metavar="CELLS", help="cells along each axis, such as 64, 200x200 or 8x8x8")


def default_preset(args: argparse.Namespace) -> str | None:
    """The preset of the command line; without one and without a configuration file, the published setting."""
    return args.preset or (None if args.config is not None else next(iter(PRESETS)))


def site_axes(args: argparse.Namespace, given: dict[str, Any]) -> SiteAxes:
    """The axes of fields on the lattice of a configuration whose extent a file of states gives; ``given``: the overrides."""
    from hpc_holstein.config import kinds
    from hpc_holstein.config.loading import merged

    section = merged(args.config, default_preset(args), given).get("lattice")
    kind = section.get("kind", "square") if isinstance(section, dict) else "square"
    return kinds.site_axes(kind if isinstance(kind, str) else "square")  # what is no text is refused with the configuration


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """Full key -> value of everything given on the command line.

    Of several ``--set`` of one key the last one counts.  Raises ConfigError if it and an option give different values.
    """
    from hpc_holstein.config.loading import parse_assignment

    given = {key: getattr(args, name, None) for name, key in _DIRECT.items()}
    given |= {name: number for name, number in vars(args).items() if "." in name}
    given = {key: number for key, number in given.items() if number is not None}
    assigned = dict(parse_assignment(text) for text in args.set)
    for key, number in assigned.items():
        if key in given and given[key] != number:
            raise ConfigError(f"{key} is given twice, as {given[key]!r} and as {number!r} by --set: leave one of the two out")
    return given | assigned


def require_no_keys(args: argparse.Namespace, section: str, why: str) -> None:
    """Raise ConfigError if an option of :func:`add_keys` is given for a section that means nothing, in words: ``why``."""
    for name, number in vars(args).items():
        if name.startswith(f"{section}.") and number is not None:
            raise ConfigError(f"--{name.partition('.')[2].replace('_', '-')} has no meaning {why}")


def force_overrides(section: str) -> dict[str, Any]:
    """``KIND``, or the path of a model file or ``default``, which is kind ``neural`` with that ``model``."""
    if section.endswith(".safetensors") or section == "default":
        return {"force.kind": "neural", "force.model": section}
    return {"force.kind": section}


def check_early(args: argparse.Namespace) -> None:
    """Raise ConfigError for a configuration that is wrong whatever else a command finds, before what computes is loaded."""
    if not hasattr(args, "set") or getattr(args, "run", None) is not None or getattr(args, "what", "") == "report":
        return
    from hpc_holstein.config.loading import merged, validated

    files = [file for file in getattr(args, "files", []) if file.suffix == ".toml"]
    config = getattr(args, "config", None) or (files[0] if files else None)
    published = getattr(args, "published", True) and config is None
    preset = args.preset or (next(iter(PRESETS)) if published else None)
    force = force_overrides(args.force) if getattr(args, "force", None) else {}
    validated(merged(config, preset, {**force, **overrides(args)}), partial=True)


def require_one_run(config: Config, command: str, instead: str) -> None:
    """Raise ConfigError where ``[parallel]`` asks a command for replicas that knows none; ``instead``: what to give."""
    if config.parallel.replicas > 1:
        raise ConfigError(
            f"parallel.replicas = {config.parallel.replicas} has no meaning for {command}: set it to 1{instead}, or use `run`"
        )


def providers() -> str:
    """Everyone who can be asked for forces, as help texts list them."""
    return ", ".join([*available("force"), "default or another model file *.safetensors"])
