# SPDX-License-Identifier: Apache-2.0
"""A process that provisions a box and is killed at its N-th step: ``python -m tests.tpm_victim TCTI FOLDER N KEYS``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from appliance.keys.tpm.device import Device
from appliance.keys.tpm.identity import load_p256, load_rsa
from appliance.keys.tpm.policy import Operators
from appliance.keys.tpm.provisioning import provision


def main(tcti: str, folder: str, step: str, keys: str) -> None:
    """Provision; after as many TPM commands and file writes as ``step`` says, die without any cleaning up."""
    left = int(step)

    def die(name: str) -> None:
        nonlocal left
        if name == "flush_context":  # it leaves nothing that a reset or the next start would not
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    first, second, image = (Path(keys) / name for name in ("a.pem", "b.pem", "image.pem"))
    operators = Operators((load_p256(first.read_bytes()), load_p256(second.read_bytes())))
    with Device(tcti, hook=die) as device:
        provision(device, Path(folder), operators, load_rsa(image.read_bytes()), die)


if __name__ == "__main__":
    main(*sys.argv[1:])
