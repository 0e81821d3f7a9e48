# SPDX-License-Identifier: Apache-2.0
"""A lock and an evidence taker in memory, which can be made to fail."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import DeniedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.keys.keeper.port import KeeperState, Latched
from appliance.keys.release import Release, verify
from appliance.keys.tpm.policy import BoundaryPolicy
from appliance.keys.tpm.public import Attestation, Digest, sha256
from appliance.watchdog.quarantine.case import Case
from tests.releases import PCRS, statement


class FakeLock:
    """A :class:`~appliance.watchdog.quarantine.ports.Lock`: a TPM that outlives whoever asks it.

    :param policy: whose two operators release it.
    """

    def __init__(self, policy: BoundaryPolicy) -> None:
        self.policy = policy
        self.attestation_key = ec.generate_private_key(ec.SECP256R1())
        self.counter = 1
        self.pcrs = dict(PCRS)
        self.locked = False
        self.absent = 0
        """So many calls find no TPM."""
        self.calls = 0

    async def state(self) -> KeeperState:
        """As the port says."""
        self._meet()
        return KeeperState.LATCHED if self.locked else KeeperState.READY

    async def lock(self, case: Digest, *, counts: bool) -> Latched:
        """As the port says."""
        self._meet()
        if counts and not self.locked:
            self.locked, self.counter = True, self.counter + 1
        text = statement(self.counter, case)
        return Latched(self.counter, Attestation(text, self.attestation_key.sign(text, ec.ECDSA(hashes.SHA256()))))

    async def release(self, document: bytes) -> None:
        """As the port says."""
        release = Release.parse(document)
        self._meet()
        if release.counter != self.counter:
            raise DeniedError(Reason.BAD_RELEASE, f"for counter {release.counter}, not {self.counter}")
        verify(self.policy, release)
        if release.pcrs != self.pcrs:
            raise DeniedError(Reason.BAD_RELEASE, "for other PCRs")
        self.locked = False

    def _meet(self) -> None:
        self.calls += 1
        if self.absent:
            self.absent -= 1
            raise UnavailableError(Reason.TPM_ABSENT, "the test says so")


class FakeTaker:
    """An :class:`~appliance.watchdog.quarantine.ports.EvidenceTaker`: bundles in memory."""

    def __init__(self) -> None:
        self.kept: list[tuple[Case, Latched | None]] = []
        self.full = 0
        """So many calls find no room."""

    async def take(self, case: Case, latched: Latched | None) -> Digest:
        """As the port says."""
        if self.full:
            self.full -= 1
            raise OSError(28, "No space left on device")
        self.kept.append((case, latched))
        return self.digest(len(self.kept) - 1)

    def digest(self, number: int) -> Digest:
        """Of the bundle of that number."""
        case, _ = self.kept[number]
        return sha256(b"bundle %d of " % number + case.render())
