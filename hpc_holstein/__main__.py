"""``python -m hpc_holstein`` is ``hpc-holstein``."""

import sys

_INTERRUPTED = 130


def main() -> int:
    """The command line; Ctrl-C while it is still importing, which takes seconds, leaves no traceback either."""
    try:
        from hpc_holstein.cli import main as execute

        return execute()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
