# SPDX-License-Identifier: Apache-2.0
"""The page in English. For people who stand in front of a box that has no shell: cables, sticks, power, telephone.

Sentences are short and plain ASCII: a serial terminal may know nothing else.
"""

from __future__ import annotations

from typing import Final

from appliance.boundary.reasons import Reason
from appliance.console.codes import Ability, Overall, Sign
from appliance.console.texts import FindingText, StateText
from appliance.watchdog.suspicions import RELEASE_STEPS

_S, _F, _R = StateText, FindingText, Reason
_CALL: Final = "Call the operator of the hub and read this page out."
_RESTART: Final = "It is started again by itself. If this stays for 5 minutes, switch the box off and on once"
_BROKEN: Final = f"{_RESTART}; then call the operator."

STATES: Final = {
    Overall.QUARANTINED: _S(
        "LOCKED: QUARANTINED",
        "A restart does not mend this. Call the operators: two of them must release this box.",
    ),
    Overall.RELEASED: _S("RELEASED, NOT YET STARTED AGAIN", "Switch the box off and on once."),
    Overall.NOT_CONFIGURED: _S(
        "NOT CONFIGURED",
        "Put in a USB stick with bsfg/site.toml for this box. Or write the disk again with 'bsfg image flash'.",
    ),
    Overall.STARTING: _S("STARTING", "Wait. This takes up to 3 minutes after switching on."),
    Overall.STOPPED: _S("TROUBLE, LOCAL WORK STANDS STILL: {what}", _CALL),
    Overall.TROUBLE: _S("TROUBLE, LOCAL WORK GOES ON: {what}", _CALL),
    Overall.REFUSED: _S("NOT LET IN BY THE HUB: {what}", _CALL),
    Overall.WAITING: _S(
        "WAITING TO BE LET IN BY THE HUB",
        "Read the TPM fingerprint of this page to the operator of the hub, who approves the box.",
    ),
    Overall.NOT_ENROLLED: _S(
        "NOT YET KNOWN TO THE HUB",
        "Read the TPM fingerprint of this page to the operator of the hub, who makes a voucher.",
    ),
    Overall.ON_ITS_OWN: _S(
        "WORKING ON ITS OWN: hub not reachable",
        "Check the network between here and the hub. Nothing is lost meanwhile.",
    ),
    Overall.CATCHING_UP: _S(
        "WORKING, HUB REACHABLE: what was kept is being sent", "Nothing to do. The number of facts to cross must fall."
    ),
    Overall.AIR_GAPPED: _S("WORKING, WITHOUT UPLINK (as configured)", "Nothing to do."),
    Overall.WORKING: _S("WORKING, HUB REACHABLE", "Nothing to do."),
}

ABILITIES: Final = {
    Ability.PRODUCE: "local producers",
    Ability.CONSUME: "local consumers",
    Ability.SEND: "facts to hub",
    Ability.RECEIVE: "facts from hub",
}

