# SPDX-License-Identifier: Apache-2.0
"""A box's keys for the benchmarks: a software TPM, at will behind a slow bus, with the keeper's own code on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import trio
from cryptography import x509

from appliance.boundary.names import ZoneId
from appliance.dev.boxes import make_boxes
from appliance.dev.environment import TPM_PORT, Environment
from appliance.dev.layout import HOST, PLANT, KeysChoice, Layout, ZoneLayout
from appliance.dev.offline import OPERATORS, Offline
from appliance.keys.certificates import Authority, Session, certify_device_ca
from appliance.keys.enrolled_box import EnrolledBox
from appliance.keys.enrolment.birth import BirthPolicy
from appliance.keys.keeper.box import Box
from appliance.keys.keeper.config import KeeperConfig
from appliance.keys.release import ReleaseRequest, add_signature, certified_counter, new_release
from appliance.keys.tpm.policy import BOUND_PCRS
from appliance.keys.tpm.public import Digest, p256_key
from tests.bench.children import Child, listens, python_command
from tests.bench.failure import BenchError

_READY_S: Final = 10.0


async def start_tpm(files: ZoneLayout, port: int) -> Child:
    """A zone's software TPM at a port; its state is there."""
    state = files.tpm_state.relative_to(files.root)
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "not-need-init"]
    command += ["--server", f"type=tcp,port={port},bindaddr={HOST}"]
    command += ["--ctrl", f"type=tcp,port={port + 1},bindaddr={HOST}"]
    child = await Child.start(command, files.root / "swtpm.log", cwd=files.root)
    await child.wait_until(partial(_listens_at, port + 1), "swtpm", _READY_S)
    return child


async def start_relay(files: ZoneLayout, port: int, tpm_port: int, wait_s: float) -> Child:
    """A relay at a port that lets every command to a TPM wait."""
    command = python_command("tests.bench.slow_tpm", str(port), str(tpm_port), str(wait_s))
    child = await Child.start(command, files.root / "slow-tpm.log")
    await child.wait_until(partial(_listens_at, port + 1), "the relay", _READY_S)
    return child


class OpenBox:
    """An open box: what the keeper does, called directly, and how many TPM commands it took."""

    def __init__(self, config: KeeperConfig, hub: Authority, tcti: str) -> None:
        self.commands = 0
        self._zone = config.zone
        self._offline: Offline | None = None
        self.box = Box.open(replace(config, tpm=replace(config.tpm, tcti=tcti)), self._count)
        now = datetime.now(UTC)
        self._device_ca: x509.Certificate = certify_device_ca(hub, config.zone, self.box.identity.public_key, now)

    def _count(self, _: str) -> None:
        self.commands += 1

    def issue(self) -> Session:
        """A session, as the keeper issues it."""
        return self.box.issue(self._zone, self._device_ca, datetime.now(UTC))

    def release(self, offline: Offline, evidence: Digest) -> None:
        """Both operators release it, with their own tools."""
        described = self.box.describe()
        birth = BirthPolicy.parse(described.policy)
        enrolled = EnrolledBox(self._zone, birth, described.boundary_public, p256_key(described.ak_public))
        certificate, pcrs = self.box.certify(evidence).counter, self.box.quote(evidence).pcrs
        request = ReleaseRequest(
            self._zone,
            birth.policy.device,
            certified_counter(certificate.statement, evidence),
            {pcr: pcrs[pcr] for pcr in BOUND_PCRS},
            evidence,
            certificate,
        )
        release = new_release(enrolled, request)
        for name in OPERATORS:
            release = add_signature(enrolled, request, release, offline.operator(name))
        self.box.import_release(release.render())


class BenchBox:
    """One zone's software TPM, and a relay that makes it slow. :meth:`start` it, then :meth:`opened` by either way."""

    def __init__(self, root: Path, hub: Authority, slow_s: float) -> None:
        self._environment = Environment.generate(Layout.at(root), KeysChoice.SWTPM)
        self._files = self._environment.layout.zone(PLANT)
        self._hub, self._slow_s = hub, slow_s
        self._children: list[Child] = []

    @property
    def zone(self) -> ZoneId:
        """Whose box it is."""
        return PLANT

    @property
    def offline(self) -> Offline:
        """The operators' keys."""
        return Offline(self._environment.layout.offline)

    async def start(self) -> None:
        """Make the TPM, start it and the relay."""
        self._files.root.mkdir(parents=True)
        await trio.to_thread.run_sync(make_boxes, self._environment)
        port = self._environment.ports[TPM_PORT[PLANT]]
        relay = self._environment.ports[TPM_PORT[self._other]]
        self._children = [await start_tpm(self._files, port), await start_relay(self._files, relay, port, self._slow_s)]

    @property
    def _other(self) -> ZoneId:
        return next(zone for zone in TPM_PORT if zone != PLANT)

    async def stop(self) -> None:
        """End both."""
        for child in reversed(self._children):
            await child.stop()
        self._children.clear()

    @contextmanager
    def opened(self, *, slow: bool) -> Iterator[OpenBox]:
        """The keeper's code on the TPM; one at a time. Blocking."""
        if not self._children:
            raise BenchError("the TPM does not run")
        port = self._environment.ports[TPM_PORT[self._other if slow else PLANT]]
        opened = OpenBox(KeeperConfig.load(self._files.keeper_config), self._hub, f"swtpm:host={HOST},port={port}")
        try:
            yield opened
        finally:
            opened.box.close()


def _listens_at(port: int, _pid: int) -> bool:
    return listens(HOST, port)
