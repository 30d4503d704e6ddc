"""One sentence for each way a configuration can be wrong: key, value, what is expected, nearest valid key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a string in quotes",
    "bool_type": "true or false",
    "tuple_type": "a list such as [40, 40] or ['a', 'b']",
    "list_type": "a list such as [40, 40] or ['a', 'b']",
    "model_type": "a section with keys",
    "model_attributes_type": "a section with keys",
    "dataclass_type": "a section with keys",
    "dict_type": "a section with keys",
    "string_pattern_mismatch": "auto, cpu, cuda or cuda:N",  # the device is the only string with a pattern
}
_BOUNDS = {
    "greater_than": ("gt", "a number greater than"),
    "greater_than_equal": ("ge", "a number of at least"),
    "less_than": ("lt", "a number less than"),
    "less_than_equal": ("le", "a number of at most"),
}


def unknown_key(key: str, valid: Iterable[str]) -> str:
    """``unknown key 'dynamics.step': did you mean 'dynamics.steps'?``, and the valid keys of its section."""
    valid = list(valid)
    near = _nearest(key, valid)
    section = key.rpartition(".")[0]
    siblings = [name.rpartition(".")[2] for name in valid if name.rpartition(".")[0] == section]
    question = f"did you mean '{near}'? " if near else ""
    place = f"keys of [{section}]" if section else "sections and keys at the top"
    return (
        f"unknown key '{key}': {question}{'Valid' if question else 'valid'} {place}: {', '.join(siblings)}"
        if siblings
        else f"unknown key '{key}'"
    )


def sentence(error: ValidationError, prefix: tuple[str, ...] = (), valid: Iterable[str] = ()) -> str:
    """The first complaint of pydantic as a sentence of ours; ``prefix`` is the section that was parsed."""
    first = error.errors(include_url=False)[0]
    key = ".".join(prefix) + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"])
    key = key.lstrip(".")
    if first["type"] == "extra_forbidden":
        return unknown_key(key, valid)
    if first["type"] == "missing":
        return f"{key} is missing: give it in the configuration, or start from a preset with --preset"
    if first["type"] == "value_error":
        return f"{key + ': ' if key else ''}{first['ctx']['error']}"
    return f"{key} = {_shown(first['input'])} is not valid: expected {_expected(dict(first))}"


def _expected(first: dict[str, Any]) -> str:
    kind, context = first["type"], first.get("ctx", {})
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{words} {context[name]:g}"
    if kind == "literal_error":
        return f"one of {context['expected']}"
    return _EXPECTED.get(kind, first["msg"].removeprefix("Input should be ").removeprefix("Value error, "))


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _nearest(key: str, valid: list[str]) -> str | None:
    """Nearest key of the section, else by the full name, else by the last part alone (a key put into the wrong section)."""
    section, _, given = key.rpartition(".")
    places = [name.rpartition(".") for name in valid]
    siblings = [last for place, _, last in places if place == section]
    near = difflib.get_close_matches(given, siblings, n=1, cutoff=0.6)
    if near:
        return f"{section}.{near[0]}".lstrip(".")
    strangers = [name for name, (place, _, _) in zip(valid, places, strict=True) if place not in (section, "")]
    full = difflib.get_close_matches(key, strangers, n=1, cutoff=0.75)
    if full:
        return full[0]
    last = {name.rpartition(".")[2]: name for name in reversed(valid)}
    near = difflib.get_close_matches(given, list(last), n=1, cutoff=0.6)
    return last[near[0]] if near else None
