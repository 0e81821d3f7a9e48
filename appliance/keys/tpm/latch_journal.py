# SPDX-License-Identifier: Apache-2.0
"""A note beside the key: how far the last latch came."""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.keys.files import write_atomically

LATCH_FILE: Final = "latch.json"
"""The note, in the keeper's folder."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LatchJournal:
    """How far the last latch came. It decides only whether to repeat steps that do no harm when repeated.

    :param counter: after the increment. :param release: what the release index held.
    :param ended: PCR 14 was extended after the increment.
    """

    counter: int
    release: bytes
    ended: bool

    @classmethod
    def read(cls, folder: Path) -> LatchJournal | None:
        """The note; ``None``: there is none that can be read."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            values = json.loads((folder / LATCH_FILE).read_bytes())
            return cls(int(values["counter"]), bytes.fromhex(values["release"]), values["ended"] is True)
        return None

    def write(self, folder: Path) -> None:
        """Keep it, durably; one that cannot be written costs steps that are done again. The latch is in the TPM."""
        values = {"counter": str(self.counter), "release": self.release.hex(), "ended": self.ended}
        try:
            write_atomically(folder / LATCH_FILE, json.dumps(values).encode())
        except OSError as error:
            _log.error("the latch's note cannot be written: %s", error)
