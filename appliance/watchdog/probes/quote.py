# SPDX-License-Identifier: Apache-2.0
"""Whether what was booted, and what it became since, is what it should be: the box's own quote, each ten seconds.

It is judged by the rules a hub judges attestations by (:mod:`appliance.keys.attestation.verdict`), with what the box
itself can know: what it was enrolled as, and what the builder of its image signed. PCR 11 must have a value that the
image key signed (systemd's PCR signatures, which come with each image and so cover both slots), or that a document
of reference measurements has. Where such a document knows the image, PCRs 4 and 9 are compared as well; one that is
older than the image does not know it, and says nothing.

While the system shuts down it extends PCR 11 by words of its own. The key cannot be used then; that is no suspicion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio
from cryptography.hazmat.primitives.asymmetric import rsa

from appliance.boundary.errors import BsfgError, DeniedError, RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.evidence import Evidence
from appliance.keys.attestation.firmware_log import parse_firmware_log
from appliance.keys.attestation.measurements import MEASUREMENTS_BYTES, Measurements
from appliance.keys.attestation.runtime_log import parse_runtime_log, replay_runtime_log
from appliance.keys.attestation.verdict import Expected, Finding, Subject, judge
from appliance.keys.files import read_regular
from appliance.keys.tpm.image import ImageSignatures
from appliance.keys.tpm.policy import HELD_PCR, IMAGE_PCR, START, policy_pcr
from appliance.watchdog.probes.witness import AGAIN_S, Taken, Witness, enrolled_as, words
from appliance.watchdog.probing import Reading, Seen
from appliance.watchdog.suspicions import Code, ProbeName

PERIOD_S: Final = 10.0
LEAVING: Final = ("shutdown", "final")
"""What systemd extends PCR 11 with when a system goes down (systemd-pcrphase.service(8))."""
_LEAVING: Final = {hashlib.sha256(word.encode()).digest(): word for word in LEAVING}
_CODES: Final = {
    Subject.BOOT_STATE: Code.BOOT_STATE_CHANGED,
    Subject.LATCH: Code.LATCH_PCR_EXTENDED,
    Subject.IMAGE: Code.IMAGE_UNKNOWN,
    Subject.LOG: Code.EVENT_LOG_FORGED,
}
"""What a fatal finding of attestation means here. Other subjects are the hub's, or another probe's."""


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """What the builder says of images; both count by their signatures, not by their places.

    :param signatures: of PCR 11, as the running image brought them. :param measurements: the document, or not there.
    """

    signatures: Path
    measurements: Path


class QuoteProbe:
    """An :class:`~appliance.watchdog.probing.AsyncProbe`.

    :param latched: whether this box's own watchdog has latched it in this boot, and so has extended PCR 14.
    """

    name = ProbeName.QUOTE
    period_s = PERIOD_S

    def __init__(
        self,
        witness: Witness,
        images: ImageFiles,
        latched: Callable[[], bool] = lambda: False,
        again_s: float = AGAIN_S,
    ) -> None:
        self._witness, self._images, self._latched, self._again_s = witness, images, latched, again_s

    async def look(self) -> Reading:
        """As the port says. What is seen is looked at twice: something may be measured at this very moment."""
        reading = await self._look()
        if reading.seen:
            await trio.sleep(self._again_s)
            reading = await self._look()
        return reading

    async def _look(self) -> Reading:
        try:
            taken = await self._witness.quote()
            return await trio.to_thread.run_sync(self._judged, taken)
        except BsfgError as error:
            if error.reason is Reason.BAD_EVIDENCE:
                return Reading(self.name, (Seen(Code.QUOTE_FOREIGN, error.detail),))
            return Reading(self.name, blind=words(error))

    def _judged(self, taken: Taken) -> Reading:
        box, evidence = taken.box, taken.evidence
        document = self._document(box.policy.image_key, evidence.pcrs)
        image, phase = (True, "") if document is not None else self._image(box.policy.image_key, evidence)
        expected = Expected(enrolled_as(box), document)
        verdict = judge(expected, evidence, taken.nonce, taken.ended_ns // 1_000_000)
        seen = list(self._seen(verdict.findings))
        if not image:
            seen.append(Seen(Code.IMAGE_UNKNOWN, f"PCR {IMAGE_PCR} {evidence.pcrs[IMAGE_PCR].hex()} is not signed"))
        clock = taken.statement.clock
        facts = {
            "image": verdict.image or ("signed" if image else "unknown"),
            "phase": phase or "running",
            "pcr11": evidence.pcrs[IMAGE_PCR].hex(),
            "pcr14": evidence.pcrs[HELD_PCR].hex(),
            "resets": f"{clock.reset_count}.{clock.restart_count}",
            "told": "; ".join(finding.text for finding in verdict.findings if not finding.fatal),
        }
        return Reading(self.name, tuple(seen), facts=facts)

    def _seen(self, findings: Iterable[Finding]) -> Iterator[Seen]:
        for finding in findings:
            code = _CODES.get(finding.subject)
            if code is None or not finding.fatal or (finding.subject is Subject.LATCH and self._latched()):
                continue
            yield Seen(code, finding.text)

    def _image(self, key: rsa.RSAPublicKey, evidence: Evidence) -> tuple[bool, str]:
        """Whether the image key signed PCR 11, and the word by which the system is going down, if it is. Blocking.

        :raises UnavailableError: ``not_ready``: the signatures cannot be read.
        """
        try:
            signatures = ImageSignatures.parse(self._images.signatures.read_bytes(), key)
        except (OSError, RefusedError) as error:
            raise UnavailableError(Reason.NOT_READY, f"{self._images.signatures}: {error}") from error
        for value, phase in _values(evidence):
            try:
                signatures.over(policy_pcr(START, {IMAGE_PCR: value}), key)
            except DeniedError:
                continue
            return True, phase
        return False, ""

    def _document(self, key: rsa.RSAPublicKey, pcrs: Mapping[int, bytes]) -> Measurements | None:
        """The document, if the image key signed it and it knows an image with this PCR 11. Blocking."""
        try:
            document = Measurements.parse(read_regular(self._images.measurements, MEASUREMENTS_BYTES))
        except (OSError, ValueError, RefusedError):
            return None
        known = any(pcrs[IMAGE_PCR] in image.pcrs[IMAGE_PCR] for image in document.images)
        return document if known and document.signed_by(key) else None


def _values(evidence: Evidence) -> Iterator[tuple[bytes, str]]:
    """PCR 11 as it is; and as it was before the system began to go down, if its logs lead from there to here."""
    value = evidence.pcrs[IMAGE_PCR]
    yield value, ""
    try:
        start = parse_firmware_log(evidence.firmware_log).replay() if evidence.firmware_log else {}
        events = [event for event in parse_runtime_log(evidence.runtime_log) if event.pcr == IMAGE_PCR]
    except DeniedError:
        return
    running = list(events)
    while running and running[-1].digest in _LEAVING:
        running.pop()
    if len(running) == len(events):
        return
    before = replay_runtime_log(running, start)
    if replay_runtime_log(events[len(running) :], before)[IMAGE_PCR] == value:
        yield before.get(IMAGE_PCR, bytes(32)), _LEAVING[events[-1].digest]