LABELS: Final = {
    "title": "BSFG appliance",
    "since": "since {moment} ({span})",
    "zone": "Zone",
    "hub": "Hub",
    "hub_last": "last contact {moment} ({span} ago)",
    "hub_never": "no contact since the agent started",
    "waiting": "To cross",
    "waiting_only": "{out} facts to the hub, {inward} from it",
    "waiting_counts": "{out} facts to the hub, {inward} from it; disk {used} % of {size} used",
    "unknown": "not known",
    "uplink": "Uplink",
    "plant": "Plant",
    "link_up": "link up",
    "link_down": "NO LINK",
    "link_off": "switched off",
    "via": "via",
    "no_address": "no address",
    "hidden": "addresses are not shown here (site configuration)",
    "absent": "not there",
    "disk": "Disk",
    "disk_used": "{used} % of {size} used",
    "uptime": "up {span}",
    "site": "site configuration {version}",
    "works": "Works",
    "stopped": "Stopped",
    "not_known": "Unknown",
    "nothing": "nothing",
    "wrong": "Wrong",
    "note": "Note",
    "do": "Do",
    "all_well": "Nothing is wrong.",
    "more": "and {count} more of less weight: 'bsfg box status' shows all",
    "times": "{count} times",
    "for_release": "For the operators: counter {counter}, evidence {evidence}",
    "release_steps": "\n".join(RELEASE_STEPS),
    "request": "Request",
    "request_text": "The request for release; two operators sign it by 'bsfg release sign --request':",
    "dark_quarantined": "dark: nothing leaves this box, until two operators have released it",
    "dark_released": "dark: nothing leaves this box, until it is started again",
    "qr_title": "REQUEST FOR RELEASE",
    "qr_part": "Code {place} of {count}",
    "qr_zone": "{zone}, counter {counter}",
    "qr_evidence": "evidence:",
    "qr_scan": "Scan this code; send its text to both operators of the box.",
    "qr_scan_all": "Scan all {count} codes, which come in turn; send their texts to both operators of the box.",
    "qr_then": "They sign it by 'bsfg release sign'. Bring their release on a USB stick: bsfg/release.json.",
    "evidence_waits": "The evidence is not complete yet; without it there is no release.",
    "fingerprint": "TPM fingerprint:",
    "version": "Version {version} {profile}",
    "entry": "boot entry {entry}",
    "trial": "on trial ({tries} boots left)",
    "secure_boot_on": "Secure Boot on",
    "secure_boot_off": "SECURE BOOT OFF",
    "secure_boot_setup": "SECURE BOOT OFF (setup)",
    "secure_boot_": "Secure Boot unknown",
    "serial": "Serial {serial}",
    "machine": "machine {machine}",
    "unknown_code": "a service reports '{code}', which this page does not know",
    "unknown_code_do": "Call the operator and read the code out.",
    "unknown_document": "{name}: {state}",
}

