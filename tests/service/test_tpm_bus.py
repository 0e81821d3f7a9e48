# SPDX-License-Identifier: Apache-2.0
"""What somebody on the bus between processor and TPM reads, and what happens when they write."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.boundary.errors import BsfgError
from appliance.keys.tpm.boundary_key import BoundaryKey, Branch
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.image import ImageSignatures
from appliance.keys.tpm.policy import BOUND_PCRS, IMAGE_PCR, START, policy_pcr
from appliance.keys.tpm.provisioning import provision
from appliance.keys.tpm.public import sha256
from tests.tpm import SoftwareTpm, free_pair, image_key, image_signatures, people, software_tpm

Alter = Callable[[bytes], bytes]


class Bus:
    """A relay before a software TPM that writes down every byte, and may alter the TPM's answers."""

    def __init__(self, tpm: SoftwareTpm) -> None:
        self.seen = bytearray()
        self.commands = 0
        self.alter: Alter = lambda data: data
        self.port = free_pair()
        self.listeners = [self._relay(self.port, tpm.port), self._relay(self.port + 1, tpm.port + 1)]

    @property
    def tcti(self) -> str:
        """Where it listens."""
        return f"swtpm:host=127.0.0.1,port={self.port}"

    def _relay(self, port: int, target: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._serve, args=(listener, target), daemon=True).start()
        return listener

    def _serve(self, listener: socket.socket, target: int) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, socket.create_connection(("127.0.0.1", target)) as server:
                while request := client.recv(65536):
                    self.commands += 1
                    self.seen += request
                    server.sendall(request)
                    answer = server.recv(65536)
                    self.seen += answer
                    client.sendall(self.alter(answer))


@contextmanager
def bus(folder: Path) -> Iterator[Bus]:
    """A software TPM behind a bus."""
    with software_tpm(folder) as tpm:
        relay = Bus(tpm)
        try:
            yield relay
        finally:
            for listener in relay.listeners:
                listener.shutdown(socket.SHUT_RDWR)
                listener.close()


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
