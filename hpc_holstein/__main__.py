"""``python -m hpc_holstein`` is ``hpc-holstein``."""

import sys

from hpc_holstein.cli import main

if __name__ == "__main__":
    sys.exit(main())
