"""Run a command that ends when another process does: `python -m infra.engines.follow PID COMMAND…`.

PID is the process that started this one; no command can outlive it, however it ends.
"""

from __future__ import annotations

import os
import subprocess
import sys

from infra.engines.boot import end_with_parent


def main() -> None:
    """Run the command and exit with its status."""
    parent = int(sys.argv[1])
    process = subprocess.Popen(sys.argv[2:])

    def end() -> None:
        process.kill()
        os._exit(1)

    end_with_parent(parent, end)
    sys.exit(process.wait())


if __name__ == "__main__":
    main()
