# SPDX-License-Identifier: Apache-2.0
"""What the TPM is asked, and what the box is measured by: shared by the probes ``quote``, ``key`` and ``clock``.

The keeper asks the TPM; nothing here believes the keeper. What counts are signatures of the attestation key that this
box was enrolled with, which the keeper wrote down then (``enrolled-box.json`` beside the certificates). On a box that
is not enrolled yet the first key of the boot counts: there, all that matters is that it does not change.

Evidence is what was signed, or what should have been and was not. A TPM that is busy, absent or out of order, and
whatever else the keeper says instead of an answer, proves nothing: then the probes are blind, and see no suspicion.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import trio

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.enrolled import EnrolledAttestation
from appliance.keys.attestation.evidence import Evidence
from appliance.keys.attestation.firmware_log import FIRMWARE_LOG_BYTES
from appliance.keys.attestation.quote import QuoteStatement, check_quote
from appliance.keys.enrolled_box import BOX_BYTES, EnrolledBox
from appliance.keys.enrolment.birth import BirthPolicy
from appliance.keys.files import PUBLIC, read_regular, write_atomically
from appliance.keys.folder import PkiFolder
from appliance.keys.keeper.port import KeeperPort, Quote
from appliance.keys.tpm.public import ATTESTATION, ecdsa_public_of, p256_key

NONCE_BYTES: Final = 32
FRESH_S: Final = 5.0
"""A quote that is younger serves the next probe as well: the TPM is slow, and others need it."""
AGAIN_S: Final = 0.4
"""A measurement between a quote and the log of it is over by then."""
FIRST_SEEN: Final = "first-seen-box.json"


@dataclass(frozen=True, slots=True)
class Taken:
    """A quote that the box's attestation key made over a nonce of ours.

    :param began_ns: CLOCK_BOOTTIME before it was asked for. :param ended_ns: the same when it had come.
    """

    box: EnrolledBox
    evidence: Evidence
    statement: QuoteStatement
    nonce: bytes
    began_ns: int
    ended_ns: int


@dataclass(slots=True)
class Witness:
    """Asks the keeper on behalf of the probes. :param run_dir: keeps what was seen first in this boot."""

    keeper: KeeperPort
    pki: PkiFolder
    run_dir: Path
    _last: Taken | None = None
    _lock: trio.Lock = field(default_factory=trio.Lock)

    async def quote(self, max_age_s: float = 0.0) -> Taken:
        """A quote of this box. :param max_age_s: an earlier one that is no older will do.

        :raises DeniedError: ``bad_evidence``: it is not by this box's attestation key, over our nonce.
        :raises BsfgError: anything else: there is none now.
        """
        async with self._lock:
            last = self._last
            if last is not None and _boottime_ns() - last.ended_ns <= max_age_s * 1e9:
                return last
            self._last = None
            box = await self.box()
            nonce, began_ns = secrets.token_bytes(NONCE_BYTES), _boottime_ns()
            evidence = Evidence.of(box.zone, _with_logs(await self.keeper.quote(nonce)))
            ended_ns = _boottime_ns()
            statement = check_quote(enrolled_as(box), nonce, evidence.quote, evidence.pcrs)
            self._last = Taken(box, evidence, statement, nonce, began_ns, ended_ns)
            return self._last

    async def box(self) -> EnrolledBox:
        """What the box is measured by; see this module's first words.

        :raises UnavailableError: ``not_ready``: what was written down cannot be read, or there is nothing yet.
        """
        path = self.pki.enrolled_box
        for at in (path, self.run_dir / FIRST_SEEN):
            found = await trio.to_thread.run_sync(_read, at)
            if found is not None:
                return found
        return await self._first_seen()

    async def _first_seen(self) -> EnrolledBox:
        status, told = await self.keeper.status(), await self.keeper.describe()
        zone: ZoneId = status.zone
        box = EnrolledBox(zone, BirthPolicy.parse(told.policy), told.boundary_public, p256_key(told.ak_public))
        await trio.to_thread.run_sync(_keep, self.run_dir / FIRST_SEEN, box)
        return box


def enrolled_as(box: EnrolledBox) -> EnrolledAttestation:
    """The same, as attestation judges by it."""
    public = ecdsa_public_of(box.attestation_key, ATTESTATION)
    return EnrolledAttestation(public, dict(box.pcrs), box.policy.image_key)


def _with_logs(quote: Quote) -> Quote:
    """Without the firmware's log, which some machines have not, or larger than any, the system's leads nowhere."""
    if 0 < len(quote.boot_log) <= FIRMWARE_LOG_BYTES:
        return quote
    return replace(quote, boot_log=b"", runtime_log=b"")


def words(error: BsfgError) -> str:
    """An error, for people."""
    return f"{error.reason}: {error.detail}" if error.detail else str(error.reason)


def _read(path: Path) -> EnrolledBox | None:
    try:
        return EnrolledBox.parse(read_regular(path, BOX_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RefusedError) as error:
        raise UnavailableError(Reason.NOT_READY, f"{path.name}: {error}") from error


def _keep(path: Path, box: EnrolledBox) -> None:
    try:
        write_atomically(path, box.render(), PUBLIC)
    except OSError as error:
        raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{path}: {error.strerror}") from error


def _boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
