# SPDX-License-Identifier: Apache-2.0
"""Stable reason codes, and what a text about one consists of. Programs depend on the codes.

The texts are in :mod:`appliance.boundary.catalogue`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """Exit codes of the ``bsfg`` command."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_READY = 3
    DENIED = 4
    QUARANTINED = 5


class RpcCode(StrEnum):
    """The Connect error codes this product uses (https://connectrpc.com/docs/protocol/#error-codes)."""

    INVALID_ARGUMENT = "invalid_argument"
    ALREADY_EXISTS = "already_exists"
    PERMISSION_DENIED = "permission_denied"
    UNAUTHENTICATED = "unauthenticated"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    FAILED_PRECONDITION = "failed_precondition"
    ABORTED = "aborted"
    OUT_OF_RANGE = "out_of_range"
    UNIMPLEMENTED = "unimplemented"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    DATA_LOSS = "data_loss"


class Reason(StrEnum):
    """Stable reason codes, grouped as in the catalogue below."""

    # content of a fact
    MALFORMED_JSON = "malformed_json"
    MISSING_FIELD = "missing_field"
    UNKNOWN_FIELD = "unknown_field"
    WRONG_TYPE = "wrong_type"
    BAD_NAME = "bad_name"
    NUMBER_RANGE = "number_range"
    TOO_DEEP = "too_deep"
    TOO_MANY_KEYS = "too_many_keys"
    TOO_LARGE = "too_large"
    ZONE_MISMATCH = "zone_mismatch"
    ID_MISMATCH = "id_mismatch"
    DIGEST_MISMATCH = "digest_mismatch"
    CONFLICTING_DUPLICATE = "conflicting_duplicate"
    PRODUCER_SUSPENDED = "producer_suspended"
    BAD_REQUEST = "bad_request"
    UNSUPPORTED = "unsupported"
    # position of a page
    OUT_OF_ORDER = "out_of_order"
    LOG_DIVERGED = "log_diverged"
    PEER_REGRESSED = "peer_regressed"
    TOO_MANY_EPOCHS = "too_many_epochs"
    # identity and policy
    UNKNOWN_PEER = "unknown_peer"
    BAD_CERTIFICATE = "bad_certificate"
    NO_SESSION = "no_session"
    CERTIFICATE_ENDS = "certificate_ends"
    BAD_CREDENTIAL = "bad_credential"
    CATEGORY_DENIED = "category_denied"
    BAD_RECEIPT = "bad_receipt"
    # resources
    BUFFER_FULL = "buffer_full"
    BROKER_UNAVAILABLE = "broker_unavailable"
    BROKER_TOO_OLD = "broker_too_old"
    BROKER_NOT_FOUND = "broker_not_found"
    BROKER_NOT_DURABLE = "broker_not_durable"
    BROKER_REFUSED = "broker_refused"
    LINK_DOWN = "link_down"
    PROXY_REFUSED = "proxy_refused"
    PEER_TIMEOUT = "peer_timeout"
    PEER_FAULT = "peer_fault"
    BUSY = "busy"
    NOT_READY = "not_ready"
    # integrity
    LOG_DAMAGED = "log_damaged"
    LOG_LOST = "log_lost"
    TRIMMED = "trimmed"
    LEDGER_DAMAGED = "ledger_damaged"
    CHAIN_BROKEN = "chain_broken"
    LEDGER_FORGED = "ledger_forged"
    # keys and the TPM
    BAD_KEY = "bad_key"
    BAD_POLICY = "bad_policy"
    BAD_RELEASE = "bad_release"
    NOT_QUARANTINED = "not_quarantined"
    WATCHDOG_UNAVAILABLE = "watchdog_unavailable"
    BAD_EVIDENCE = "bad_evidence"
    IMAGE_NOT_SIGNED = "image_not_signed"
    KEY_LATCHED = "key_latched"
    TPM_ABSENT = "tpm_absent"
    TPM_BUSY = "tpm_busy"
    TPM_REFUSED = "tpm_refused"
    TPM_UNSUPPORTED = "tpm_unsupported"
    TPM_ALTERED = "tpm_altered"
    TPM_FAULT = "tpm_fault"
    # the keeper
    KEEPER_UNAVAILABLE = "keeper_unavailable"
    CALLER_DENIED = "caller_denied"
    NO_SUCCESSOR = "no_successor"
    SUCCESSOR_WAITS = "successor_waits"
    NOT_ENROLLED = "not_enrolled"
    TIME_UNKNOWN = "time_unknown"
    UNKNOWN_SECRET = "unknown_secret"  # noqa: S105 - a code, no secret
    # local credentials
    BAD_LOCAL_KEYS = "bad_local_keys"
    UNKNOWN_APPLICATION = "unknown_application"
    APPLICATION_EXISTS = "application_exists"
    # enrolment
    BAD_DOCUMENT = "bad_document"
    EK_UNCERTIFIED = "ek_uncertified"
    EK_UNKNOWN_VENDOR = "ek_unknown_vendor"
    EK_MISMATCH = "ek_mismatch"
    BAD_PROOF = "bad_proof"
    CHALLENGE_EXPIRED = "challenge_expired"
    BAD_VOUCHER = "bad_voucher"
    VOUCHER_EXPIRED = "voucher_expired"
    VOUCHER_FOREIGN = "voucher_foreign"
    VOUCHER_USED = "voucher_used"
    BOX_DENIED = "box_denied"
    BOX_REVOKED = "box_revoked"
    BOX_REPLACED = "box_replaced"
    BOX_QUARANTINED = "box_quarantined"
    BOX_OF_OTHER_ZONE = "box_of_other_zone"
    ZONE_TAKEN = "zone_taken"
    UNKNOWN_BOX = "unknown_box"
    OFFICE_UNUSABLE = "office_unusable"
    AUTHORITY_UNAVAILABLE = "authority_unavailable"
    # time and attestation
    BAD_TIME_TOKEN = "bad_time_token"  # noqa: S105 - a code, no password
    BAD_MEASUREMENTS = "bad_measurements"
    ATTESTATION_STALE = "attestation_stale"
    ATTESTATION_FAILED = "attestation_failed"
    # site configuration
    BAD_SITE = "bad_site"
    SITE_UNSIGNED = "site_unsigned"
    SITE_FOREIGN = "site_foreign"
    SITE_ROLLBACK = "site_rollback"
    # images and disks
    BAD_IMAGE = "bad_image"
    IMAGE_UNSIGNED = "image_unsigned"
    DISK_REFUSED = "disk_refused"
    DISK_FAILED = "disk_failed"
    DISK_SMALL = "disk_small"
    # the box
    FIREWALL_FAULT = "firewall_fault"
    BAD_STICK = "bad_stick"
    # firmware
    BAD_PROFILE = "bad_profile"
    FIRMWARE_DIFFERS = "firmware_differs"
    FIRMWARE_KEYS = "firmware_keys"
    # command line
    BAD_INPUT = "bad_input"
    NOT_CONFIRMED = "not_confirmed"
    BAD_ENVIRONMENT = "bad_environment"
    ALREADY_RUNNING = "already_running"
    NOT_RUNNING = "not_running"
    PORT_TAKEN = "port_taken"
    CHILD_FAILED = "child_failed"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class ReasonText:
    """What a reason means, what to do about it, and how it leaves the process."""

    meaning: str
    hint: str
    rpc: RpcCode = RpcCode.INVALID_ARGUMENT
    exit: ExitCode = ExitCode.FAILURE
