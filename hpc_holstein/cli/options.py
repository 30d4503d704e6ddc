"""Command-line options that several commands share, and how they override the configuration."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from hpc_holstein.cli.values import cells, duration, path, positive, regime_steps, value
from hpc_holstein.config.folders import available
from hpc_holstein.config.presets import PRESETS
from hpc_holstein.errors import ConfigError
from hpc_holstein.network.packaged import is_model

if TYPE_CHECKING:  # loaded when a command has such options or they are wrong: --help of the others does without
    from pydantic.fields import FieldInfo

    from hpc_holstein.config import Config
    from hpc_holstein.fields import SiteAxes

_OF_DYNAMICS = ("scheme", "mass", "gamma", "dt")  # steps and seed are options of those commands that have them
_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$|-inf$|-nan$")
_LONG_WORD = re.compile(r"\S{100,}")


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
                options[option.lstrip("-").replace("-", "_")] = (option, names.get(action.dest, []))
        if not given.startswith("-"):
            return ""
        near = nearest(wanted, {name: others for name, (_, others) in options.items()})
        if near is not None:
            return f"did you mean {options[near][0]}?"
        settable = nearest(wanted, names) if "set" in options else None
        return f"did you mean --set {settable}=...?" if settable is not None and "." in settable else ""


def _short(text: str) -> str:
    return text if len(text) < 60 else f"{text[:40]}...{text[-10:]}"


def add_walltime(parser: argparse.ArgumentParser, kept: str) -> None:
    """Add the option for the time that a command may take in all; ``kept``: what it leaves, in words."""
    budget = f"end {kept} and exit code 75 before this time is over (default: before the Slurm job ends)"
    parser.add_argument("--max-walltime", type=duration, metavar="HH:MM:SS", help=budget)


def add_regimes(parser: argparse.ArgumentParser) -> None:
    """Add the option that tells the states along quenches apart."""
    regimes = "judge states of quenches apart by their steps (default: by their charge order, as hot, coarsening, ordered), "
    regimes += "such as hot=0:200,coarsening=200:800,late=800:"
    parser.add_argument("--regimes", type=regime_steps, metavar="NAME=FIRST:END,...", help=regimes)


def add_physics(parser: argparse.ArgumentParser) -> None:
    """Options that say which system and on which machine."""
    parser.add_argument("--preset", metavar="NAME", help=f"start from a preset: {', '.join(PRESETS)}")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override any key of the file")
    parser.add_argument("--device", dest="parallel.device", metavar="DEVICE", help="auto (default), cpu, cuda or cuda:N")
    threads = "threads of each rank (default: OMP_NUM_THREADS, else cores / ranks)"
    parser.add_argument("--threads", dest="parallel.threads", type=positive, metavar="N", help=threads)


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


def add_setting(parser: argparse.ArgumentParser, published: bool = False) -> None:
    """A configuration file and what overrides it; ``published``: without both, the published setting is meant."""
    parser.add_argument("config", nargs="?", type=path, metavar="CONFIG.toml", help="configuration file")
    parser.set_defaults(published=published)
    add_physics(parser)


def add_lattice(parser: argparse.ArgumentParser) -> None:
    """Size of the lattice."""
    size = "cells along each axis, such as 64, 200x200 or 8x8x8"
    parser.add_argument("--lattice", dest="lattice.extent", type=cells, metavar="CELLS", help=size)


def default_preset(args: argparse.Namespace) -> str | None:
    """The preset of the command line; for most commands, without it and without a configuration file, the published one."""
    published = getattr(args, "published", True) and args.config is None
    return args.preset or (next(iter(PRESETS)) if published else None)


def site_axes(args: argparse.Namespace) -> SiteAxes:
    """The axes of fields on the lattice of a configuration whose extent a file of states gives."""
    from hpc_holstein.config import kinds
    from hpc_holstein.config.loading import merged

    section = merged(args.config, default_preset(args), overrides(args)).get("lattice")
    kind = section.get("kind", "square") if isinstance(section, dict) else "square"
    return kinds.site_axes(kind if isinstance(kind, str) else "square")  # what is no text is refused with the configuration


def configuration(args: argparse.Namespace, below: Mapping[str, Any] | None = None) -> Config:
    """The configuration that a command line asks for; the keys of ``below`` stand between the file and its options."""
    from hpc_holstein.config.loading import load_config

    return load_config(args.config, default_preset(args), {**(below or {}), **overrides(args)})


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """Full key -> value of everything given on the command line; options of a key have it for a name.

    Of several ``--set`` of one key the last one counts, and those of the force come after ``--force``.  Raises ConfigError if
    one and an option give different values.
    """
    from hpc_holstein.config.loading import parse_assignment

    force = force_overrides(args.force) if getattr(args, "force", None) else {}
    given = {name: number for name, number in vars(args).items() if "." in name and number is not None}
    assigned = dict(parse_assignment(text) for text in args.set)
    for key, number in assigned.items():
        if key in given and given[key] != number:
            raise ConfigError(f"{key} is given twice, as {given[key]!r} and as {number!r} by --set: leave one of the two out")
    return force | given | assigned


def require_no_dynamics(args: argparse.Namespace, why: str) -> None:
    """Raise ConfigError if an option of :func:`add_keys` is given for dynamics that there are none of, in words: ``why``."""
    for name in _OF_DYNAMICS:
        if getattr(args, f"dynamics.{name}") is not None:
            raise ConfigError(f"--{name} has no meaning {why}")


def force_overrides(section: str) -> dict[str, Any]:
    """``KIND``, or a model (:func:`network.packaged.is_model`), which is kind ``neural`` with that ``model``."""
    if is_model(section):
        return {"force.kind": "neural", "force.model": section}
    return {"force.kind": section}


def check_early(args: argparse.Namespace) -> None:
    """Raise ConfigError for a configuration that is wrong whatever else a command finds, before what computes is loaded."""
    if not hasattr(args, "set") or getattr(args, "run", None) is not None or getattr(args, "what", "") == "report":
        return
    from hpc_holstein.config.loading import merged, validated

    for file in getattr(args, "files", []):
        if file.suffix == ".toml":
            args.config = file
    validated(merged(args.config, default_preset(args), overrides(args)), partial=True)


def require_one_run(config: Config, command: str, instead: str) -> None:
    """Raise ConfigError where ``[parallel]`` asks a command for replicas that knows none; ``instead``: what to give."""
    if config.parallel.replicas > 1:
        raise ConfigError(
            f"parallel.replicas = {config.parallel.replicas} has no meaning for {command}: set it to 1{instead}, or use `run`"
        )


def providers() -> str:
    """Everyone who can be asked for forces, as help texts list them."""
    return ", ".join([*available("force"), "default, a model of `show --list`, or a model file *.safetensors"])
