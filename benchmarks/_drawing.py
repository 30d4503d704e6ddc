"""What the scripts share that measure a record and draw it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

STYLE: Any = {"font.size": 9, "axes.grid": True, "grid.color": "0.9", "axes.axisbelow": True, "legend.frameon": False}
"""Of matplotlib."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """Options ``record``, ``figure`` and ``--plot``."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("record", type=Path, help="JSON record to write")
    made.add_argument("figure", type=Path, help="figure to write")
    made.add_argument("--plot", action="store_true", help="draw the record that is there already, measure nothing")
    return made


def asked(made: argparse.ArgumentParser) -> argparse.Namespace:
    """The options of the command line; ends the script where a record would be overwritten."""
    arguments = made.parse_args()
    if arguments.record.exists() and not arguments.plot:
        made.error(f"{arguments.record} exists: remove it or choose another file")
    return arguments
