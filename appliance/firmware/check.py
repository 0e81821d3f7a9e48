# SPDX-License-Identifier: Apache-2.0
"""Compare a running box with its profile: for each setting, whether it is so, and what to change if not. Pure.

What cannot be seen from the running system is asked of whoever stands before the box; what could not be read is said,
and counts as a difference: nobody has seen that it is right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from appliance.boundary.errors import BsfgError
from appliance.firmware.boot_entries import BootEntry, BootKind, parse_entry, parse_order
from appliance.firmware.efi import CERT_X509, GLOBAL_VARIABLE, KeyVariable, parse_lists
from appliance.firmware.facts import FirmwareFacts
from appliance.firmware.measurements import pcr7
from appliance.firmware.profile import ANY, Demand, How, Profile, Setting

CLOCK_S: Final = 120.0
"""How far the clock of the board may be off: an hour is a time zone, minutes are an empty battery."""


class Status(StrEnum):
    """What became of one setting."""

    OK = "ok"
    DIFFERS = "differs"
    UNKNOWN = "not checkable"
    ASK = "ask"


@dataclass(frozen=True, slots=True)
class Finding:
    """One setting of a box. :param found: what is there; for :attr:`Status.ASK`, what could be seen, if anything."""

    setting: Setting
    status: Status
    wanted: str
    found: str
    demand: Demand

    @property
    def good(self) -> bool:
        """Whether nobody needs to change anything, as far as can be seen."""
        return self.status in {Status.OK, Status.ASK}


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a look showed. :param right: ``None``: it cannot be seen. :param proven: nothing is left to ask."""

    right: bool | None
    found: str
    proven: bool = True


@dataclass(frozen=True, slots=True)
class _Look:
    facts: FirmwareFacts
    keys: Mapping[KeyVariable, bytes] | None
    value: str

    def number(self, name: str) -> int | None:
        """A variable of one byte."""
        data = self.facts.variable(name, GLOBAL_VARIABLE)
        return data[0] if data is not None and len(data) == 1 else None

    def contents(self) -> dict[KeyVariable, bytes]:
        """What the four variables hold; empty: not there."""
        return {one: self.facts.variable(one, one.vendor) or b"" for one in KeyVariable}

    def order(self, name: str = "BootOrder") -> tuple[int, ...]:
        """An order of boot entries; empty: not there."""
        return parse_order(self.facts.variable(name, GLOBAL_VARIABLE) or b"")

    def entries(self) -> list[BootEntry]:
        """The active entries, in their order."""
        found = []
        for number in self.order():
            data = self.facts.variable(f"Boot{number:04X}", GLOBAL_VARIABLE)
            if data is not None and (entry := parse_entry(number, data)).active:
                found.append(entry)
        return found


def check(
    profile: Profile, facts: FirmwareFacts, keys: Mapping[KeyVariable, bytes] | None = None
) -> tuple[Finding, ...]:
    """Every setting of the profile, in its order. :param keys: what the variables should hold, if it is known here."""
    return tuple(_judge(setting, demand, facts, keys) for setting, demand in profile.settings.items())


def _judge(setting: Setting, demand: Demand, facts: FirmwareFacts, keys: Mapping[KeyVariable, bytes] | None) -> Finding:
    def finding(status: Status, found: str) -> Finding:
        return Finding(setting, status, demand.value, found, demand)

    look = _LOOKS.get(setting)
    if look is None or (demand.how is How.BY_EYE and demand.value != ANY):
        return finding(Status.OK, "not asked") if demand.value == ANY else finding(Status.ASK, "")
    try:
        seen = look(_Look(facts, keys, demand.value))
    except (OSError, ValueError, BsfgError) as error:
        text = error.detail if isinstance(error, BsfgError) else str(error)
        return finding(Status.OK if demand.value == ANY else Status.UNKNOWN, f"could not be read: {text}")
    if demand.value == ANY:
        return finding(Status.OK, seen.found)
    if seen.right is None:
        return finding(Status.ASK if demand.question else Status.UNKNOWN, seen.found)
    if not seen.right:
        return finding(Status.DIFFERS, seen.found)
    return finding(Status.ASK if demand.question and not seen.proven else Status.OK, seen.found)


def _secure_boot(look: _Look) -> _Seen:
    if not look.facts.booted_by_uefi():
        return _Seen(right=False, found="started the old BIOS way")
    on, setup = look.number("SecureBoot"), look.number("SetupMode")
    if setup == 1:
        return _Seen(right=False, found="off: the firmware is in setup mode, with no platform key")
    return _Seen(right=on == 1, found="enabled" if on == 1 else "disabled")


def _keys(look: _Look) -> _Seen:
    held = look.contents()
    if look.keys is None:
        return _Seen(None, "; ".join(f"{one} holds {_names(held[one])}" for one in KeyVariable))
    wrong = [
        f"{one} holds {_names(held[one])}, not {_names(look.keys[one])}"
        for one in (KeyVariable.PK, KeyVariable.KEK, KeyVariable.DB)
        if held[one] != look.keys[one]
    ]
    if missing := len(_entries(look.keys[KeyVariable.DBX]) - _entries(held[KeyVariable.DBX])):
        wrong.append(f"dbx lacks {missing} of what is revoked")
    return _Seen(not wrong, "; ".join(wrong) or f"ours: PK {_names(held[KeyVariable.PK])}")


