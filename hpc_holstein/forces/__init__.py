"""Force providers: every public file is one kind, resolved by name, with ``Options`` and ``build``."""
