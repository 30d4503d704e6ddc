"""Choices that are files: ``kind = "exact"`` is ``forces/exact.py``, and its ``Options`` are the other keys of the section."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from functools import cache
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_type_hints

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, create_model
from pydantic_core import PydanticCustomError, core_schema

from hpc_holstein.config.folders import FOLDERS, available, require_choice
from hpc_holstein.config.sections import Section
from hpc_holstein.errors import ConfigError
from hpc_holstein.fields import CELL_AXES, SiteAxes
from hpc_holstein.keys import key

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
    keys = {
        field.name: hints[field.name] if field.default is MISSING else (hints[field.name], field.default)
        for field in fields(options)
        if field.name not in without
    }
    made = create_model(name, __base__=base, __doc__=options.__doc__, **{**(own or {}), **keys})
    made.made_of = options
    return made


def new_section(section: str, kind: str, **values: Any) -> KindSection:
    """``[section]`` with a kind and some of its options, checked."""
    return section_of(section, kind)(kind=kind, **values)


def site_axes(kind: str) -> SiteAxes:
    """The axes of fields on a lattice of this kind."""
    module = resolve("lattice", kind)
    for dimension in range(1, len(CELL_AXES) + 1):
        with suppress(ConfigError):
            return SiteAxes.of(module.build((1,) * dimension, (True,) * dimension))
    raise ConfigError(f"lattice.kind = '{kind}' has more than {len(CELL_AXES)} dimensions: choose another one")


def loadable(section: str) -> list[type[KindSection]]:
    """The models of all kinds of ``[section]`` whose file can be loaded; choosing another one is told by :func:`resolve`."""
    found = []
    for kind in available(section):
        with suppress(ConfigError):
            found.append(section_of(section, kind))
    return found


@dataclass(frozen=True)
class Chosen:
    """Annotation of ``[section]``: the model of its ``kind``, ``usual`` where none is given.

    No other kind is loaded, which would take longer than all the rest of a configuration.
    """

    section: str
    usual: str | None = None

    def _parsed(self, table: Any) -> KindSection:
        kind = table.get("kind", self.usual) if isinstance(table, dict) else None
        if kind is None:  # complained about as of any section
            return KindSection.model_validate_json(json.dumps({} if isinstance(table, dict) else table), strict=True)
        try:
            require_choice("kind", str(kind), available(self.section))
        except ConfigError as error:  # pydantic knows the place of a table among several
            raise PydanticCustomError("unknown_kind", "{reason}", {"reason": str(error)}) from None
        return section_of(self.section, str(kind)).model_validate_json(json.dumps(table), strict=True)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._parsed)

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Any of the kinds: without its ``kind``, a section may be of several."""
        from pydantic import TypeAdapter  # here: it takes long to load, and only the schema for editors needs it

        return handler(core_schema.union_schema([TypeAdapter(one).core_schema for one in loadable(self.section)]))
