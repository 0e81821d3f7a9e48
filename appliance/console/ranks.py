# SPDX-License-Identifier: Apache-2.0
"""How much each code matters, as a table."""

from __future__ import annotations

from typing import Final

from appliance.boundary.reasons import Reason
from appliance.console.codes import Rank, Sign
from appliance.watchdog.suspicions import SUSPICIONS, Response

_R, _S = Reason, Sign

RANKS: Final[dict[Rank, frozenset[str]]] = {
    Rank.STOPS_WORK: frozenset({
        _S.AGENT_SILENT, _S.AGENT_STARTS, _S.DISK_FULL, _S.SITE_FAILED,
        _R.BROKER_UNAVAILABLE, _R.BROKER_TOO_OLD, _R.BROKER_NOT_FOUND, _R.BROKER_NOT_DURABLE, _R.BROKER_REFUSED,
        _R.BUFFER_FULL, _R.LEDGER_DAMAGED, _R.BAD_LOCAL_KEYS, _R.DISK_FAILED,
    }),
    Rank.LOCKED: frozenset({_R.KEY_LATCHED, _R.BOX_QUARANTINED, _S.RELEASED_DARK}),
    Rank.ALARM: frozenset({
        _S.KEEPER_SILENT, _S.WATCHDOG_SILENT, _S.SITE_SILENT, _S.DOCUMENT_DAMAGED, _S.LEASE_CLOSED,
        _S.QUARANTINE_IN_DOUBT,
        _S.SECURE_BOOT_OFF, _S.UPLINK_ABSENT, _S.PLANT_ABSENT,
        _R.LOG_DAMAGED, _R.LOG_LOST, _R.CHAIN_BROKEN, _R.LEDGER_FORGED, _R.BAD_RECEIPT, _R.TOO_MANY_EPOCHS,
        _R.TPM_ABSENT, _R.TPM_REFUSED, _R.TPM_UNSUPPORTED, _R.TPM_ALTERED, _R.TPM_FAULT, _R.IMAGE_NOT_SIGNED,
        _R.UNKNOWN_PEER, _R.BAD_CERTIFICATE, _R.BAD_TIME_TOKEN, _R.ATTESTATION_FAILED, _R.PRODUCER_SUSPENDED,
        _R.BAD_KEY, _R.BAD_POLICY, _R.BAD_EVIDENCE, _R.BAD_PROOF, _R.CALLER_DENIED,
        _R.EK_UNCERTIFIED, _R.EK_UNKNOWN_VENDOR, _R.EK_MISMATCH,
        _R.BAD_VOUCHER, _R.VOUCHER_EXPIRED, _R.VOUCHER_FOREIGN, _R.VOUCHER_USED,
        _R.BOX_DENIED, _R.BOX_REVOKED, _R.BOX_REPLACED, _R.BOX_OF_OTHER_ZONE, _R.ZONE_TAKEN,
        _R.FIREWALL_FAULT, _R.FIRMWARE_DIFFERS, _R.FIRMWARE_KEYS, _R.BAD_ENVIRONMENT, _R.INTERNAL,
    }),
    Rank.CROSSING: frozenset({
        _S.UPLINK_NO_CABLE, _S.UPLINK_NO_ADDRESS, _S.UPLINK_NO_GATEWAY, _S.LEASE_NOT_YET,
        _S.ENROLMENT_WAITS, _S.ENROLMENT_CALLS, _S.ENROLMENT_BY_FILE, _S.STICK_FAILED, _S.STICK_UNWRITTEN,
        _R.LINK_DOWN, _R.PROXY_REFUSED, _R.PEER_TIMEOUT, _R.PEER_FAULT, _R.BUSY, _R.NO_SESSION, _R.NOT_ENROLLED,
        _R.TIME_UNKNOWN, _R.TPM_BUSY, _R.KEEPER_UNAVAILABLE, _R.ATTESTATION_STALE, _R.CERTIFICATE_ENDS,
        _R.CATEGORY_DENIED,
        _R.CHALLENGE_EXPIRED, _R.OFFICE_UNUSABLE, _R.AUTHORITY_UNAVAILABLE, _R.LOG_DIVERGED, _R.PEER_REGRESSED,
        _R.BAD_SITE, _R.SITE_UNSIGNED, _R.SITE_FOREIGN,
    }),
}  # fmt: skip
"""Codes that are in none of these sets are notes, if this program knows them."""

RESPONSES: Final[dict[Response, Rank]] = {
    Response.NOTE: Rank.NOTE,
    Response.SUSPEND: Rank.ALARM,
    Response.STOP: Rank.ALARM,
    Response.CLOSE: Rank.ALARM,
    Response.QUARANTINE: Rank.ALARM,
}
"""How much a suspicion of the watchdog matters. What put the box into quarantine ranks higher; the finder says so."""

_SUSPECTED: Final = {str(code): RESPONSES[each.response] for code, each in SUSPICIONS.items()}
_BY_CODE: Final = _SUSPECTED | {code: rank for rank, codes in RANKS.items() for code in codes}
_KNOWN: Final = frozenset({*Reason, *Sign})


def rank_of(code: str) -> Rank:
    """The rank of a code. One that this program does not know is not to be overlooked, and is no alarm either."""
    return _BY_CODE.get(code, Rank.NOTE if code in _KNOWN else Rank.CROSSING)
