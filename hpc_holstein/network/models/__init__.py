"""Architectures: every public file is one, resolved by name, with ``Options`` and ``build``."""
