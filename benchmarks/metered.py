"""Run a command and write the CPU seconds of it and of all it started: `python metered.py FILE COMMAND…` (Linux).

Whatever the command leaves behind becomes a child of this process and is waited for, so that nothing is missed.
"""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

#: prctl(2): orphans among the descendants come here, not to process 1
PR_SET_CHILD_SUBREAPER = 36


def main(into: str, *command: str) -> int:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    code = subprocess.run(command, check=False).returncode
    with suppress(ChildProcessError):
        while True:
            os.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    Path(into).write_text(str(used.ru_utime + used.ru_stime), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
