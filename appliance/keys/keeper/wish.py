# SPDX-License-Identifier: Apache-2.0
"""A latch that was asked for and not finished, because the TPM did not answer or the power failed. Blocking."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from appliance.boundary.errors import DeniedError
from appliance.boundary.reasons import Reason
from appliance.keys.documents import hex_bytes
from appliance.keys.files import sync_folder, write_atomically
from appliance.keys.tpm.public import Digest

WISH_FILE: Final = "latch-wanted"
"""In the keeper's folder: the evidence's digest as hex, and the counter then, or ``-``."""


class LatchWish:
    """As long as it stands the keeper uses the key for nothing, also after a restart, and goes on trying to latch."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / WISH_FILE
        self.evidence: Digest | None = None
        self.after: int | None = None
        """The counter when it was made, if it was known."""
        with contextlib.suppress(FileNotFoundError):
            try:
                evidence, after = self._path.read_text("ascii").split()
                self.evidence = Digest(hex_bytes(evidence, 32))
                self.after = None if after == "-" else int(after)
            except ValueError:
                self.evidence = Digest(bytes(32))  # damaged: it is a wish all the same

    def make(self, evidence: Digest, after: int | None) -> None:
        """Keep it, durably. It counts even if it cannot be written. :raises OSError: as the operating system says."""
        if self.evidence is None:
            self.after = after
        self.evidence = evidence
        text = f"{evidence.hex()} {'-' if self.after is None else self.after}\n"
        write_atomically(self._path, text.encode())

    def fulfil(self) -> None:
        """The key is latched, by the TPM."""
        self.evidence = None
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
            sync_folder(self._path.parent)

    def check(self) -> None:
        """:raises DeniedError: ``key_latched``: it stands."""
        if self.evidence is not None:
            raise DeniedError(Reason.KEY_LATCHED, "the latch waits for the TPM")
