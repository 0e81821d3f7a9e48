# SPDX-License-Identifier: Apache-2.0
"""What somebody on the bus between processor and TPM reads, and what happens when they write."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from appliance.boundary.errors import BsfgError
from appliance.keys.enrolment.birth import BirthPolicy
from appliance.keys.enrolment.credential import make_credential
from appliance.keys.tpm.boundary_key import BoundaryKey, Branch
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.endorsement import endorsement_key
from appliance.keys.tpm.image import ImageSignatures
from appliance.keys.tpm.policy import BOUND_PCRS, IMAGE_PCR, START, policy_pcr
from appliance.keys.tpm.provisioning import provision, read_counter
from appliance.keys.tpm.public import name_of, p256_key, sha256, sized
from appliance.keys.tpm.sealing import seal, unseal
from tests.keepers import Site, running_keeper
from tests.tpm import bus, image_key, image_signatures, people

MESSAGE = sha256(b"a receipt")


def test_nothing_that_can_be_encrypted_is_in_clear(tmp_path: Path) -> None:
    """Over a thousand commands; what is public and cannot be encrypted is seen, so the search does find things."""
    builder, (_, operators) = image_key(), people(2)
    with bus(tmp_path / "tpm") as wire, Device(wire.tcti) as device:
        identity = provision(device, tmp_path, operators, builder.public_key())
        value = device.pcr_read((IMAGE_PCR,))[IMAGE_PCR]
        images = ImageSignatures.parse(image_signatures(builder, [value]), builder.public_key())
        key = BoundaryKey(device, identity, images, tmp_path)
        messages = [sha256(bytes([number])) for number in range(90)]
        for message in messages:
            key.sign_by(Branch.BIRTH, identity.birth_counter, message)
        certificate = key.certify_counter(messages[0])
        assert wire.commands > 1000
        approved = policy_pcr(START, {IMAGE_PCR: value})
        hidden = [*messages, approved, certificate.statement, identity.private[2:]]
        assert [text.hex() for text in hidden if text in wire.seen] == []
        assert wire.seen.count(identity.policy.y) >= len(messages)  # PolicyOR's list


def test_an_altered_answer_is_refused(tmp_path: Path) -> None:
    """Whoever changes a PCR value on its way is found by the session's HMAC."""
    _, operators = people(2)
    with bus(tmp_path / "tpm") as wire, Device(wire.tcti) as device:
        provision(device, tmp_path, operators, image_key().public_key())
        device.pcr_read(BOUND_PCRS)
        wire.alter = lambda answer: answer.replace(bytes(32), b"\x01" * 32)
        with pytest.raises(BsfgError, match="tpm_fault"):
            device.pcr_read(BOUND_PCRS)
        wire.alter = lambda answer: answer


async def test_a_keepers_secrets_are_not_on_the_bus(tmp_path: Path) -> None:
    """Over a thousand commands of a keeper: what it seals, opens, activates and signs; public names are seen."""
    with bus(tmp_path / "tpm") as wire:
        site = Site(tmp_path / "site", wire.tcti)
        with running_keeper(site):
            keeper = site.client
            await site.enrol()
            await site.tell_time()
            told = await keeper.describe()
            secrets = [hashlib.sha256(bytes([number])).digest() * 4 for number in range(6)]
            for number, secret in enumerate(secrets):
                await keeper.seal(f"agent.{number}", secret)
                assert await keeper.unseal(f"agent.{number}") == secret
            activated = [hashlib.sha256(b"credential %d" % number).digest() for number in range(3)]
            for value in activated:
                hidden = make_credential(endorsement_key(told.ek_public), name_of(told.ak_public), value)
                assert await keeper.activate(hidden.blob, hidden.seed) == value
            statements = [b"bsfg.v1 receipt\n%d\n" % number for number in range(60)]
            for statement in statements:
                await keeper.sign(statement)
            certified = await keeper.certify(bytes(range(32)))
            assert wire.commands > 1000
            texts = [secret[:32] for secret in secrets] + activated + [sha256(each) for each in statements]
            private = site.folder.joinpath("state", "boundary-key.json").read_bytes()
            texts += [bytes.fromhex(json.loads(private)["private"])[2:], certified.key.statement, bytes(range(32))]
            assert [text.hex() for text in texts if text in wire.seen] == []
            assert told.boundary_public[-32:] in wire.seen  # it is public, and Load cannot encrypt it
            assert wire.seen.count(BirthPolicy.parse(told.policy).policy.y) >= len(statements)  # PolicyOR's list


class Change:
    """Alters one byte of one message, once."""

    def __init__(self, number: int, random: Random) -> None:
        self.left = number
        self.random = random
        self.where: tuple[int, int] | None = None

    def __call__(self, data: bytes) -> bytes:
        """One bit, but none of the length: a message that is cut off is a TPM that does not answer."""
        self.left -= 1
        if self.left or len(data) <= 10:
            return data
        place = self.random.choice([0, 1, *range(6, len(data))])
        self.where = (place, bit := 1 << self.random.randrange(8))
        return data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]


def test_whoever_alters_a_message_is_found_out(tmp_path: Path) -> None:
    """Two hundred distinct changes of answers and commands: the true outcome, or an error; never another outcome."""
    builder, (_, operators), random = image_key(), people(2), Random(11)
    with bus(tmp_path / "tpm") as wire:
        with Device(wire.tcti) as device:
            identity = provision(device, tmp_path, operators, builder.public_key())
            value = device.pcr_read((IMAGE_PCR,))[IMAGE_PCR]
            images = ImageSignatures.parse(image_signatures(builder, [value]), builder.public_key())
            sealed = seal(device, BoundaryKey(device, identity, images, tmp_path), b"secret")

        def quoted(device: Device) -> bool:
            with device.attestation_key() as (key, area):
                attestation = device.quote(key, (7, 11), b"nonce")
            p256_key(area).verify(attestation.signature, attestation.statement, ec.ECDSA(hashes.SHA256()))
            return sized(b"nonce") in attestation.statement

        def signed(device: Device) -> bool:
            signature = BoundaryKey(device, identity, images, tmp_path).sign(MESSAGE)
            identity.public_key.verify(signature, MESSAGE, ec.ECDSA(Prehashed(hashes.SHA256())))
            return True

        truths: list[tuple[int, Callable[[Device], bool]]] = [
            (30, signed),
            (4, lambda device: read_counter(device) == identity.birth_counter),
            (1, lambda device: device.pcr_read((IMAGE_PCR,)) == {IMAGE_PCR: value}),
            (30, lambda device: unseal(device, BoundaryKey(device, identity, images, tmp_path), sealed) == b"secret"),
            (4, quoted),
        ]
        errors = Counter[str]()
        changes = set[object]()
        for number in itertools.count():
            kind, side = number % len(truths), ("alter", "alter_command")[number // len(truths) % 2]
            commands, truth = truths[kind]
            change = Change(random.randint(1, commands), random)
            with Device(wire.tcti, identity.srk_name) as device:
                setattr(wire, side, change)
                try:
                    assert truth(device)
                except BsfgError as error:
                    errors[error.reason] += 1
                finally:
                    setattr(wire, side, lambda data: data)
            if change.where is not None:
                changes.add((side, kind, change.where))
            if len(changes) == 200:
                break
        assert errors.total() > 120
        with Device(wire.tcti, identity.srk_name) as device:
            assert all(truth(device) for _, truth in truths)
