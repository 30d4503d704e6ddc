"""Configuration: TOML checked against a schema, presets, and the objects that it describes."""

from hpc_holstein.config.loading import config_of_text, fit_options, load_config, parse_assignment
from hpc_holstein.config.presets import PRESETS, TRAINING_EXTENT
from hpc_holstein.config.schema import Config

__all__ = ["PRESETS", "TRAINING_EXTENT", "Config", "config_of_text", "fit_options", "load_config", "parse_assignment"]
