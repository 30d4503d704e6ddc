"""Write the reference pages that follow from the code: every configuration key, every command."""

from __future__ import annotations

import argparse
import importlib
import inspect
import io
from contextlib import redirect_stdout
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from hpc_holstein.cli import parser as command_parser
from hpc_holstein.config import PRESETS, kinds
from hpc_holstein.config.presets import preset
from hpc_holstein.config.schema import Config, KindSection
from hpc_holstein.training.fit_options import FitOptions

_FOLDERS = {"force": "forces", "hamiltonian": "hamiltonian", "model": "network.models"}


def write(folder: Path) -> None:
    """Write ``configuration.md`` and ``commands.md`` into ``folder``."""
    folder.mkdir(exist_ok=True)
    (folder / "configuration.md").write_text(configuration())
    (folder / "commands.md").write_text(commands())


def configuration() -> str:
    """Every section and key with its type, default and meaning."""
    parts = [
        "# Configuration reference\n",
        "A configuration is a TOML file. `--set section.key=value` overrides any key, an unknown key is an error that names "
        "the nearest valid one. Written from the code that checks it.\n",
    ]
    for name, field in Config.model_fields.items():
        section: Any = field.annotation
        if name in _FOLDERS:
            parts += _kind_section(name)
        elif name == "training":
            parts += [f"## [{name}]\n", _options_text(FitOptions)]
        elif inspect.isclass(section) and issubclass(section, BaseModel) and not issubclass(section, KindSection):
            parts += [f"## [{name}]\n", f"```text\n{inspect.getdoc(section)}\n```\n", _table(_model_rows(section))]
    parts.append("## Presets\n")
    for name in PRESETS:
        lines = "\n\n".join(
            f"[{section}]\n" + "\n".join(f"{key} = {_toml(value)}" for key, value in values.items())
            for section, values in preset(name).items()
        )
        parts.append(f"`{name}`:\n\n```toml\n{lines}\n```\n")
    return "\n".join(parts)


def commands() -> str:
    """The help of every command."""
    parser = command_parser()
    parts = [
        "# Command reference\n",
        "What `--help` prints.\n",
        f"```text\n{_help(parser)}\n```\n",
        *_subcommands(parser, "## "),
    ]
    return "\n".join(parts)


def _subcommands(parser: argparse.ArgumentParser, heading: str) -> list[str]:
    parts = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                parts += [
                    f"{heading}{name}\n",
                    f"```text\n{_help(command)}\n```\n",
                    *_subcommands(command, f"#{heading}{name} "),
                ]
    return parts


def _help(parser: argparse.ArgumentParser) -> str:
    text = io.StringIO()
    with redirect_stdout(text):
        parser.print_help()
    return text.getvalue().rstrip()


def _kind_section(name: str) -> list[str]:
    package = f"hpc_holstein.{_FOLDERS[name]}"
    found = kinds.available(package)
    parts = [f"## [{name}]\n", f"`kind`: {', '.join(f'`{kind}`' for kind in found)}. The other keys belong to the kind:\n"]
    for kind in found:
        module = importlib.import_module(f"{package}.{kind}")
        sentence = (inspect.getdoc(module) or "").split("\n\n")[0].replace("\n", " ")
        parts += [f'### {name}.kind = "{kind}"\n', f"{sentence}\n", _options_text(module.Options)]
    return parts


def _options_text(options: type) -> str:
    rows = [
        (field.name, _type(get_type_hints(options)[field.name]), "" if field.default is MISSING else _toml(field.default))
        for field in fields(options)
    ]
    if not rows:
        return "No other keys.\n"
    return f"```text\n{inspect.getdoc(options)}\n```\n\n{_table(rows)}"


def _model_rows(section: type[BaseModel]) -> list[tuple[str, str, str]]:
    return [
        (name, _type(field.annotation), "required" if field.is_required() else _toml(field.default))
        for name, field in section.model_fields.items()
    ]


def _type(annotation: Any) -> str:
    """An annotation as TOML users read it, without the bounds that pydantic checks."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return " or ".join(_toml(choice) for choice in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_type(one) for one in arguments if one is not NoneType)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation)


def _table(rows: list[tuple[str, str, str]]) -> str:
    lines = ["| key | type | default |", "|---|---|---|"]
    lines += [f"| `{name}` | `{kind}` | {f'`{default}`' if default else ''} |" for name, kind, default in rows]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return "absent" if value is None else str(value)
