"""``python -m hpc_holstein`` is ``hpc-holstein``."""

import os
import sys

from hpc_holstein.stop_signals import ignore_all, note_all

_INTERRUPTED = 130


def main() -> int:
    """The command line; signals count from here, while it is still importing, which takes seconds, to the end."""
    note_all()
    _open_streams()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # it looks for them in every installed package
    try:
        from hpc_holstein.cli import main as execute

        return execute()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    finally:
        ignore_all()
        _close_streams()


def _open_streams() -> None:
    """Let output go nowhere if it is closed, so that no file takes its place, and every name be printed in any encoding."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open until the process ends
        elif hasattr(stream, "reconfigure"):  # what a test puts there may not have it
            stream.reconfigure(errors="backslashreplace")


def _close_streams() -> None:
    """Let a reader that has left, or a full disk, not turn the end of the work into an error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
