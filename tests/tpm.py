# SPDX-License-Identifier: Apache-2.0
"""A software TPM for tests, and the people and images around a boundary key. All keys here are made up on the spot."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from appliance.keys.tpm.image import fingerprint
from appliance.keys.tpm.policy import IMAGE_PCR, START, Operators, policy_pcr
from appliance.keys.tpm.public import Digest

Alter = Callable[[bytes], bytes]


class SoftwareTpm:
    """One swtpm process with its state in a folder; a restart is a reset of the machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_pair()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def tcti(self) -> str:
        """Where it listens."""
        return f"swtpm:host=127.0.0.1,port={self.port}"

    def start(self) -> Self:
        """Start it, and wait until it listens."""
        self.process = subprocess.Popen(
            [
                "swtpm",
                "socket",
                "--tpm2",
                "--tpmstate",
                f"dir={self.folder}",
                "--flags",
                "not-need-init",
                "--server",
                f"type=tcp,port={self.port},bindaddr=127.0.0.1",
                "--ctrl",
                f"type=tcp,port={self.port + 1},bindaddr=127.0.0.1",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if {self.port, self.port + 1} <= _listening():  # seen from outside: it serves one client at a time
                return self
            if self.process.poll() is not None:
                raise RuntimeError(f"swtpm ended with {self.process.returncode}")
            time.sleep(0.02)
        raise RuntimeError("swtpm does not listen")

    def stop(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def reset(self) -> None:
        """A reset of the machine: PCRs and sessions are gone, NV stays."""
        self.stop()
        self.start()


def _listening() -> set[int]:
    """The TCP ports that something listens on here (proc(5), net/tcp)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}


def free_pair() -> int:
    """A port that is free, as is the next."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise RuntimeError("no two free ports beside each other")


@contextmanager
def software_tpm(folder: Path) -> Iterator[SoftwareTpm]:
    """A software TPM that ends with the block."""
    tpm = SoftwareTpm(folder).start()
    try:
        yield tpm
    finally:
        tpm.stop()


class Bus:
    """A relay before a software TPM that writes down every byte, and may alter what passes, or take its time."""

    def __init__(self, tpm: SoftwareTpm) -> None:
        self.seen = bytearray()
        self.commands = 0
        self.alter: Alter = lambda data: data
        self.alter_command: Alter = lambda data: data
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
                    server.sendall(self.alter_command(request))
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


def people(count: int) -> tuple[tuple[ec.EllipticCurvePrivateKey, ...], Operators]:
    """Operators and their private keys."""
    keys = tuple(ec.generate_private_key(ec.SECP256R1()) for _ in range(count))
    return keys, Operators(tuple(key.public_key() for key in keys))


def image_key() -> rsa.RSAPrivateKey:
    """An image builder's key."""
    return rsa.generate_private_key(65537, 2048)


def image_signatures(key: rsa.RSAPrivateKey, values: Sequence[bytes]) -> bytes:
    """What the builder puts beside an image, as systemd-measure writes it: one entry per value of PCR 11."""
    entries = []
    for value in values:
        policy = Digest(policy_pcr(START, {IMAGE_PCR: value}))
        signature = key.sign(policy, padding.PKCS1v15(), hashes.SHA256())
        entries.append(
            {
                "pcrs": [IMAGE_PCR],
                "pkfp": fingerprint(key.public_key()),
                "pol": policy.hex(),
                "sig": base64.b64encode(signature).decode(),
            }
        )
    return json.dumps({"sha256": entries}).encode()
