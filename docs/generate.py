"""Write the reference pages that follow from the code: every configuration key, every command."""

from __future__ import annotations

import argparse
import inspect
import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tomli_w
from pydantic import BaseModel

from hpc_holstein.cli import parser as command_parser
from hpc_holstein.config import PRESETS, kinds
from hpc_holstein.config.presets import preset
from hpc_holstein.config.schema import Config


def write(folder: Path) -> None:
    """Write ``configuration.md`` and ``commands.md`` into ``folder``."""
    folder.mkdir(exist_ok=True)
    (folder / "configuration.md").write_text(configuration())
    (folder / "commands.md").write_text(commands())


def configuration() -> str:
    """Every section and key with its type, default and meaning."""
    parts = [
        "# Configuration reference\n",
        "A configuration is a TOML file. `--set section.key=value` overrides any key, and the keys of the physics have options "
        "of their own, such as `--kT`. An unknown key is an error that names the nearest valid one. Written from the code that "
        "checks it, as is the JSON schema from which editors complete keys and show their meaning:\n",
        "```console\n$ hpc-holstein show --schema > hpc-holstein.schema.json\n```\n",
        "An editor that knows such schemas (Even Better TOML in VS Code, `taplo`) takes it for files that begin with\n",
        "```toml\n#:schema ./hpc-holstein.schema.json\n```\n",
    ]
    for name, field in Config.model_fields.items():
        section: Any = field.annotation
        if name in kinds.FOLDERS and name != "lattice":
            parts += _kind_section(name, several=get_origin(section) is tuple)
        elif inspect.isclass(section) and issubclass(section, BaseModel):
            parts += [f"## [{name}]\n", f"{_escaped(inspect.getdoc(section) or '')}\n", _table(section)]
    parts.append("## Presets\n")
    parts += [f"`{name}`:\n\n```toml\n{tomli_w.dumps(preset(name))}```\n" for name in PRESETS]
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


def _kind_section(name: str, several: bool) -> list[str]:
    """Keys of each kind of a section; ``several``: it may be given more than once."""
    found, title = kinds.available(name), f"[[{name}]]" if several else f"[{name}]"
    parts = [f"## {title}\n", f"`kind`: {', '.join(f'`{kind}`' for kind in found)}. The other keys belong to the kind:\n"]
    for kind in found:
        sentence = (inspect.getdoc(kinds.resolve(name, kind)) or "").split("\n\n")[0].replace("\n", " ")
        parts += [f'### {name}.kind = "{kind}"\n', f"{sentence}\n", _table(kinds.section_of(name, kind), without=("kind",))]
    return parts


def _table(section: type[BaseModel], without: tuple[str, ...] = ()) -> str:
    rows = [(name, field) for name, field in section.model_fields.items() if name not in without]
    if not rows:
        return "No other keys.\n"
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in rows:
        default = "required" if field.is_required() else _toml(None if field.default_factory else field.default)
        meaning = _escaped(field.description or "").replace("|", "\\|")
        lines.append(f"| `{name}` | {_type(field.annotation)} | `{default}` | {meaning} |")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Text whose brackets and underscores Markdown leaves alone."""
    return text.replace("[", "\\[").replace("]", "\\]").replace("_", "\\_").replace("*", "\\*")


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


def _toml(value: Any) -> str:
    return "absent" if value is None else json.dumps(value)  # what JSON and TOML have in common
