# SPDX-License-Identifier: Apache-2.0
"""The boundary key in use: sign while healthy, latch in quarantine, take a release. Blocking; for one thread.

What this module decides (which branch, whether a release fits) only gives clear errors. The TPM enforces the policy
by itself: the tests go around this module and are refused all the same.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from appliance.boundary.errors import DeniedError, IntegrityError
from appliance.boundary.reasons import Reason
from appliance.keys.files import write_atomically
from appliance.keys.operators import ORDER
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.identity import BoundaryIdentity
from appliance.keys.tpm.latch_journal import LatchJournal
from appliance.keys.tpm.policy import (
    BOUND_PCRS,
    COUNTER_INDEX,
    HELD_PCR,
    IMAGE_PCR,
    RELEASE_SIZE,
    RESUMED_WORD,
    PairSignatures,
    latch_word,
)
from appliance.keys.tpm.provisioning import read_counter
from appliance.keys.tpm.public import Attestation, Digest, NvAttribute, ecdsa_public_of, rsa_public_of, sha256
from appliance.keys.tpm.session import PolicySession
from appliance.keys.tpm.tss import Ticket, pcr_changed

TICKET_FILE: Final = "image-tickets.json"
"""Tickets of images that ran here; they spare the TPM a verification, and survive a reset."""
"""What the latch extends PCR 14 with."""


Use = Callable[[Any, PolicySession], bytes]
"""One command with a loaded object and a policy session that opens it."""


class Branch(StrEnum):
    """Which branch of the key's policy is used."""

    BIRTH = "birth"
    RELEASE = "release"


class Images(Protocol):
    """Where signatures over PCR 11 come from: the values read once, or a file that may be replaced."""

    def over(self, digest: Digest, key: RSAPublicKey) -> bytes:
        """The signature over a policy digest. :raises DeniedError: ``image_not_signed``."""
        ...


