"""The model file that a run keeps in its folder, so that the folder can be moved and the model elsewhere can be gone."""

from __future__ import annotations

from pathlib import Path

from hpc_holstein.config.loading import config_of_text
from hpc_holstein.config.schema import Config
from hpc_holstein.errors import ModelError
from hpc_holstein.files import exists_already, replaced
from hpc_holstein.network.checkpoint import model_hash, model_path

_NAME = "force-model.safetensors"


def with_own_model(config: Config, folder: Path, wanted: str | None = None) -> Config:
    """``config`` with the model in the ``folder`` of its run if ``force.model`` is gone or has not the SHA-256 ``wanted``."""
    own = folder / _NAME
    if config.force.kind != "neural" or not own.is_file():
        return config
    path = model_path(config.force.options.model)
    there = path.is_file() and wanted in (None, model_hash(path))
    if there or wanted not in (None, model_hash(own)):
        return config
    return config_of_text(config.toml(), {"force.model": str(own)})


def keep_model(config: Config, folder: Path) -> None:
    """Copy the model that drives into the ``folder`` of the run; ModelError where another one is there."""
    if config.force.kind != "neural":
        return
    path, own = model_path(config.force.options.model), folder / _NAME
    if own.is_file():
        if model_hash(own) != model_hash(path):
            raise ModelError(exists_already(own))
        return
    content = path.read_bytes()
    with replaced(own, ModelError) as temporary:
        temporary.write_bytes(content)
