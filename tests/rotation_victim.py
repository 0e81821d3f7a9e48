# SPDX-License-Identifier: Apache-2.0
"""Changes a box's operators in processes that are killed at their N-th step: ``python -m tests.rotation_victim KEYS``.

One line in, ``TCTI FOLDER N``: a fork does the whole change and dies there. One line out: how it ended.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from appliance.keys.tpm.boundary_key import BoundaryKey
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.identity import load_p256
from appliance.keys.tpm.image import ImageSignatures
from appliance.keys.tpm.policy import Operators
from appliance.keys.tpm.provisioning import load_identity
from appliance.keys.tpm.rotation import commit, rotate


def change(tcti: str, folder: Path, step: int, keys: Path) -> None:
    """Rotate and commit; after as many TPM commands and file writes as ``step`` says, die without any cleaning up."""
    left = step

    def die(name: str) -> None:
        nonlocal left
        if name == "flush_context":  # it leaves nothing that a reset or the next start would not
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    operators = Operators(tuple(load_p256((keys / name).read_bytes()) for name in ("a.pem", "c.pem")))
    identity = load_identity(folder)
    assert identity is not None
    images = ImageSignatures.parse((keys / "image.json").read_bytes(), identity.policy.image_key)
    with Device(tcti, hook=die) as device:
        rotate(device, BoundaryKey(device, identity, images, folder), folder, operators, hook=die)
        commit(device, folder, images, die)


def main(keys: str) -> None:
    """Serve until there are no more lines."""
    for line in sys.stdin:
        tcti, folder, step = line.split()
        child = os.fork()
        if child == 0:
            change(tcti, Path(folder), int(step), Path(keys))
            os._exit(0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
