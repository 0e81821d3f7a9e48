# SPDX-License-Identifier: Apache-2.0
"""The codes of the status page. Rules decide by them, texts are looked up by them; programs read them as JSON.

What is wrong has a :class:`~appliance.boundary.reasons.Reason` where a service said so, and a :class:`Sign` where the
page saw it by itself. No code is both.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class Overall(StrEnum):
    """How the box is, in one word; the page says it in a sentence."""

    QUARANTINED = "quarantined"
    """The boundary key is locked until two operators release it."""
    RELEASED = "released"
    """Two operators have released it; nothing leaves it until it is started again."""
    NOT_CONFIGURED = "not_configured"
    """The box was never given a site configuration."""
    STARTING = "starting"
    """Switched on a moment ago; not everything has spoken yet."""
    STOPPED = "stopped"
    """Local work stands still."""
    TROUBLE = "trouble"
    """Local work goes on, and something needs hands."""
    REFUSED = "refused"
    """The hub does not let the box in."""
    WAITING = "waiting"
    """The hub knows the box and waits for an operator."""
    NOT_ENROLLED = "not_enrolled"
    """The hub has not been asked yet, or could not be."""
    ON_ITS_OWN = "on_its_own"
    """The hub cannot be reached; local work goes on."""
    CATCHING_UP = "catching_up"
    """The hub is back, and what was kept meanwhile crosses."""
    AIR_GAPPED = "air_gapped"
    """Local work goes on; there is no uplink, by design."""
    WORKING = "working"
    """Everything is as it should be."""


class Rank(IntEnum):
    """How much a finding matters; the least number is told first."""

    STOPS_WORK = 0
    """Local producers or consumers are hindered."""
    LOCKED = 1
    """The boundary key is locked."""
    ALARM = 2
    """Local work goes on, but this does not mend itself."""
    CROSSING = 3
    """Facts do not cross for now, or something was not taken; local work goes on."""
    NOTE = 4
    """Worth knowing."""


class Ability(StrEnum):
    """What the box does for others."""

    PRODUCE = "produce"
    """Local producers get their facts confirmed."""
    CONSUME = "consume"
    """Local consumers can read."""
    SEND = "send"
    """Facts go to the hub."""
    RECEIVE = "receive"
    """Facts come from the hub."""


class Sign(StrEnum):
    """What the page sees by itself, beside the reasons that services tell."""

    AGENT_SILENT = "agent_silent"
    AGENT_STARTS = "agent_starts"
    KEEPER_SILENT = "keeper_silent"
    WATCHDOG_SILENT = "watchdog_silent"
    SITE_SILENT = "site_silent"
    SITE_FAILED = "site_failed"
    SITE_ON_TRIAL = "site_on_trial"
    DOCUMENT_DAMAGED = "document_damaged"
    DISK_FULL = "disk_full"
    DISK_FILLS = "disk_fills"
    UPLINK_ABSENT = "uplink_absent"
    UPLINK_NO_CABLE = "uplink_no_cable"
    UPLINK_NO_ADDRESS = "uplink_no_address"
    UPLINK_NO_GATEWAY = "uplink_no_gateway"
    PLANT_ABSENT = "plant_absent"
    PLANT_NO_CABLE = "plant_no_cable"
    LEASE_CLOSED = "lease_closed"
    LEASE_NOT_YET = "lease_not_yet"
    SECURE_BOOT_OFF = "secure_boot_off"
    SOFTWARE_TPM = "software_tpm"
    CLOCK_DIFFERS = "clock_differs"
    ENROLMENT_WAITS = "enrolment_waits"
    ENROLMENT_CALLS = "enrolment_calls"
    ENROLMENT_BY_FILE = "enrolment_by_file"
    QUARANTINE_IN_DOUBT = "quarantine_in_doubt"
    RELEASED_DARK = "released_dark"
    STICK_IGNORED = "stick_ignored"
    STICK_READING = "stick_reading"
    STICK_READ = "stick_read"
    STICK_RESTARTING = "stick_restarting"
    STICK_WRITING = "stick_writing"
    STICK_WRITTEN = "stick_written"
    STICK_UNWRITTEN = "stick_unwritten"
    STICK_FAILED = "stick_failed"


class DocState(StrEnum):
    """What can be said of a status document."""

    FRESH = "fresh"
    STALE = "stale"
    """Its writer has not spoken for a while: it does not run well."""
    DAMAGED = "damaged"
    """It is there, and is no status document."""
    MISSING = "missing"
