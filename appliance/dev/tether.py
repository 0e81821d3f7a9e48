# SPDX-License-Identifier: Apache-2.0
"""Become another program that the kernel kills when its parent ends: ``python tether.py PARENT_PID PROGRAM ARG...``.

Run as a file of its own with nothing imported but the standard library, so that it costs a moment only. The
arrangement survives ``exec``. (The usual ``preexec_fn`` would run Python between fork and exec of a program that has
threads, which may deadlock.)
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Arrange, check that the parent has not ended before, and become the program."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("its parent has ended")
    try:
        os.execvp(program[0], program)  # noqa: S606 - becoming that program is what this is for
    except OSError as error:
        sys.exit(f"{program[0]} cannot be started: {error.strerror}")


if __name__ == "__main__":
    main()
