# SPDX-License-Identifier: Apache-2.0
"""The hub's copy of the published measurements: read again when the file changes, and never an older one.

What was seen is kept in a small file beside it (``<name>.seen``), so that a restart does not forget it. A file that
cannot be taken changes nothing: the last good one stays in use, and the status says what is wrong.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from appliance.boundary.errors import BsfgError, DeniedError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.measurements import Measurements
from appliance.keys.files import PUBLIC, write_atomically

_log = logging.getLogger(__name__)


class MeasurementsFile:
    """One file, followed. Blocking, and quick while nothing has changed.

    :param keys: the image keys that count here; a file must be signed by one of them.
    """

    def __init__(self, path: Path, keys: Callable[[], Iterable[rsa.RSAPublicKey]]) -> None:
        self._path = path
        self._seen_path = path.with_name(path.name + ".seen")
        self._keys = keys
        self._stamp: tuple[int, ...] | None = None
        self._current: Measurements | None = None
        self.problem: BsfgError | None = None
        """Why the file that is there is not used."""

    def current(self) -> Measurements | None:
        """What counts now; ``None``: there never was a file that could be taken."""
        stamp = self._stamp_now()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._take()
                self.problem = None
            except BsfgError as error:
                self.problem = error
                _log.error("measurements: %s", error)
        return self._current

    def _take(self) -> None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise RefusedError(Reason.BAD_INPUT, f"{self._path}: {error.strerror}") from error
        read, seen = Measurements.parse(data), self._seen()
        key = next((key for key in self._keys() if read.signed_by(key)), None)
        if key is None:
            raise DeniedError(Reason.BAD_MEASUREMENTS, "not signed by an image key of this site")
        read.follows(seen, key)
        if seen is None or (read.serial, read.minimum) != (seen.serial, seen.minimum):
            text = json.dumps({"serial": read.serial, "minimum": read.minimum}) + "\n"
            write_atomically(self._seen_path, text.encode(), PUBLIC)
        self._current = read

    def _seen(self) -> Measurements | None:
        """The largest serial and minimum taken so far, as a file without images."""
        try:
            values: Any = json.loads(self._seen_path.read_bytes())
            return Measurements(int(values["serial"]), int(values["minimum"]), ())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RefusedError(Reason.BAD_INPUT, f"{self._seen_path}: {error!r}") from error

    def _stamp_now(self) -> tuple[int, ...]:
        try:
            state = self._path.stat()
        except OSError:
            return ()
        return state.st_mtime_ns, state.st_size, state.st_ino
