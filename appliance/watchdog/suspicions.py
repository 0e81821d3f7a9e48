# SPDX-License-Identifier: Apache-2.0
"""What may be wrong with a box, what it means, and what the watchdog does about it by itself: one table. Data.

Only what the kernel, the TPM or a signature says may quarantine a box (:data:`MAY_QUARANTINE`), for everything else
could be brought about by somebody at the plant, who would then hold the switch of the link. ``docs/quarantine.md``
shows the table; a test attacks each line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Response(StrEnum):
    """What the watchdog does by itself, from the mildest on."""

    NOTE = "note"
    """It is told to people, and nothing else happens."""
    SUSPEND = "suspend_producer"
    """The producer is not served until somebody has looked; the others are. The agent does that, at once."""
    STOP = "stop_stream"
    """This one log does not cross until somebody has looked; the others do. The agent does that, at once."""
    CLOSE = "close"
    """The uplink is closed while it lasts, and opens by itself when it is gone."""
    QUARANTINE = "quarantine"
    """The uplink goes dark and the boundary key is locked in the TPM, until two operators release the box."""


class Origin(StrEnum):
    """Whose word it is."""

    KERNEL = "kernel"
    TPM = "tpm"
    SIGNATURE = "signature"
    """A signature or a hash that does not hold."""
    SERVICE = "service"
    """One of our programs says so, or is silent."""
    HARDWARE = "hardware"
    OPERATOR = "operator"


MAY_QUARANTINE: Final = frozenset({Origin.KERNEL, Origin.TPM, Origin.SIGNATURE, Origin.OPERATOR})


class ProbeName(StrEnum):
    """Who looks. One module of :mod:`appliance.watchdog.probes` each, unless it says otherwise."""

    VERITY = "verity"
    KERNEL = "kernel"
    FIRMWARE = "firmware"
    MOUNTS = "mounts"
    CONFIGURATION = "configuration"
    EXECUTABLES = "executables"
    LISTENERS = "listeners"
    FIREWALL = "firewall"
    AUDIT = "audit"
    HARDWARE = "hardware"
    DISK = "disk"
    QUOTE = "quote"
    KEY = "key"
    CLOCK = "clock"
    LEDGER = "ledger"
    SENSOR = "sensor"
    """The watchdog itself, about the process of the other probes."""
    OPERATOR = "operator"
    """No probe: somebody asked for it."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What one finding means.

    :param cause: what was seen, in plain words; the detail of a reading follows it.
    :param next_step: what somebody on the spot does next.
    :param benign: what else could bring it about, so that nobody is surprised.
    """

    probe: ProbeName
    origin: Origin
    response: Response
    cause: str
    next_step: str
    benign: str = "none known"

    @property
    def quarantines(self) -> bool:
        """Whether it puts the box into quarantine; what may not by its origin never does, whatever the line says."""
        return self.response is Response.QUARANTINE and self.origin in MAY_QUARANTINE


class Code(StrEnum):
    """The stable codes of suspicions; what they mean stands in :data:`SUSPICIONS`."""

    VERITY_CORRUPT = "verity_corrupt"
    VERITY_OFF = "verity_off"
    ROOT_UNREADABLE = "root_unreadable"
    ROOT_WRITABLE = "root_writable"
    LOCKDOWN_LOWERED = "lockdown_lowered"
    KERNEL_TAINTED = "kernel_tainted"
    KERNEL_WARNED = "kernel_warned"
    MODULE_FOREIGN = "module_foreign"
    KEXEC_LOADED = "kexec_loaded"
    SYSCTL_CHANGED = "sysctl_changed"
    IPE_OFF = "ipe_off"
    IPE_POLICY_CHANGED = "ipe_policy_changed"
    SECURE_BOOT_OFF = "secure_boot_off"
    SECURE_BOOT_KEYS_CHANGED = "secure_boot_keys_changed"
    MOUNT_FOREIGN = "mount_foreign"
    MOUNT_OVER_SYSTEM = "mount_over_system"
    MOUNT_LOOSENED = "mount_loosened"
    UNIT_FOREIGN = "unit_foreign"
    CONFIGURATION_CHANGED = "configuration_changed"
    SITE_UNSIGNED = "site_unsigned"
    EXECUTABLE_FOREIGN = "executable_foreign"
    EXECUTABLE_REFUSED = "executable_refused"
    PROCESS_TRACED = "process_traced"
    PROCESS_UNEXPECTED = "process_unexpected"
    PROCESS_PRIVILEGED = "process_privileged"
    LISTENER_FOREIGN = "listener_foreign"
    RAW_SOCKET_FOREIGN = "raw_socket_foreign"
    INTERFACE_FOREIGN = "interface_foreign"
    FIREWALL_CHANGED = "firewall_changed"
    FIREWALL_ABSENT = "firewall_absent"
    AUDIT_OFF = "audit_off"
    AUDIT_LOST = "audit_lost"
    USB_INSERTED = "usb_inserted"
    CHASSIS_OPENED = "chassis_opened"
    TERMINAL_OPENED = "terminal_opened"
    DISK_FAILING = "disk_failing"
    DISK_FULL = "disk_full"
    QUOTE_FOREIGN = "quote_foreign"
    IMAGE_UNKNOWN = "image_unknown"
    BOOT_STATE_CHANGED = "boot_state_changed"
    LATCH_PCR_EXTENDED = "latch_pcr_extended"
    EVENT_LOG_FORGED = "event_log_forged"
    KEY_NOT_PROVABLE = "key_not_provable"
    KEY_LATCHED = "key_latched"
    TPM_RESET = "tpm_reset"
    TPM_CLOCK_BACK = "tpm_clock_back"
    TPM_CLOCK_AHEAD = "tpm_clock_ahead"
    CLOCK_IMPLAUSIBLE = "clock_implausible"
    PRODUCER_CONFLICT = "producer_conflict"
    STREAM_BROKEN = "stream_broken"
    LEDGER_FORGED = "ledger_forged"
    SENSOR_SILENT = "sensor_silent"
    PROBE_BLIND = "probe_blind"
    QUARANTINE_FORGOTTEN = "quarantine_forgotten"
    OPERATOR_REQUEST = "operator_request"


_C, _S, _P, _O, _R = Code, Suspicion, ProbeName, Origin, Response
_Q = Response.QUARANTINE
USUAL_STEP: Final = "Leave the box on. Call the operators; the evidence says what happened."
_CALL: Final = USUAL_STEP
RELEASE_STEPS: Final = (
    "1. Leave it on and closed. Call the operators: read this page out.",
    "2. Bring them the evidence: a USB stick with bsfg/take-evidence.",
    "3. Two of them sign. Put in a stick with their bsfg/release.json.",
    "4. The box starts anew, and speaks again. More: docs/quarantine.md",
)
"""The way out of every quarantine, for whoever stands in front of the box; lines that fit its status page."""
_REPLACE: Final = "Leave the box on. Call the operators; expect to exchange the disk or the box."

SUSPICIONS: Final[Mapping[Code, Suspicion]] = {
    # -- the image -----------------------------------------------------------------------------------------------------
    _C.VERITY_CORRUPT: _S(
        _P.VERITY,
        _O.KERNEL,
        _Q,
        "a block of the system image is not the one that was signed",
        _REPLACE,
        "a dying disk; the box must not trust it either way",
    ),
    _C.VERITY_OFF: _S(_P.VERITY, _O.KERNEL, _Q, "the system does not run from a verified image", _CALL),
    _C.ROOT_UNREADABLE: _S(
        _P.VERITY,
        _O.HARDWARE,
        _R.NOTE,
        "a block of the system image cannot be read",
        "Plan to exchange the disk.",
        "a loose disk",
    ),
    _C.ROOT_WRITABLE: _S(_P.MOUNTS, _O.KERNEL, _Q, "the system's file system was made writable", _CALL),
    # -- the kernel ----------------------------------------------------------------------------------------------------
    _C.LOCKDOWN_LOWERED: _S(_P.KERNEL, _O.KERNEL, _Q, "the kernel's lockdown is not what the image sets", _CALL),
    _C.KERNEL_TAINTED: _S(
        _P.KERNEL,
        _O.KERNEL,
        _Q,
        "the kernel says that it was interfered with",
        _CALL,
        "none: the flags that a mere warning or a hardware error sets are not counted",
    ),
    _C.KERNEL_WARNED: _S(
        _P.KERNEL,
        _O.KERNEL,
        _R.NOTE,
        "the kernel has met a defect",
        "Restart the box when it suits; report the log.",
        "a defect of a driver, or of the machine",
    ),
    _C.MODULE_FOREIGN: _S(_P.KERNEL, _O.KERNEL, _Q, "a kernel module is loaded that is not part of the image", _CALL),
    _C.KEXEC_LOADED: _S(_P.KERNEL, _O.KERNEL, _Q, "another kernel was laid ready to be started", _CALL),
    _C.SYSCTL_CHANGED: _S(_P.KERNEL, _O.KERNEL, _Q, "a protection of the kernel was switched off", _CALL),
    _C.IPE_OFF: _S(_P.KERNEL, _O.KERNEL, _Q, "the kernel no longer refuses programs that are not signed", _CALL),
    _C.IPE_POLICY_CHANGED: _S(_P.KERNEL, _O.KERNEL, _Q, "the rules for what may run were replaced", _CALL),
    # -- the firmware --------------------------------------------------------------------------------------------------
    _C.SECURE_BOOT_OFF: _S(_P.FIRMWARE, _O.KERNEL, _Q, "Secure Boot is off", _CALL),
    _C.SECURE_BOOT_KEYS_CHANGED: _S(
        _P.FIRMWARE,
        _O.KERNEL,
        _Q,
        "the keys of Secure Boot were changed while the box runs",
        _CALL,
        "an announced rotation of keys is done at a boot and is not seen here",
    ),
    # -- files ---------------------------------------------------------------------------------------------------------
    _C.MOUNT_FOREIGN: _S(_P.MOUNTS, _O.KERNEL, _Q, "a file system is mounted that the image does not mount", _CALL),
    _C.MOUNT_OVER_SYSTEM: _S(_P.MOUNTS, _O.KERNEL, _Q, "something is mounted over a part of the system", _CALL),
    _C.MOUNT_LOOSENED: _S(
        _P.MOUNTS, _O.KERNEL, _Q, "a file system lost a protection it is mounted with (nosuid, nodev, noexec)", _CALL
    ),
    _C.UNIT_FOREIGN: _S(
        _P.CONFIGURATION, _O.KERNEL, _Q, "a service definition was added that is not part of the image", _CALL
    ),
    _C.CONFIGURATION_CHANGED: _S(
        _P.CONFIGURATION,
        _O.SIGNATURE,
        _Q,
        "the configuration in use is not the one made from the signed site document",
        _CALL,
        "none: taking a new site document makes both anew",
    ),
    _C.SITE_UNSIGNED: _S(
        _P.CONFIGURATION, _O.SIGNATURE, _Q, "the site document in use is not signed by the site's signer", _CALL
    ),
    # -- processes -----------------------------------------------------------------------------------------------------
    _C.EXECUTABLE_FOREIGN: _S(
        _P.EXECUTABLES, _O.KERNEL, _Q, "a program runs that is not part of the verified image", _CALL
    ),
    _C.EXECUTABLE_REFUSED: _S(
        _P.AUDIT,
        _O.KERNEL,
        _Q,
        "somebody tried to run a program that is not part of the image; the kernel refused",
        _CALL,
        "none: nothing on the box runs programs from elsewhere",
    ),
    _C.PROCESS_TRACED: _S(_P.EXECUTABLES, _O.KERNEL, _Q, "a service is being traced by another process", _CALL),
    _C.PROCESS_UNEXPECTED: _S(
        _P.EXECUTABLES, _O.KERNEL, _Q, "a program of the image runs that has no business here", _CALL
    ),
    _C.PROCESS_PRIVILEGED: _S(
        _P.EXECUTABLES, _O.KERNEL, _Q, "a service has rights that it was not started with", _CALL
    ),
    # -- the network ---------------------------------------------------------------------------------------------------
    _C.LISTENER_FOREIGN: _S(
        _P.LISTENERS, _O.KERNEL, _Q, "something listens on the network that the image does not start", _CALL
    ),
    _C.RAW_SOCKET_FOREIGN: _S(_P.LISTENERS, _O.KERNEL, _Q, "something reads or writes raw network packets", _CALL),
    _C.INTERFACE_FOREIGN: _S(
        _P.LISTENERS,
        _O.KERNEL,
        _R.NOTE,
        "a network port appeared that the site document does not name",
        "See what was plugged in.",
        "a technician's adapter; no rule lets packets through it",
    ),
    _C.FIREWALL_CHANGED: _S(_P.FIREWALL, _O.KERNEL, _Q, "the firewall's rules were changed", _CALL),
    _C.FIREWALL_ABSENT: _S(
        _P.FIREWALL,
        _O.KERNEL,
        _R.CLOSE,
        "the firewall is not loaded whole",
        "Restart the box; if it stays, report it.",
        "a network device that was taken out and put back: its chain is loaded again within a second",
    ),
    # -- sight ---------------------------------------------------------------------------------------------------------
    _C.AUDIT_OFF: _S(_P.AUDIT, _O.KERNEL, _Q, "the kernel's audit was switched off, or its rules removed", _CALL),
    _C.AUDIT_LOST: _S(
        _P.AUDIT,
        _O.KERNEL,
        _R.NOTE,
        "audit records were lost",
        "Look at what floods the log.",
        "a flood of refused accesses; it must not switch the link off",
    ),
    # -- the machine ---------------------------------------------------------------------------------------------------
    _C.USB_INSERTED: _S(
        _P.HARDWARE,
        _O.HARDWARE,
        _R.NOTE,
        "a USB device was plugged in",
        "See that it was one of yours.",
        "a technician's stick or keyboard",
    ),
    _C.CHASSIS_OPENED: _S(
        _P.HARDWARE, _O.HARDWARE, _R.NOTE, "the case was opened", "See who was at the box.", "service; a bad switch"
    ),
    _C.TERMINAL_OPENED: _S(
        _P.HARDWARE,
        _O.KERNEL,
        _R.NOTE,
        "somebody is at the box's keyboard or serial line",
        "See who it is.",
        "a technician",
    ),
    _C.DISK_FAILING: _S(_P.DISK, _O.HARDWARE, _R.NOTE, "the disk reports errors", "Plan to exchange the disk.", "wear"),
    _C.DISK_FULL: _S(
        _P.DISK,
        _O.SERVICE,
        _R.NOTE,
        "the disk is nearly full",
        "Restore the link, or lower what the site keeps.",
        "a long time without the hub",
    ),
    # -- the TPM -------------------------------------------------------------------------------------------------------
    _C.QUOTE_FOREIGN: _S(_P.QUOTE, _O.TPM, _Q, "the TPM's quote is not by the key this box enrolled with", _CALL),
    _C.IMAGE_UNKNOWN: _S(
        _P.QUOTE,
        _O.TPM,
        _Q,
        "what was booted is no image that its builder signed",
        _CALL,
        "none: both slots' images are signed",
    ),
    _C.BOOT_STATE_CHANGED: _S(
        _P.QUOTE,
        _O.TPM,
        _Q,
        "the measured state of this boot is not the one of enrolment",
        _CALL,
        "new Secure Boot keys: announce them, and enrol the box anew",
    ),
    _C.LATCH_PCR_EXTENDED: _S(
        _P.QUOTE, _O.TPM, _Q, "the register that ends the key's sessions was extended, and not by the watchdog", _CALL
    ),
    _C.EVENT_LOG_FORGED: _S(_P.QUOTE, _O.TPM, _Q, "the log of the boot does not lead to what the TPM measured", _CALL),
    _C.KEY_NOT_PROVABLE: _S(_P.KEY, _O.TPM, _Q, "the TPM does not certify the boundary key and its lock", _CALL),
    _C.KEY_LATCHED: _S(
        _P.KEY,
        _O.TPM,
        _Q,
        "the TPM holds the boundary key locked from an earlier quarantine",
        _CALL,
        "a restored or exchanged disk forgot the quarantine; the TPM did not",
    ),
    _C.TPM_RESET: _S(
        _P.CLOCK, _O.TPM, _Q, "the TPM was reset while the box ran", _CALL, "none: a power cut resets both"
    ),
    _C.TPM_CLOCK_BACK: _S(_P.CLOCK, _O.TPM, _Q, "the TPM's clock went back, or stood still", _CALL),
    _C.TPM_CLOCK_AHEAD: _S(
        _P.CLOCK,
        _O.TPM,
        _R.NOTE,
        "the TPM's clock ran ahead of the machine's",
        "See whether somebody set it, or paused the machine.",
        "a virtual machine that was paused",
    ),
    _C.CLOCK_IMPLAUSIBLE: _S(
        _P.CLOCK,
        _O.SERVICE,
        _R.NOTE,
        "the wall clock is before the time the hub has told",
        "Nothing depends on it; check the battery of the box.",
        "an empty battery; a step of the clock",
    ),
    # -- facts ---------------------------------------------------------------------------------------------------------
    _C.PRODUCER_CONFLICT: _S(
        _P.LEDGER,
        _O.SERVICE,
        _R.SUSPEND,
        "a producer sent another fact under an id that was taken",
        "Look at that producer; its first fact stands.",
        "a producer that lost its memory",
    ),
    _C.STREAM_BROKEN: _S(
        _P.LEDGER,
        _O.SERVICE,
        _R.STOP,
        "a log does not agree with its ledger",
        "Run 'bsfg audit'; the others go on.",
        "a failing disk",
    ),
    _C.LEDGER_FORGED: _S(
        _P.LEDGER,
        _O.SIGNATURE,
        _Q,
        "a log differs from what the peer has signed for",
        _CALL,
        "a disk that was restored from a copy",
    ),
    # -- the watchdog itself -------------------------------------------------------------------------------------------
    _C.SENSOR_SILENT: _S(
        _P.SENSOR,
        _O.SERVICE,
        _R.CLOSE,
        "the process that looks after the box does not answer",
        "It is started again by itself; if it stays, restart the box.",
        "a crash, or a very busy box",
    ),
    _C.PROBE_BLIND: _S(
        _P.SENSOR,
        _O.SERVICE,
        _R.CLOSE,
        "a probe cannot see what it is to look at",
        "If it stays, restart the box; report the log.",
        "a very busy box",
    ),
    _C.QUARANTINE_FORGOTTEN: _S(
        _P.SENSOR,
        _O.KERNEL,
        _Q,
        "the kernel keeps the uplink dark, and nothing on the disk says why",
        _CALL,
        "none: only the watchdog makes it dark",
    ),
    _C.OPERATOR_REQUEST: _S(
        _P.OPERATOR, _O.OPERATOR, _Q, "somebody with rights on the box asked for quarantine", _CALL
    ),
}