FINDINGS: Final[dict[str, FindingText]] = {
    # -- what the page sees by itself
    Sign.AGENT_SILENT: _F("the agent does not run; producers get no answers", _BROKEN),
    Sign.AGENT_STARTS: _F("the agent runs and is not ready yet", f"Wait a minute. {_RESTART}."),
    Sign.KEEPER_SILENT: _F("the keeper of the keys does not run", _BROKEN),
    Sign.WATCHDOG_SILENT: _F("the watchdog does not run; nothing can leave this box", _BROKEN),
    Sign.SITE_SILENT: _F(
        "nothing is known of the site configuration", "Switch the box off and on once; then call the operator."
    ),
    Sign.SITE_FAILED: _F("the site configuration could not be put to use", _CALL),
    Sign.SITE_ON_TRIAL: _F(
        "a new site configuration is on trial",
        "Wait until the hub is reached. Without contact the box takes the old configuration again by itself.",
    ),
    Sign.DOCUMENT_DAMAGED: _F("a status document cannot be read", _BROKEN),
    Sign.DISK_FULL: _F(
        "the disk is full", "Restore the way to the hub, so that facts can leave. Else call the operator for more room."
    ),
    Sign.DISK_FILLS: _F("the disk fills up", "Restore the way to the hub, so that facts can leave, before it is full."),
    Sign.UPLINK_ABSENT: _F(
        "the uplink's network port is not there",
        "Check that the network card is fitted; compare its MAC or port with the site configuration.",
    ),
    Sign.UPLINK_NO_CABLE: _F(
        "no link on the uplink", "Plug in the network cable of the uplink. Check the lamp at both ends, and the switch."
    ),
    Sign.UPLINK_NO_ADDRESS: _F(
        "the uplink has no address",
        "Check switch port and VLAN, and that DHCP answers there; compare the site configuration.",
    ),
    Sign.UPLINK_NO_GATEWAY: _F(
        "the uplink has no gateway",
        "Compare gateway and routes of the site configuration with the plant's network plan.",
    ),
    Sign.PLANT_ABSENT: _F(
        "the network port of the plant side is not there",
        "Check that the network card is fitted; compare its MAC or port with the site configuration.",
    ),
    Sign.PLANT_NO_CABLE: _F(
        "no link on the plant side", "Plug in the cable of the plant port. Check the lamp at both ends, and the switch."
    ),
    Sign.LEASE_CLOSED: _F("the watchdog lets nothing out of this box", _CALL),
    Sign.LEASE_NOT_YET: _F(
        "the watchdog still checks this box; nothing leaves it yet", "Wait 3 minutes; then call the operator."
    ),
    Sign.SECURE_BOOT_OFF: _F(
        "Secure Boot is off; keys stay locked", "Switch Secure Boot on in the firmware setup, then start the box again."
    ),
    Sign.SOFTWARE_TPM: _F(
        "SOFTWARE TPM OR KEYS: they protect nothing", "For development only. Do not use this box in a plant."
    ),
    Sign.CLOCK_DIFFERS: _F(
        "the clock of this box differs from the hub's", "Nothing is lost by it. Check the time servers when you can."
    ),
    Sign.ENROLMENT_WAITS: _F(
        "an operator of the hub must approve this box",
        "Read the TPM fingerprint of this page to the operator of the hub.",
    ),
    Sign.ENROLMENT_CALLS: _F(
        "the hub has not answered yet", "Check the uplink. The box asks again by itself; have the fingerprint ready."
    ),
    Sign.ENROLMENT_BY_FILE: _F(
        "this box is enrolled by files, not by network",
        "Read the TPM fingerprint of this page to the operator of the hub, who makes the files.",
    ),
    Sign.STICK_IGNORED: _F(
        "a USB stick was put in, and none is expected now; it was not read",
        "To bring a file: leave the stick in, press the power button, and switch the box on again.",
    ),
    Sign.STICK_READING: _F("the USB stick is being read", "Leave it in for a minute."),
    Sign.STICK_READ: _F("the USB stick was read", "Take it out."),
    Sign.STICK_RESTARTING: _F("what the USB stick brought was taken; the box starts anew", "Leave the box alone."),
    Sign.STICK_WRITING: _F(
        "the evidence of the quarantine is being written onto the USB stick",
        "Leave it in until this page says otherwise.",
    ),
    Sign.STICK_WRITTEN: _F(
        "the evidence of the quarantine is on the USB stick", "Take it out, and bring it to the operators."
    ),
    Sign.STICK_UNWRITTEN: _F(
        "the evidence of the quarantine is not, or not all, on the USB stick",
        "Take it out and put it in again, or use another one; what is missing is added.",
    ),
    Sign.STICK_FAILED: _F(
        "the USB stick cannot be read", "Use a stick with one FAT file system; the file goes into its folder bsfg."
    ),
    Sign.QUARANTINE_IN_DOUBT: _F(
        "a quarantine's files are damaged; nothing leaves until the TPM has answered",
        "Wait a minute. If it stays, switch the box off and on once; then call the operators.",
    ),
    Sign.RELEASED_DARK: _F(
        "two operators have released this box; nothing leaves it until it is started again",
        "Switch the box off and on once. It speaks again when everything is proven anew.",
    ),
    # -- the boundary
    _R.LINK_DOWN: _F(
        "the hub cannot be reached",
        "Check uplink, router and firewall between here and the hub. Nothing is lost meanwhile.",
    ),
    _R.PROXY_REFUSED: _F(
        "the proxy does not let this box through to the hub",
        "Ask whoever runs the proxy: it must allow CONNECT to the hub's ports. Nothing is lost meanwhile.",
    ),
    _R.PEER_TIMEOUT: _F(
        "the hub does not answer in time", "Wait: it is tried again. If it stays, call the operator of the hub."
    ),
    _R.PEER_FAULT: _F("the hub answers what this box does not understand", _CALL),
    _R.NO_SESSION: _F("there is no session certificate yet", "Wait a minute; the keeper makes one by itself."),
    _R.CERTIFICATE_ENDS: _F("a certificate ends soon, or has ended", "Call the operator and read out which one."),
    _R.UNKNOWN_PEER: _F("the hub does not know this zone", _CALL),
    _R.BAD_CERTIFICATE: _F("a certificate is not accepted", f"Check the clock above. {_CALL}"),
    _R.TIME_UNKNOWN: _F(
        "the hub has not told the time since this box started", "Restore the way to the hub; then it comes by itself."
    ),
    _R.ATTESTATION_STALE: _F(
        "the hub has no fresh proof of what runs here",
        "Wait 5 minutes: the box sends it. If it stays, call the operator.",
    ),
    _R.ATTESTATION_FAILED: _F("the hub does not accept what runs here", f"Change nothing. {_CALL}"),
    _R.BAD_TIME_TOKEN: _F("the hub's time is not accepted", _CALL),
    # -- stores and brokers
    _R.BROKER_UNAVAILABLE: _F("the local broker does not answer", _BROKEN),
    _R.BROKER_TOO_OLD: _F("the broker of this image is too old", "Call the operator: another image is needed."),
    _R.BROKER_NOT_FOUND: _F("the broker is missing from this image", "Call the operator: another image is needed."),
    _R.BROKER_NOT_DURABLE: _F(
        "the broker does not write to disk before it confirms", "Call the operator: another image is needed."
    ),
    _R.BROKER_REFUSED: _F("the broker refuses an operation", _BROKEN),
    _R.BUFFER_FULL: _F(
        "the buffer is full of facts the hub has not confirmed; producers are refused",
        "Restore the way to the hub. Producers keep what is refused and send it again.",
    ),
    _R.LOG_DAMAGED: _F(
        "stored facts are damaged; their stream no longer crosses",
        "Change nothing, do not wipe the disk. Call the operator.",
    ),
    _R.LOG_LOST: _F("stored facts were lost", "Change nothing, do not wipe the disk. Call the operator."),
    _R.LEDGER_DAMAGED: _F(
        "the ledger of facts cannot be read", "Change nothing, do not wipe the disk. Call the operator."
    ),
    _R.CHAIN_BROKEN: _F(
        "the chain over the facts does not fit", "Change nothing, do not wipe the disk. Call the operator."
    ),
    _R.LEDGER_FORGED: _F(
        "the ledger was changed after it had been confirmed", "Change nothing, do not wipe the disk. Call the operator."
    ),
    _R.PRODUCER_SUSPENDED: _F(
        "a producer sent two facts under one id and is not served; the others are",
        "Tell whoever runs it. When it is mended: a USB stick with a file bsfg/lift-producers, or a restart.",
    ),
    _R.CONFLICTING_DUPLICATE: _F(
        "a producer used one id for two different facts", "Tell whoever runs that producer. Others are not hindered."
    ),
    _R.NOT_READY: _F("a service is still starting", "Wait a minute."),
    _R.BAD_LOCAL_KEYS: _F("the keys of local applications are damaged", _CALL),
    # -- TPM and keeper
    _R.KEY_LATCHED: _F(
        "the boundary key is locked until two operators release it",
        "A restart does not mend this. Call the operators: two of them must release the box.",
    ),
    _R.BOX_QUARANTINED: _F("the hub holds this box in quarantine", "Call the operators: two of them must release it."),
    _R.TPM_ABSENT: _F(
        "the TPM cannot be reached",
        "Switch the box off and on once. Then check in the firmware setup that the TPM is on.",
    ),
    _R.TPM_BUSY: _F("the TPM takes no command now", "Wait: it is tried again."),
    _R.TPM_REFUSED: _F(
        "the TPM refuses the key: what was started differs from enrolment",
        "If firmware settings were changed, change them back and start again. Else call the operator.",
    ),
    _R.TPM_UNSUPPORTED: _F("this TPM lacks what is needed", "Call the operator: another box or TPM is needed."),
    _R.TPM_ALTERED: _F("the TPM is not as it was set up", f"Change nothing. {_CALL}"),
    _R.TPM_FAULT: _F("the TPM answers with an error", "Switch the box off and on once; then call the operator."),
    _R.IMAGE_NOT_SIGNED: _F("the running image is not signed by the image key", f"Change nothing. {_CALL}"),
    _R.KEEPER_UNAVAILABLE: _F("the keeper of the keys does not answer", _BROKEN),
    _R.SUCCESSOR_WAITS: _F("a new key waits to be enrolled", "Tell the operator. The old key stays in use until then."),
    # -- enrolment
    _R.NOT_ENROLLED: _F(
        "the hub has not let this box in yet", "Have the TPM fingerprint ready for the operator of the hub."
    ),
    _R.EK_UNCERTIFIED: _F("nothing proves that this TPM is a real one", "Call the operator: another TPM is needed."),
    _R.EK_UNKNOWN_VENDOR: _F("the hub does not know the vendor of this TPM", _CALL),
    _R.EK_MISMATCH: _F("the TPM's certificate belongs to another TPM", f"Was the mainboard changed? {_CALL}"),
    _R.BAD_PROOF: _F("the hub does not accept the box's proof of its keys", _CALL),
    _R.CHALLENGE_EXPIRED: _F("enrolment took too long", "Wait: it is tried again."),
    _R.BAD_VOUCHER: _F("the voucher is not good for this box and zone", "Ask the operator for another voucher."),
    _R.VOUCHER_EXPIRED: _F("the voucher has expired", "Ask the operator for a new voucher."),
    _R.VOUCHER_FOREIGN: _F(
        "the voucher was made for another TPM",
        "Compare the fingerprint of this page with the voucher; ask for another one.",
    ),
    _R.VOUCHER_USED: _F("the voucher was used before", "Ask the operator for a new voucher."),
    _R.BOX_DENIED: _F("an operator of the hub has refused this box", "Call the operator, who can still let it in."),
    _R.BOX_REVOKED: _F("the hub has revoked this box", _CALL),
    _R.BOX_REPLACED: _F(
        "another box has taken this box's place", "Switch this one off, unless the operator says otherwise."
    ),
    _R.BOX_OF_OTHER_ZONE: _F("this TPM is enrolled for another zone", _CALL),
    _R.ZONE_TAKEN: _F(
        "this zone already has another box", "Is that box broken? Then tell the operator to replace it by this one."
    ),
    _R.OFFICE_UNUSABLE: _F("the hub cannot enrol boxes now", "Wait: it is tried again. Tell the operator."),
    _R.AUTHORITY_UNAVAILABLE: _F("the hub cannot sign certificates now", "Wait: it is tried again. Tell the operator."),
    # -- site configuration
    _R.BAD_SITE: _F(
        "a site configuration has a fault",
        "Tell whoever wrote it what is named here. One that was not taken changes nothing.",
    ),
    _R.SITE_UNSIGNED: _F(
        "a new site configuration is not signed and was not taken",
        "Nothing of it is in use. Have it signed, then try again.",
    ),
    _R.SITE_FOREIGN: _F(
        "a new site configuration is signed by a key this box does not know",
        "Nothing of it is in use. Ask who signed it; do not go on before that is clear.",
    ),
    _R.SITE_ROLLBACK: _F(
        "a site configuration is not newer than the one in use",
        "The one in use stays. If it is meant, give it a higher version.",
    ),
    # -- machine
    _R.DISK_FAILED: _F("the disk does not take what is written", "Call the operator: the disk must be changed."),
    _R.FIREWALL_FAULT: _F(
        "the firewall of this box is not as it should be, and so nothing leaves it",
        "Start the box again. If it says so once more, call the operator.",
    ),
    _R.DISK_SMALL: _F(
        "the disk is smaller than the buffers of the site configuration, which were cut to fit",
        "Nothing now. Tell the operator: when the hub is away, this box is full sooner than planned.",
    ),
    _R.FIRMWARE_DIFFERS: _F(
        "the firmware is not set up as it should be",
        "Open the firmware setup and set what is named here; then start again.",
    ),
    _R.BAD_ENVIRONMENT: _F("disk or memory of this box cannot be used as they should be", _CALL),
    _R.INTERNAL: _F("a defect of this software", "Call the operator and read this page out; it must be reported."),
}