class BoundaryKey:
    """The boundary key of this box.

    :param folder: where tickets are kept.
    :param images: the signatures that came with the image that runs.
    """

    def __init__(self, device: Device, identity: BoundaryIdentity, images: Images, folder: Path) -> None:
        self._device = device
        self._identity = identity
        self._images = images
        self._folder = folder
        self._ticket_file = folder / TICKET_FILE
        self._tickets = self._read_tickets()

    @property
    def identity(self) -> BoundaryIdentity:
        """What the key is."""
        return self._identity

    def branch(self) -> tuple[Branch, int]:
        """The branch that is open now, and the counter.

        :raises DeniedError: ``key_latched``: none; the counter was incremented and no release for it is imported.
        """
        counter = read_counter(self._device)
        pcrs = self._device.pcr_read(BOUND_PCRS)
        x = self._identity.policy.x(counter, pcrs)
        if x == self._identity.birth:
            return Branch.BIRTH, counter
        index = self._identity.policy.release_index
        public = self._device.nv_public(index)
        written = public is not None and public.attributes & NvAttribute.WRITTEN
        if written and self._device.nv_read(index, RELEASE_SIZE) == self._identity.policy.release_data(x):
            return Branch.RELEASE, counter
        if counter != self._identity.birth_counter:
            raise DeniedError(Reason.KEY_LATCHED, f"counter {counter}")
        changed = [str(pcr) for pcr in BOUND_PCRS if pcrs[pcr] != self._identity.birth_pcrs[pcr]]
        raise DeniedError(Reason.TPM_REFUSED, f"changed since enrolment: PCR {', '.join(changed)}")

    def sign(self, digest: Digest) -> bytes:
        """An ECDSA signature over a SHA-256 digest, by whichever branch is open; in its one form, as operators' are.

        :raises DeniedError: ``key_latched``, ``image_not_signed``, ``tpm_refused``.
        """
        signature = self.used(
            self._identity.public, self._identity.private, lambda key, policy: self._device.sign(key, digest, policy)
        )
        r, s = decode_dss_signature(signature)
        return encode_dss_signature(r, min(s, ORDER - s))

    def used(self, public: bytes, private: bytes, use: Use) -> bytes:
        """Use an object that has this key's policy, by whichever branch is open.

        A PCR that changes while the session is under way (the next boot phase) is tried once more.

        :param use: one command with the loaded object and the policy session. :raises DeniedError: as :meth:`sign`.
        """
        branch, counter = self.branch()
        try:
            return self._used_by(branch, counter, public, private, use)
        except DeniedError as error:
            if not pcr_changed(error):
                raise
            return self._used_by(*self.branch(), public, private, use)

    def sign_by(self, branch: Branch, counter: int, digest: Digest) -> bytes:
        """Sign by this branch and this claim about the counter; the TPM decides. :raises DeniedError: as above."""
        identity = self._identity
        return self._used_by(
            branch, counter, identity.public, identity.private, lambda key, s: self._device.sign(key, digest, s)
        )

    def _used_by(self, branch: Branch, counter: int, public: bytes, private: bytes, use: Use) -> bytes:
        with self._device.policy_session() as session, self._device.loaded(public, private) as item:
            self.satisfy(session, branch, counter)
            return use(item, session)

    def satisfy(self, session: PolicySession, branch: Branch, counter: int) -> None:
        """Bring a policy session to the key's authPolicy."""
        identity = self._identity
        session.pcr((IMAGE_PCR,))
        approved = session.digest()
        try:
            self._authorize(session, approved)
        except DeniedError as error:
            if error.reason is not Reason.TPM_REFUSED or approved not in self._tickets:
                raise
            del self._tickets[approved]  # of another TPM, or of this one before it was cleared
            self._authorize(session, approved)
        session.pcr(BOUND_PCRS)
        session.nv_equal(COUNTER_INDEX, counter)
        if branch is Branch.RELEASE:
            session.authorize_nv(identity.policy.release_index)
        session.any_of((identity.birth, identity.policy.y))

    def latch(self, evidence: Digest, after: int | None = None) -> tuple[int, Attestation]:
        """Lock the key until two operators release it: increment, certify, extend PCR 14.

        The certificate comes between: should the power fail before the extension, the reset ends held sessions too.
        A box that this latched already is not counted up again; the rest is done again.

        :param evidence: what the counter's certificate carries, and PCR 14 is extended for: until the next start that
            register tells what the key was locked for, and no second thing can be put in its place.
        :param after: the counter when the latch was asked for: once it is beyond that, it is latched already.
        :return: the counter, and the attestation key's certificate of it.
        """
        if not self._latched_already(after):
            self._device.nv_increment(COUNTER_INDEX)
            self._journal().write(self._folder)
        certificate = self.certify_counter(evidence)
        self._end_held_sessions(latch_word(evidence))
        return read_counter(self._device), certificate

    def resume_latch(self) -> bool:
        """Finish a latch that was cut short, at start: whether the key is latched.

        Without a note that PCR 14 was extended for this value of the counter, it is extended: once too often at
        worst, and no local secret is bound to it.
        """
        try:
            self.branch()
        except DeniedError as error:
            if error.reason is not Reason.KEY_LATCHED:
                return False
            self._end_held_sessions(RESUMED_WORD)
            return True
        return False

    def _latched_already(self, after: int | None) -> bool:
        """Whether this counter value came from a latch and nothing was released since. In doubt not: it counts on."""
        try:
            self.branch()
        except DeniedError as error:
            if error.reason is not Reason.KEY_LATCHED:
                return False
            if after is not None and read_counter(self._device) > after:
                return True
            noted = LatchJournal.read(self._folder)
            return noted is not None and self._journal(noted.ended) == noted
        return False

    def _end_held_sessions(self, word: Digest) -> None:
        noted = LatchJournal.read(self._folder)
        now = self._journal(ended=True)
        if noted != now:
            self._device.pcr_extend(HELD_PCR, word)
            now.write(self._folder)

    def _journal(self, ended: bool = False) -> LatchJournal:
        index = self._identity.policy.release_index
        public = self._device.nv_public(index)
        written = public is not None and public.attributes & NvAttribute.WRITTEN
        release = self._device.nv_read(index, RELEASE_SIZE) if written else b""
        return LatchJournal(read_counter(self._device), release, ended)

    def certify_counter(self, evidence: bytes) -> Attestation:
        """The attestation key's certificate of the counter: what a release is signed against."""
        with self._device.attestation_key() as (attestation_key, _):
            return self._device.nv_certify(attestation_key, COUNTER_INDEX, 8, evidence)

    def certify(self, qualifying: bytes) -> Attestation:
        """The attestation key's certificate that the boundary key is in this TPM; also while it is latched."""
        with (
            self._device.attestation_key() as (attestation_key, _),
            self._device.loaded(self._identity.public, self._identity.private) as key,
        ):
            return self._device.certify(attestation_key, key, qualifying)

    def import_release(self, x: Digest, signatures: PairSignatures) -> None:
        """Write a release into the TPM. Whether it opens the key is decided by counter and PCRs at each use.

        :raises DeniedError: ``tpm_refused``: the signatures are not two operators' over this.
        """
        policy = self._identity.policy
        public = self._device.nv_public(policy.release_index)
        if public is None or public.defined() != policy.release_public:
            raise IntegrityError(Reason.TPM_ALTERED, "the release index is not the one of this key; provision again")
        data = policy.release_data(x)
        chosen = signatures.again if public.attributes & NvAttribute.WRITTEN else signatures.fresh
        fresh, again = policy.release_messages(x)
        message = again if public.attributes & NvAttribute.WRITTEN else fresh
        with self._device.policy_session() as session:
            for position, signature in zip(signatures.pair, chosen, strict=True):
                self._signed(session, policy.operators.keys[position], Digest(message[4:36]), signature)
            if len(policy.operators.keys) > 2:
                session.any_of(policy.operators.branches(policy.device))
            self._device.nv_write(policy.release_index, data, session)

    def _signed(
        self, session: PolicySession, operator: EllipticCurvePublicKey, cp_hash: Digest, signature: bytes
    ) -> None:
        with self._device.loaded_external(ecdsa_public_of(operator)) as key:
            session.signed(key, cp_hash, self._identity.policy.device, signature)

    def _authorize(self, session: PolicySession, approved: Digest) -> None:
        ticket = self._tickets.get(approved) or self._verify(approved)
        session.authorize(approved, self._identity.policy.image_name, ticket)

    def _verify(self, approved: Digest) -> Ticket:
        image_key = self._identity.policy.image_key
        signature = self._images.over(approved, image_key)
        area = rsa_public_of(image_key)
        with self._device.loaded_external(area) as key:
            ticket = self._device.verify_rsa(key, sha256(approved), signature)
        self._tickets[approved] = ticket
        texts = {digest.hex(): kept.digest.hex() for digest, kept in self._tickets.items()}
        with contextlib.suppress(OSError):  # it is verified again next time
            write_atomically(self._ticket_file, json.dumps(texts).encode())
        return ticket

    def _read_tickets(self) -> dict[Digest, Ticket]:
        """A damaged file costs one verification, no more."""
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            texts = json.loads(self._ticket_file.read_bytes())
            return {Digest(bytes.fromhex(key)): Ticket(bytes.fromhex(value)) for key, value in texts.items()}
        return {}
