"""Lines of batch scripts: words of users stand in them as Bash or Slurm reads them back, and none makes a line of its own."""

from __future__ import annotations

import shlex
import unicodedata
from pathlib import Path

from hpc_holstein.errors import ConfigError

_CONTROLS = frozenset({"Cc", "Cs", "Zl", "Zp"})  # C0 and C1, bytes that are not UTF-8, separators of lines and paragraphs
_BIDI = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})  # show a line in another order than it has
TAB = "\t"
"""Characters that lines of the user's own shell code may hold besides printable text."""


def printable(text: str, allowed: str = "") -> str:
    """``text``; ConfigError if it holds a control character, those of ``allowed`` apart."""
    for character in text:
        control = unicodedata.category(character) in _CONTROLS or unicodedata.bidirectional(character) in _BIDI
        if control and character not in allowed:
            raise ConfigError(
                f"{text!r} holds the control character {character!r}, and a batch script takes printable text in one line: "
                "remove it"
            )
    return text


def command(*words: object) -> str:
    """A command of Bash with these words; a path that begins with a dash is not taken for an option."""
    return shlex.join(printable(_no_option(word)) for word in words)


def directive(*words: str) -> str:
    """A line ``#SBATCH``: Slurm takes double quotes and backslashes, and expands nothing."""
    return f"#SBATCH {' '.join(_quoted_for_slurm(printable(word)) for word in words)}"


def comment(text: str) -> str:
    """A line that says something to people."""
    return f"# {printable(text)}"


def log_pattern(log: Path, job: str) -> str:
    """The file name ``LOG-JOB.out`` for ``sbatch --output``, absolute; ``job`` with the patterns of Slurm, ``log`` without.

    Slurm expands patterns in the working folder, too, and none at all in a path with a backslash: ConfigError for such a one.
    """
    path = str(log.absolute())
    if "\\" in path:
        raise ConfigError(f"{path} holds a backslash, with which Slurm writes no output file: choose a folder without one")
    return f"{path.replace('%', '%%')}-{job}.out"


def sbatch_words(option: str) -> list[str]:
    """The words of a further option of sbatch, quotes removed; ConfigError if it is none."""
    try:
        words = shlex.split(printable(option))
    except ValueError as error:
        raise ConfigError(f"{option!r} is not an option of sbatch ({error}): close its quotes") from None
    if not words or not words[0].startswith("-"):
        raise ConfigError(
            f"{option!r} is not an option of sbatch: write it as on its command line, such as '--constraint=rome'"
        )
    return words


def _no_option(word: object) -> str:
    return f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)


def _quoted_for_slurm(word: str) -> str:
    if shlex.quote(word) == word:
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
