# SPDX-License-Identifier: Apache-2.0
"""What the keeper keeps of boundary time: the offset for this boot in a tmpfs, the last token on disk. And the clocks.

A file that cannot be read counts as absent: the offset then comes with the next token, and the floor falls back to the
build time. Neither file is a secret, and neither is trusted further than that.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from appliance.keys.boundary_time import BUILT_UNIX_MS, LastToken, Offset, Readings, Taken, TpmClock
from appliance.keys.files import PUBLIC, write_atomically

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TimeStore:
    """Two small files.

    :param volatile: in a folder that a reboot empties (``/run``). :param durable: on disk.
    """

    volatile: Path
    durable: Path

    def load(self) -> tuple[Offset | None, LastToken | None]:
        """What was kept; the offset may be of an earlier boot, which its boot id tells."""
        return _load(self.volatile, _offset), _load(self.durable, _last)

    def save(self, taken: Taken) -> None:
        """Keep what a token brought; the durable part first. :raises OSError: as the operating system says."""
        write_atomically(self.durable, json.dumps(asdict(taken.last)).encode(), PUBLIC)
        write_atomically(self.volatile, json.dumps(asdict(taken.offset)).encode(), PUBLIC)

    def forget_floor(self) -> None:
        """Keep no last token. :raises OSError: as the operating system says."""
        self.durable.unlink(missing_ok=True)


def machine_readings(tpm: TpmClock | None = None) -> Readings:
    """What this machine's clocks say now."""
    return Readings(time.clock_gettime_ns(time.CLOCK_BOOTTIME), BOOT_ID.read_text("ascii").strip(), tpm)


def built_unix_ms(path: Path | None) -> int:
    """The floor that an image states: a file with Unix seconds, as SOURCE_DATE_EPOCH has them.

    Without the file, or when it says less, the time this software was written.
    """
    if path is None:
        return BUILT_UNIX_MS
    try:
        return max(BUILT_UNIX_MS, int(path.read_text("ascii")) * 1000)
    except (OSError, ValueError) as error:
        _log.warning("the build time cannot be read: %s", error)
        return BUILT_UNIX_MS


def _load(path: Path, parse: Any) -> Any:
    try:
        return parse(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        _log.warning("%s counts as absent: %s", path, error)
        return None


def _offset(values: Any) -> Offset:
    boot_id, offset_ns, error_ns = values["boot_id"], values["offset_ns"], values["error_ns"]
    if not (type(boot_id) is str and type(offset_ns) is int and type(error_ns) is int):
        raise TypeError("an offset has a boot id and two numbers")
    return Offset(boot_id, offset_ns, error_ns)


def _last(values: Any) -> LastToken:
    tpm = values["tpm"]
    clock = None if tpm is None else TpmClock(*(_number(tpm[name]) for name in TpmClock.__slots__))
    return LastToken(_number(values["unix_ms"]), clock)


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError("not a number")
    return value
