# SPDX-License-Identifier: Apache-2.0
"""The files of a quarantine: the case, and the journal of its steps. Blocking.

Each is the old or the new one, whole, whenever the power fails. What cannot be read is not silently taken for nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from appliance.boundary.errors import RefusedError
from appliance.keys.files import PRIVATE, write_atomically
from appliance.watchdog.quarantine.case import CASE_BYTES, Case
from appliance.watchdog.quarantine.journal import JOURNAL_BYTES, Journal
from appliance.watchdog.quarantine.resuming import Memory

FOLDER: Final = Path("/var/lib/bsfg/watchdog")
CASE_FILE: Final = "case.json"
JOURNAL_FILE: Final = "quarantine.json"
ASIDE: Final = ".damaged"
"""What is added to the name of a file that could not be read, once the TPM has said that the key opens."""
T = TypeVar("T")

_log = logging.getLogger(__name__)


class CaseFolder:
    """Where case and journal are kept."""

    def __init__(self, path: Path = FOLDER) -> None:
        self._path = path

    def memory(self, boot_id: str, dark: str | None) -> Memory:
        """What is known at the start. Raises nothing: what cannot be read is damaged."""
        case, case_damaged = self._read(CASE_FILE, Case.parse, CASE_BYTES)
        journal, journal_damaged = self._read(JOURNAL_FILE, Journal.parse, JOURNAL_BYTES)
        return Memory(boot_id, case, journal, case_damaged or journal_damaged, dark)

    def keep_case(self, case: Case) -> None:
        """Write the case. :raises OSError: the disk does not take it."""
        write_atomically(self._path / CASE_FILE, case.render(), PRIVATE)

    def keep_journal(self, journal: Journal) -> None:
        """Write the journal. :raises OSError: the disk does not take it."""
        write_atomically(self._path / JOURNAL_FILE, journal.render(), PRIVATE)

    def set_aside(self) -> None:
        """Rename the files that cannot be read, so that the next start does not doubt again."""
        for name, parse, size in ((CASE_FILE, Case.parse, CASE_BYTES), (JOURNAL_FILE, Journal.parse, JOURNAL_BYTES)):
            if self._read(name, parse, size)[1]:
                path = self._path / name
                try:
                    path.replace(path.with_name(name + ASIDE))
                except OSError as error:
                    _log.warning("%s: %s", path, error)

    def _read(self, name: str, parse: Callable[[bytes], T], size: int) -> tuple[T | None, bool]:
        path = self._path / name
        try:
            with path.open("rb") as file:
                return parse(file.read(size + 1)), False
        except FileNotFoundError:
            return None, False
        except (OSError, RefusedError) as error:
            _log.error("%s cannot be read: %s", path, error)
            return None, True
