"""Choices that are files: ``kind = "exact"`` is ``forces/exact.py``, and its ``Options`` are the other keys of the section."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from functools import cache
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_type_hints

from pydantic import Discriminator, Tag, create_model

from hpc_holstein.config.sections import Section
from hpc_holstein.errors import ConfigError
from hpc_holstein.keys import key

FOLDERS = {
    "lattice": "hpc_holstein.lattice",
    "hamiltonian": "hpc_holstein.hamiltonian",
    "force": "hpc_holstein.forces",
    "model": "hpc_holstein.network.models",
}
"""Section -> folder whose public files are its kinds."""


SectionModel = TypeVar("SectionModel", bound="OptionsSection")


class OptionsSection(Section):
    """A section whose keys are the fields of an ``Options`` dataclass, ``made_of``."""

    made_of: ClassVar[type]

    @property
    def option_values(self) -> dict[str, Any]:
        """The keys that are given, besides ``kind``."""
        return {name: getattr(self, name) for name in self.option_names() if name in self.model_fields_set}

    @property
    def options(self) -> Any:
        """The instance of ``made_of``, defaults filled in."""
        return self.made_of(**self.option_values)

    @classmethod
    def option_names(cls) -> list[str]:
        """Keys besides ``kind``."""
        return [name for name in cls.model_fields if name != "kind"]


class KindSection(OptionsSection):
    """A section whose ``kind`` names a file and whose other keys are the ``Options`` of that file."""

    kind: str


def available(section: str) -> list[str]:
    """Public files of the folder of ``[section]``: exactly the kinds that a user can choose."""
    folder = importlib.import_module(FOLDERS[section])
    return sorted(module.name for module in pkgutil.iter_modules(folder.__path__) if not module.name.startswith("_"))


def require_choice(name: str, value: str, choices: Iterable[str]) -> str:
    """``value`` if it is one of ``choices``; else a ConfigError that names the nearest one and the list."""
    choices = list(choices)
    if value in choices:
        return value
    near = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise ConfigError(f"{name} = '{value}' is not known: {hint}choose from {', '.join(choices)}")


def resolve(section: str, kind: str) -> ModuleType:
    """The file of a kind; ConfigError for one that is not there, or cannot be loaded."""
    require_choice(f"{section}.kind", kind, available(section))
    try:
        return importlib.import_module(f"{FOLDERS[section]}.{kind}")
    except ImportError as error:
        raise ConfigError(f"{section}.kind = '{kind}' cannot be loaded: {error}") from None


@cache
def section_of(section: str, kind: str) -> type[KindSection]:
    """The model of ``[section]`` with that kind."""
    options = resolve(section, kind).Options
    own = {"kind": (Annotated[Literal[kind], key(f"of {section}")], kind)}
    return modelled(f"{kind} ({section})", options, KindSection, own)


def modelled(
    name: str, options: type, base: type[SectionModel], own: Mapping[str, Any] | None = None, without: Iterable[str] = ()
) -> type[SectionModel]:
    """A section whose keys are those of ``own`` and the fields of the dataclass ``options``, but for some."""
    hints = get_type_hints(options, include_extras=True)
    keys = {field.name: (hints[field.name], field.default) for field in fields(options) if field.name not in without}
    made = create_model(name, __base__=base, __doc__=options.__doc__, **{**(own or {}), **keys})
    made.made_of = options
    return made


def new_section(section: str, kind: str, **values: Any) -> KindSection:
    """``[section]`` with a kind and some of its options, checked."""
    return section_of(section, kind)(kind=kind, **values)


def union_of(section: str, default: str | None = None) -> Any:
    """The union of all kinds of ``[section]``, told apart by ``kind``, which is ``default`` where none is given.

    Kinds whose file cannot be loaded are no part of it; choosing one is told by :func:`resolve`.
    """

    def tag(value: Any) -> str | None:
        given = value.get("kind", default) if isinstance(value, dict) else getattr(value, "kind", None)
        return None if given is None else str(given)

    loadable = []
    for kind in available(section):
        with suppress(ConfigError):
            loadable.append(Annotated[section_of(section, kind), Tag(kind)])
    if len(loadable) == 1:
        return loadable[0]
    return Annotated[Union[tuple(loadable)], Discriminator(tag)]  # noqa: UP007 - of a tuple
