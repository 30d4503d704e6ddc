"""One sentence for each way a configuration can be wrong: key, value, what is expected, nearest valid key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from hpc_holstein.errors import LONGEST, shortened
from hpc_holstein.keys import other_names

_WORDS = {
    "an object": "a section with keys",
    "a valid array": "a list such as [40, 40]",
    "a valid ": "a ",
    "a integer": "an integer",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
}
_ALIKE, _ALIKE_ELSEWHERE = 0.75, 0.8  # spelling, in the section where it was looked for and in another one


def unknown_key(name: str, valid: Mapping[str, FieldInfo]) -> str:
    """``unknown key 'dynamics.step': did you mean 'dynamics.steps'?``, and the valid keys of its section."""
    near = nearest(name, {key: other_names(field) for key, field in valid.items()})
    section = name.rpartition(".")[0]
    siblings = [key.rpartition(".")[2] for key in valid if key.rpartition(".")[0] == section]
    question = f"did you mean '{near}'? " if near else ""
    place = f"keys of [{section}]" if section else "sections and keys at the top"
    return (
        f"unknown key '{shortened(name)}': {question}{'Valid' if question else 'valid'} {place}: {', '.join(siblings)}"
        if siblings
        else f"unknown key '{shortened(name)}'{': ' + question.rstrip() if question else ''}"
    )


def nearest(name: str, valid: Mapping[str, Sequence[str]]) -> str | None:
    """The valid name that is meant by ``name``: by its meaning (other names), else by spelling; its own section comes first.

    ``valid``: full name -> its other names.
    """
    section, _, given = name.rpartition(".")
    places = {key: key.rpartition(".") for key in valid}
    own = [key for key, (place, _, _) in places.items() if place == section]
    order = [*own, *(key for key in valid if key not in own)]  # a stable one: the first that fits is taken
    for form in (str, _bare):
        for candidates in (own, order):
            by_meaning = (key for key in candidates if form(given) in map(form, valid[key]))
            by_name = (key for key in candidates if form(given) == form(places[key][2]) and key != name)
            found = next(chain(by_meaning, by_name), None)
            if found is not None:
                return found
    spelled = [(own, _ALIKE), ([key for key in order if key not in own], _ALIKE_ELSEWHERE)]
    for candidates, cutoff in spelled:
        words = {word: key for key in reversed(candidates) for word in (*valid[key], places[key][2]) if len(word) > 1}
        near = difflib.get_close_matches(given, list(words), n=1, cutoff=cutoff) if len(given) > 2 else []
        if near:
            return words[near[0]]
    return None


def _bare(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def complaints(error: ValidationError, partial: bool = False) -> list[ErrorDetails]:
    """Complaints of pydantic, but for defaults that follow from wrong or missing keys, and for these if more are to come."""
    left_out = {"default_factory_not_called", *(("missing",) if partial else ())}
    return [one for one in error.errors(include_url=False) if one["type"] not in left_out]


def sentence(first: ErrorDetails, valid: Mapping[str, FieldInfo], prefix: str = "") -> str:
    """A complaint of pydantic as a sentence about a key; ``prefix``: the section that was parsed."""
    place, kind = list(first["loc"]), first["type"]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in [prefix, *place] if part != "").lstrip(".")
    if kind == "extra_forbidden":
        return unknown_key(re.sub(r"\[\d+\]", "", name), valid)
    if kind == "missing":
        return f"{name} is missing: give it in the configuration, or start from a preset with --preset"
    if kind == "unknown_kind":
        return f"{name}.{first['ctx']['reason']}"
    if kind == "value_error":
        return f"{name + ': ' if name else ''}{first['ctx']['error']}"
    if kind == "literal_error" and isinstance(first["input"], str):
        return f"{name} = {shown(first['input'])} is not known: {_like(first['input'], first['ctx']['expected'])}"
    return f"{name} = {shown(first['input'])} is not valid: {_said(first['msg'])}"


def _like(given: str, expected: str) -> str:
    """The nearest of the choices, and all of them as pydantic lists them."""
    near = difflib.get_close_matches(given, expected.replace(" or ", ", ").replace("'", "").split(", "), n=1, cutoff=0.5)
    return (f"did you mean '{near[0]}'? " if near else "") + f"choose from {expected}"


def _said(message: str) -> str:
    """Expectation of pydantic, in the words of TOML and in the middle of a sentence."""
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    if message.startswith("Input should be "):
        return f"it should be {message.removeprefix('Input should be ')}"
    return message[:1].lower() + message[1:]


def shown(value: Any) -> str:
    """A value as in TOML, shortened."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > 4 * LONGEST:
        return f"a number of {value.bit_length()} bits"
    return shortened(repr(value))
