# SPDX-License-Identifier: Apache-2.0
"""Keeping the local root sealed to this box: by systemd-creds, to its TPM, to this boot's kind and to our images.

What is sealed opens in the running system of any image signed by the same image key (PCR 11), with the same Secure Boot
keys (PCR 7), a command line without additions (PCR 12), and the ``/var`` it was made on (PCR 15): on a ``/var`` that
somebody put in its place, a stolen copy is worth nothing. Quarantine does not touch it: local work goes on.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason

NAME: Final = "bsfg-local-root"
"""Is sealed along: another secret of this box does not open in its place."""
LITERAL_PCRS: Final = "7+12+15"
SIGNED_PCRS: Final = "11"
PROGRAM: Final = "systemd-creds"
DEADLINE_S: Final = 60.0
ATTEMPTS: Final = 3
"""PCR 11 is extended while the system starts; an attempt in that very moment fails."""
PAUSE_S: Final = 1.0


class RootSeal(Protocol):
    """Seals a secret, and opens it again where it may be opened. Blocking."""

    def seal(self, secret: bytes) -> bytes:
        """The sealed form. :raises UnavailableError: ``bad_local_keys``: it cannot be sealed here."""
        ...

    def open(self, sealed: bytes) -> bytes:
        """What was sealed. :raises UnavailableError: ``bad_local_keys``: not on this box, or not in this state."""
        ...


@dataclass(frozen=True, slots=True)
class SystemdCreds:
    """A :class:`RootSeal` by systemd-creds(1). Secrets pass through pipes alone.

    :param image_key: the public key that signs PCR 11. :param signatures: its signatures for this image.
    :param device: how systemd finds the TPM.
    """

    image_key: Path
    signatures: Path
    device: str = "auto"
    pause_s: float = PAUSE_S

    def seal(self, secret: bytes) -> bytes:
        """As the port says."""
        return self._run(
            "encrypt",
            "--with-key=tpm2-with-public-key",
            f"--tpm2-pcrs={LITERAL_PCRS}",
            f"--tpm2-public-key={self.image_key}",
            f"--tpm2-public-key-pcrs={SIGNED_PCRS}",
            given=secret,
        )

    def open(self, sealed: bytes) -> bytes:
        """As the port says."""
        return self._run("decrypt", f"--tpm2-signature={self.signatures}", given=sealed)

    def _run(self, verb: str, *options: str, given: bytes) -> bytes:
        words = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(self.pause_s)
            try:
                done = subprocess.run(
                    [PROGRAM, verb, f"--name={NAME}", f"--tpm2-device={self.device}", *options, "-", "-"],
                    input=given,
                    capture_output=True,
                    timeout=DEADLINE_S,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                words = str(error)
                continue
            if not done.returncode and done.stdout:
                return done.stdout
            words = " ".join(done.stderr.decode("utf-8", "replace").split())[-300:] or f"exit {done.returncode}"
        raise UnavailableError(Reason.BAD_LOCAL_KEYS, f"{PROGRAM} {verb}: {words}")