def _pcr7(look: _Look) -> _Seen:
    tpm = look.facts.tpm()
    if tpm is None or tpm.pcr7 is None:
        return _Seen(None, "no PCR 7 to be seen")
    held, on = look.contents(), look.number("SecureBoot") == 1
    entries = [entry.render() for one in parse_lists(held[KeyVariable.DB]) if one.kind == CERT_X509
               for entry in one.signatures]  # fmt: skip
    right = any(pcr7(held, [entry], secure_boot=on) == tpm.pcr7 for entry in entries)
    return _Seen(right, tpm.pcr7.hex() if right else f"{tpm.pcr7.hex()}: the firmware measures more than its keys")


def _tpm(look: _Look) -> _Seen:
    tpm = look.facts.tpm()
    return _Seen(tpm is not None and tpm.version == look.value, f"TPM {tpm.version}" if tpm else "no TPM found")


def _tpm_banks(look: _Look) -> _Seen:
    tpm = look.facts.tpm()
    banks = tpm.banks if tpm else frozenset()
    right = banks == {"sha256"} if look.value == "sha256 only" else "sha256" in banks
    return _Seen(right, f"banks: {', '.join(sorted(banks)) or 'none'}")


def _first_boot(look: _Look) -> _Seen:
    order, current, following = look.order(), look.order("BootCurrent"), look.order("BootNext")
    if following:
        return _Seen(right=False, found=f"the next start is Boot{following[0]:04X}, once")
    if not current:
        return _Seen(None, "the firmware does not say what it started")
    entries = look.entries()
    first = str(entries[0]) if entries else "nothing"
    return _Seen(order[:1] == current[:1], f"first is {first}, started was Boot{current[0]:04X}")


def _without(kind: BootKind, *, proven: bool) -> Callable[[_Look], _Seen]:
    def look_for(look: _Look) -> _Seen:
        entries = look.entries()
        bad = [str(entry) for entry in entries if entry.kind is kind]
        return _Seen(not bad, ", ".join(bad) or f"no such entry among {len(entries)}", proven=proven)

    return look_for


def _csm(look: _Look) -> _Seen:
    if not look.facts.booted_by_uefi():
        return _Seen(right=False, found="started the old BIOS way")
    return _without(BootKind.LEGACY, proven=look.number("SecureBoot") == 1)(look)


def _setup_password(look: _Look) -> _Seen:
    said = look.facts.setup_password()
    return _Seen(said, "not shown by this firmware" if said is None else "set" if said else "not set")


def _watchdog(look: _Look) -> _Seen:
    found = look.facts.watchdogs()
    return _Seen(bool(found), ", ".join(found) or "none that the kernel knows")


def _wake_on_lan(look: _Look) -> _Seen:
    adapters = look.facts.wake_on_lan()
    bad = sorted(name for name, on in adapters.items() if on)
    return _Seen(not bad, f"enabled on {', '.join(bad)}" if bad else f"off on {', '.join(sorted(adapters)) or 'all'}")


def _iommu(look: _Look) -> _Seen:
    count = look.facts.iommus()
    return _Seen(count > 0, f"{count} in use" if count else "none in use")


def _hyper_threading(look: _Look) -> _Seen:
    on = look.facts.hyper_threading()
    if on is None:
        return _Seen(look.value == "disabled", "this processor has none, or does not say")
    return _Seen(on == (look.value == "enabled"), "enabled" if on else "disabled")


def _clock(look: _Look) -> _Seen:
    offset = look.facts.clock_offset_s()
    if offset is None:
        return _Seen(right=False, found="no clock on the board")
    return _Seen(abs(offset) <= CLOCK_S, f"{offset:+.0f} s from the system's time, read as UTC")


_LOOKS: Final[Mapping[Setting, Callable[[_Look], _Seen]]] = {
    Setting.SECURE_BOOT: _secure_boot,
    Setting.KEYS: _keys,
    Setting.PCR7: _pcr7,
    Setting.TPM: _tpm,
    Setting.TPM_BANKS: _tpm_banks,
    Setting.FIRST_BOOT: _first_boot,
    Setting.NETWORK_BOOT: _without(BootKind.NETWORK, proven=True),
    # An entry for a stick appears when one is plugged in: that there is none now proves little.
    Setting.USB_BOOT: _without(BootKind.USB, proven=False),
    Setting.CSM: _csm,
    Setting.SETUP_PASSWORD: _setup_password,
    Setting.WATCHDOG: _watchdog,
    Setting.WAKE_ON_LAN: _wake_on_lan,
    Setting.IOMMU: _iommu,
    Setting.HYPER_THREADING: _hyper_threading,
    Setting.CLOCK: _clock,
}


def _entries(content: bytes) -> set[tuple[str, bytes]]:
    return {(str(one.kind), entry.data) for one in parse_lists(content) for entry in one.signatures}


def _names(content: bytes) -> str:
    """Certificates by the first digits of their SHA-256, as 'bsfg firmware keys show' prints them; digests counted."""
    names, digests = [], 0
    for one in parse_lists(content):
        if one.kind == CERT_X509:
            names += [hashlib.sha256(entry.data).hexdigest()[:16] for entry in one.signatures]
        else:
            digests += len(one.signatures)
    return " ".join([*names, *([f"{digests} digests"] if digests else [])]) or "nothing"
