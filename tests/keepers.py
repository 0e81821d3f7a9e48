# SPDX-License-Identifier: Apache-2.0
"""A real keeper for tests: its configuration, its process, a hub CA that enrols it, and operators who release it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from appliance.boundary.names import ZoneId
from appliance.boundary.pages import Signature
from appliance.keys.certificates import Authority, certificate_der, certificate_pem, certify_request, new_device_ca
from appliance.keys.keeper.client import KeeperClient
from appliance.keys.keeper.config import KeeperConfig
from appliance.keys.keeper.keeper import NOT_ASKED
from appliance.keys.keeper.port import KeeperPort
from appliance.keys.operators import sign
from appliance.keys.time_token import TimeToken
from appliance.keys.tpm.identity import spki_pem
from appliance.keys.tpm.policy import Operators
from appliance.keys.tpm.simulated_boot import simulated_signatures
from tests.tpm import image_key, people

PLANT = ZoneId("plant-a")
HUB = ZoneId("enterprise")
ALL_ROLES = ("agent", "hub", "control", "watchdog", "administrator")
BUILDER = image_key()
PEOPLE, OPERATORS = people(2)


class Site:
    """One keeper's folder and its surroundings.

    :param callers: roles by uid; all of them for the test's own user, unless the test says otherwise.
    """

    def __init__(
        self,
        folder: Path,
        tcti: str,
        zone: ZoneId = PLANT,
        callers: Mapping[int, Sequence[str]] | None = None,
        operators: Operators = OPERATORS,
        builder: rsa.RSAPrivateKey = BUILDER,
        timeout_s: float = 15,
        hub: Authority | None = None,
    ) -> None:
        self.folder = folder
        self.zone = zone
        self.hub_ca = hub or _hub_ca()
        self.hub_key = new_device_ca(self.hub_ca, HUB, datetime.now(UTC))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pki" / "zones").mkdir(parents=True, exist_ok=True)
        (folder / "pki" / "hub-ca.pem").write_bytes(certificate_pem(self.hub_ca.certificate))
        (folder / "operators.pem").write_text("".join(spki_pem(key) for key in operators.keys))
        (folder / "image.pem").write_text(spki_pem(builder.public_key()))
        self.sign_image(simulated_signatures(builder))
        self.write(tcti, callers or {os.getuid(): ALL_ROLES}, timeout_s)

    def write(
        self, tcti: str, callers: Mapping[int, Sequence[str]], timeout_s: float = 15, *, boot: bool = True
    ) -> None:
        """Write the configuration."""
        who = "".join(f"{uid} = {list(roles)}\n".replace("'", '"') for uid, roles in callers.items())
        (self.folder / "keeper.toml").write_text(
            f'[keeper]\nzone = "{self.zone}"\nhub = "{HUB}"\nsocket = "keeper.sock"\nstate_dir = "state"\n'
            'run_dir = "run"\nsession_dir = "session"\nstatus_dir = "status"\npki_dir = "pki"\n'
            f'[tpm]\ntcti = "{tcti}"\ntimeout_s = {timeout_s}\nsimulated_boot = {str(boot).lower()}\n'
            '[trust]\noperators = "operators.pem"\nimage_key = "image.pem"\nimage_signatures = "pcrsig.json"\n'
            'boot_log = "boot.log"\nruntime_log = "runtime.log"\n'
            f"[callers]\n{who}"
        )

    @property
    def config(self) -> KeeperConfig:
        """As the keeper reads it."""
        return KeeperConfig.load(self.folder / "keeper.toml")

    @property
    def socket(self) -> Path:
        """Where the keeper is asked."""
        return self.folder / "keeper.sock"

    @property
    def client(self) -> KeeperClient:
        """The keeper, by its socket."""
        return KeeperClient(self.socket)

    def sign_image(self, signatures: bytes) -> None:
        """Put the image's signatures beside it."""
        (self.folder / "pcrsig.json").write_bytes(signatures)

    async def enrol(self, keeper: KeeperPort | None = None) -> x509.Certificate:
        """What a hub does in the end: sign the request. The proof before it has its own tests."""
        keeper = keeper or self.client
        request = x509.load_der_x509_csr(await keeper.certificate_request())
        certificate = certify_request(self.hub_ca, self.zone, request, datetime.now(UTC))
        await keeper.install(certificate_der(certificate))
        return certificate

    async def tell_time(self, keeper: KeeperPort | None = None, unix_ms: int | None = None) -> int:
        """Give the keeper a time token."""
        keeper = keeper or self.client
        return await keeper.set_time(self.token(await keeper.time_nonce(), unix_ms))

    def token(self, nonce: bytes, unix_ms: int | None = None, key: Authority | None = None) -> bytes:
        """A time token of the hub."""
        key, unix_ms = key or self.hub_key, time.time_ns() // 1_000_000 if unix_ms is None else unix_ms
        value = sign(key.key, TimeToken.statement_of(HUB, nonce, unix_ms))
        return TimeToken(HUB, nonce, unix_ms, Signature(value, certificate_der(key.certificate))).render()


def _hub_ca() -> Authority:
    from appliance.keys.certificates import new_hub_ca

    return new_hub_ca(datetime.now(UTC))


class KeeperProcess:
    """A keeper as a process of its own."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.log = site.folder / "keeper.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        """How it is started."""
        return [sys.executable, "-m", "appliance.keys.keeper", "--config", str(self.site.folder / "keeper.toml")]

    def start(self) -> None:
        """Start it, and wait until it serves and has looked at its TPM."""
        document = self.site.folder / "status" / "keeper.json"
        document.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(self.log.read_text())
            if self.site.socket.exists() and document.exists() and NOT_ASKED not in document.read_text():
                return
            time.sleep(0.02)
        raise RuntimeError(f"the keeper does not serve: {self.log.read_text()}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.process = None
        if number is signal.SIGKILL:
            self.site.socket.unlink(missing_ok=True)
        return code

    def restart(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it and start it again."""
        self.stop(number)
        self.start()


@contextmanager
def running_keeper(site: Site) -> Iterator[KeeperProcess]:
    """A keeper process that ends with the block."""
    keeper = KeeperProcess(site)
    keeper.start()
    try:
        yield keeper
    finally:
        keeper.stop(signal.SIGKILL)
