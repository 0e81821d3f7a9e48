# SPDX-License-Identifier: Apache-2.0
"""Probe ``firmware``: Secure Boot is on, and its keys are those of the start of this boot.

Source: the firmware's variables in efivarfs, each five seconds. What they were when this boot was first looked at is
kept in a file of this boot (``/run``), so that a restart of the sensor does not take a change for the beginning. What
was changed before that, and stays, the TPM has measured at boot (PCR 7): the probe ``quote`` sees it.
"""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Final

from appliance.watchdog.probes.places import Places, View
from appliance.watchdog.probing import Reading
from appliance.watchdog.suspicions import Code, ProbeName

GLOBAL: Final = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
IMAGES: Final = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
KEYS: Final = {"PK": GLOBAL, "KEK": GLOBAL, "db": IMAGES}
"""Who may start the machine. ``dbx`` (what is revoked) only takes away, and is a fact, no suspicion."""
FIRST_SEEN: Final = "firmware.json"
_ATTRIBUTES: Final = 4
"""Bytes in front of a variable's value."""


class FirmwareProbe:
    """See the module. :param kept: a folder that lasts as long as the boot."""

    name = ProbeName.FIRMWARE
    period_s = 5.0

    def __init__(self, places: Places, kept: Path) -> None:
        self._variables = places.sys / "firmware/efi/efivars"
        self._first = kept / FIRST_SEEN

    def look(self) -> Reading:
        """As the port says."""
        view = View(self.name)
        with view.part("variables"):
            if not self._variables.is_dir():
                raise FileNotFoundError("no variables of the firmware")
            self._mode(view)
            self._keys(view)
        return view.reading()

    def _mode(self, view: View) -> None:
        on, setup = self._value("SecureBoot", GLOBAL), self._value("SetupMode", GLOBAL)
        view.note("secure_boot", "on" if on == b"\1" else "off")
        if on != b"\1":
            view.see(Code.SECURE_BOOT_OFF, "the firmware checks nothing")
        if setup == b"\1":
            view.see(Code.SECURE_BOOT_OFF, "the firmware takes any new key (setup mode)")

    def _keys(self, view: View) -> None:
        now = {name: sha256(self._value(name, owner)).hexdigest() for name, owner in KEYS.items()}
        for name, digest in now.items():
            view.note(name, digest[:16])
        view.note("dbx", sha256(self._value("dbx", IMAGES)).hexdigest()[:16])
        changed = [name for name, digest in self._at_first(now).items() if now[name] != digest]
        if changed:
            view.see(Code.SECURE_BOOT_KEYS_CHANGED, ", ".join(changed))

    def _at_first(self, now: dict[str, str]) -> dict[str, str]:
        try:
            found = json.loads(self._first.read_bytes())
            return {name: str(found[name]) for name in KEYS}
        except FileNotFoundError:
            beside = self._first.with_suffix(".new")
            beside.write_text(json.dumps(now), "ascii")
            os.replace(beside, self._first)
            return now

    def _value(self, name: str, owner: str) -> bytes:
        try:
            return (self._variables / f"{name}-{owner}").read_bytes()[_ATTRIBUTES:]
        except FileNotFoundError:
            return b""

    def descriptor(self) -> int | None:
        """Nothing here says when it changes."""
        return None

    def close(self) -> None:
        """It holds nothing."""
