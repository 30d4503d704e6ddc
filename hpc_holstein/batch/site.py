"""Settings of a cluster, one TOML file of the user: ``$HPC_HOLSTEIN_SITE`` or ``~/.config/hpc_holstein/site.toml``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from hpc_holstein.batch.lines import TAB, printable, sbatch_words
from hpc_holstein.config.loading import read_toml
from hpc_holstein.config.messages import complaints, sentence
from hpc_holstein.errors import ConfigError

VARIABLE = "HPC_HOLSTEIN_SITE"
_GPU, _OPTIONS = "gpu", "sbatch"


def _one_line(text: str) -> str:
    """A line of shell code, or a word."""
    if not text.strip():
        raise ValueError(f"{text!r} is not one line of text: give a value, or leave it out")
    return printable(text, TAB)


def _word(text: str) -> str:
    return printable(_one_line(text))


def _option(text: str) -> str:
    sbatch_words(text)
    return text


Word = Annotated[str, AfterValidator(_word)]
Line = Annotated[str, AfterValidator(_one_line)]
Option = Annotated[str, AfterValidator(_option)]


class Site(BaseModel):
    """Keys of the file; in jobs with GPUs those of its section ``[gpu]`` replace them, but for ``sbatch``, which they add to.

    partition, account   of ``sbatch``; absent: the default of the cluster
    modules              loaded in this order
    environment          folder of a virtual or conda environment, whose ``bin`` goes on the PATH; absent: that of ``submit``
    setup                shell lines that are run after the modules
    launcher             what starts the ranks
    sbatch               further options of ``sbatch``, such as ``--constraint=rome``
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    partition: Word | None = None
    account: Word | None = None
    modules: tuple[Word, ...] = ()
    environment: Word | None = None
    setup: tuple[Line, ...] = ()
    launcher: Line = 'mpirun -n "$SLURM_NTASKS"'
    sbatch: tuple[Option, ...] = ()

    @property
    def programs(self) -> Path:
        """Folder of ``hpc-holstein`` and, with the extra ``mpi``, of ``mpirun``."""
        return Path(os.path.expanduser(self.environment)) / "bin" if self.environment else Path(sys.executable).parent

    @property
    def by_srun(self) -> bool:
        """True if Slurm itself starts the ranks, and so can give each its GPU."""
        return self.launcher.split()[0] == "srun"


def site_path() -> Path:
    """Path at which the file of the user is looked for."""
    given = os.environ.get(VARIABLE) or "~/.config/hpc_holstein/site.toml"
    return Path(os.path.expanduser(given))  # leaves a user who is not there as written


def load_site(gpus: bool) -> Site:
    """The site for jobs with or without GPUs; without a file, the defaults.

    Raises ConfigError for a file that is named and not there, that is not TOML, or that holds an unknown key.
    """
    path = site_path()
    if VARIABLE not in os.environ and not path.exists():
        return Site()
    table = read_toml(path)
    special = table.pop(_GPU, {})
    if not isinstance(special, dict):
        raise ConfigError(f"gpu in {path} is not a section: write [gpu] and the keys that differ for jobs with GPUs below it")
    plain, with_gpus = _checked(table, "", path), _checked(table | special, _GPU, path)
    if _OPTIONS in special:
        with_gpus = with_gpus.model_copy(update={_OPTIONS: (*plain.sbatch, *with_gpus.sbatch)})  # of two, Slurm takes the last
    return with_gpus if gpus else plain


def _checked(table: Mapping[str, Any], section: str, path: Path) -> Site:
    valid = {f"{section}.{name}".lstrip("."): field for name, field in Site.model_fields.items()}
    try:
        return Site.model_validate_json(json.dumps(dict(table), default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(f"{path}: {sentence(complaints(error)[0], valid, section)}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
