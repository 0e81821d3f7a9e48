# SPDX-License-Identifier: Apache-2.0
"""Gathers the evidence of a case and has the TPM seal it. Bounded in time and in size; no source can hold it up.

Each source has its own few seconds, all at once; what fails or takes longer is named in the bundle. Without the TPM
there is no seal, and so no evidence: that raises, and is tried again.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import trio

from appliance.boundary.errors import BsfgError, DeniedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.firmware_log import FIRMWARE_LOG_BYTES
from appliance.keys.attestation.quote import one_form
from appliance.keys.attestation.runtime_log import RUNTIME_LOG_BYTES
from appliance.keys.keeper.port import KeeperPort, Latched, Quote
from appliance.keys.keeper.values import to_json
from appliance.keys.tpm.public import Attestation
from appliance.watchdog import secrecy
from appliance.watchdog.evidence.bundle import BUNDLE_BYTES, Bundle, Seal, SourceNote, SourceState, Times, digest_of
from appliance.watchdog.evidence.journal import Window
from appliance.watchdog.evidence.sources import Sources
from appliance.watchdog.probing import Reading
from appliance.watchdog.quarantine.case import Case, in_order

SOURCE_S: Final = 5.0
JOURNAL_FACTOR: Final = 3
"""The journal takes longer than the others: another program reads it, and every line is cleaned."""
KEEPER_S: Final = 60.0
"""A TPM that is slow, or busy with something else."""
_NONE: Final = Window((), False, 0)


@dataclass(slots=True)
class _Gathered:
    """What has come in so far, by source, and what became of each."""

    values: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, SourceNote] = field(default_factory=dict)

    def take(self, name: str, value: Any, state: SourceState = SourceState.PRESENT, detail: str = "") -> None:
        self.values[name] = value
        self.notes[name] = SourceNote(name, state, secrecy.clean(_printable(detail)))


async def collect(
    case: Case,
    latched: Latched | None,
    keeper: KeeperPort,
    sources: Sources,
    *,
    number: int = 1,
    previous: str = "",
    source_s: float = SOURCE_S,
) -> tuple[Bundle, Seal]:
    """The evidence of a case, sealed.

    :param number, previous: of this box's evidence (:class:`~appliance.watchdog.evidence.store.EvidenceStore`).
    :param source_s: how long a source may take.
    :raises UnavailableError: the keeper or its TPM does not answer. :raises DeniedError: as the keeper says.
    """
    digest, gathered = case.digest(), _Gathered()
    quoted = await _asked(partial(keeper.quote, digest))
    await _gather(sources, gathered, source_s)
    _take_logs(quoted, gathered)
    bundle = await trio.to_thread.run_sync(_bundle, case, latched, sources, gathered, (number, previous))
    nonce = digest_of(bundle.render())
    certified = await _asked(partial(keeper.certify, nonce))
    sealed = await _asked(partial(keeper.quote, nonce))
    seal = Seal(
        case.zone,
        nonce,
        _in_one_form(sealed.attestation),
        dict(sealed.pcrs),
        _in_one_form(certified.counter),
        _in_one_form(certified.key),
    )
    return bundle, seal


async def _asked(call: Callable[[], Awaitable[Any]]) -> Any:
    with trio.move_on_after(KEEPER_S):
        return await call()
    raise UnavailableError(Reason.KEEPER_UNAVAILABLE, f"silent for {KEEPER_S:g} s")


async def _gather(sources: Sources, gathered: _Gathered, source_s: float) -> None:
    """Ask all sources at once; a thread that hangs is left behind."""
    blocking: Mapping[str, Callable[[], Any]] = {
        "firewall": sources.firewall,
        "logs": sources.logs,
        "image": sources.image,
        "files": sources.files,
        "boot_id": sources.boot_id,
    }
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_one, "journal", sources.journal, gathered, source_s * JOURNAL_FACTOR)
        nursery.start_soon(_one, "readings", partial(_at_once, sources.readings), gathered, source_s)
        for name, read in blocking.items():
            call = partial(trio.to_thread.run_sync, read, abandon_on_cancel=True)
            nursery.start_soon(_one, name, call, gathered, source_s)


async def _at_once(read: Callable[[], Any]) -> Any:
    """What is in memory, read in the main loop, which is the one that changes it."""
    await trio.lowlevel.checkpoint()
    return read()


async def _one(name: str, read: Callable[[], Awaitable[Any]], gathered: _Gathered, source_s: float) -> None:
    with trio.move_on_after(source_s):
        try:
            gathered.take(name, await read())
        except BsfgError as error:
            gathered.take(name, None, SourceState.MISSING, f"{error.reason}: {error.detail}")
        except Exception as error:  # noqa: BLE001 - whatever a source does, the evidence is completed
            gathered.take(name, None, SourceState.MISSING, f"{type(error).__name__}: {error}")
        return
    gathered.take(name, None, SourceState.MISSING, f"took longer than {source_s:g} s")


def _take_logs(quoted: Quote, gathered: _Gathered) -> None:
    """The logs of the boot, whole or not at all: a part of one leads nowhere."""
    logs = (
        ("firmware_log", quoted.boot_log, FIRMWARE_LOG_BYTES),
        ("runtime_log", quoted.runtime_log, RUNTIME_LOG_BYTES),
    )
    for name, log, most in logs:
        if not log:
            gathered.take(name, b"", SourceState.MISSING, "there is none")
        elif len(log) > most:
            gathered.take(name, b"", SourceState.MISSING, f"longer than {most} bytes")
        elif kinds := secrecy.found(log):
            gathered.take(name, b"", SourceState.WITHHELD, f"it holds what looks like: {', '.join(sorted(kinds))}")
        else:
            gathered.take(name, log)


def _bundle(
    case: Case, latched: Latched | None, sources: Sources, gathered: _Gathered, place: tuple[int, str]
) -> Bundle:
    """The bundle, within its size and without a secret."""
    values, window = gathered.values, gathered.values.get("journal") or _NONE
    if window.cut:
        gathered.take("journal", window, SourceState.CUT, "the newest entries are there")
    number, previous = place
    bundle = Bundle(
        case.zone,
        number,
        previous,
        case.render(),
        None if latched is None else Latched(latched.counter, _in_one_form(latched.certificate)),
        values.get("boot_id") or case.boot_id,
        Times(sources.wall_ms(), sources.boottime_ms()),
        in_order(Reading.parse(each.render()) for each in values.get("readings") or ()),
        window.lines,
        values.get("firewall") or {},
        tuple(values.get("logs") or ()),
        values.get("image") or {},
        values.get("files") or {},
        values.get("firmware_log", b""),
        values.get("runtime_log", b""),
        tuple(gathered.notes[name] for name in sorted(gathered.notes)),
        window.withheld,
    )
    return _without_secrets(_within_size(bundle))


def _within_size(bundle: Bundle) -> Bundle:
    """Halve the journal until it fits; logs and readings are bounded, and fit without it."""
    while len(bundle.render()) > BUNDLE_BYTES and bundle.journal:
        bundle = replace(
            _noted(bundle, "journal", SourceState.CUT), journal=bundle.journal[len(bundle.journal) // 2 + 1 :]
        )
    return bundle


def _without_secrets(bundle: Bundle) -> Bundle:
    """Search what was gathered once more; a part in which something is found is left out as a whole.

    The case stays as it was locked; its texts were cleaned when it was opened.
    """
    parts: tuple[tuple[str, Any], ...] = (("image", {}), ("files", {}), ("logs", ()), ("readings", ()), ("journal", ()))
    for name, empty in parts:
        if secrecy.found(json.dumps(to_json(getattr(bundle, name)), ensure_ascii=False).encode()):
            bundle = replace(_noted(bundle, name, SourceState.WITHHELD), **{name: empty})
    return bundle


def _noted(bundle: Bundle, name: str, state: SourceState) -> Bundle:
    notes = {note.name: note for note in bundle.sources} | {name: SourceNote(name, state)}
    return replace(bundle, sources=tuple(notes[each] for each in sorted(notes)))


def _in_one_form(attestation: Attestation) -> Attestation:
    try:
        return Attestation(attestation.statement, one_form(attestation.signature))
    except ValueError as error:
        raise DeniedError(Reason.BAD_EVIDENCE, f"the keeper's signature: {error}") from error


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() and each.isascii() else "?" for each in text[:200])
