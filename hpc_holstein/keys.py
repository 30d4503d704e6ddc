"""A key of the configuration: what it means, which values it takes, and by which other names people look for it."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from pydantic.fields import FieldInfo

_OTHER_NAMES = "other_names"


def key(meaning: str, *other_names: str, **limits: Any) -> Any:
    """The annotation of a key, as in ``dt: Annotated[float, key("time step [hbar/t_nn]", "timestep", gt=0)]``.

    ``meaning`` is what the reference, help texts, and editors that know the JSON schema show, with the unit; ``limits`` as of
    ``pydantic.Field``.  An unknown key of one of the ``other_names`` is answered with this one.
    """
    return Field(description=meaning, json_schema_extra={_OTHER_NAMES: [*other_names]} if other_names else None, **limits)


def other_names(field: FieldInfo) -> list[str]:
    """The other names of a key."""
    extra = field.json_schema_extra
    names = extra.get(_OTHER_NAMES, []) if isinstance(extra, dict) else []
    return [str(name) for name in names] if isinstance(names, list) else []
