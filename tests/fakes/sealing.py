# SPDX-License-Identifier: Apache-2.0
"""A seal in memory: what one box sealed opens on that box, as long as it is in the state that it was sealed for."""

from __future__ import annotations

import secrets

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason


class FakeSeal:
    """A :class:`~appliance.box.sealing.RootSeal`."""

    def __init__(self) -> None:
        self._kept: dict[bytes, bytes] = {}
        self.refuses = False
        """Another command line, other keys of Secure Boot: the TPM does not open."""

    def seal(self, secret: bytes) -> bytes:
        """As the port says."""
        if self.refuses:
            raise UnavailableError(Reason.BAD_LOCAL_KEYS, "the test says so")
        sealed = secrets.token_bytes(64)
        self._kept[sealed] = secret
        return sealed

    def open(self, sealed: bytes) -> bytes:
        """As the port says."""
        if self.refuses or sealed not in self._kept:
            raise UnavailableError(Reason.BAD_LOCAL_KEYS, "the test says so")
        return self._kept[sealed]
