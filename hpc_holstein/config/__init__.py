"""Configuration: TOML checked against a schema, presets, and the objects that it describes."""
