# SPDX-License-Identifier: Apache-2.0
"""The latch is in the TPM, not in an image or on a disk: the other slot, an older disk, a new disk; software TPMs.

Beside each attack its control: the same thing done to a box that is not latched, which then works. The boots are
**simulated**: this file extends the PCRs as two images of one builder would.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from appliance.boundary.errors import BsfgError, DeniedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.keys.enrolment import boxside
from appliance.keys.enrolment.documents import Grant, Pending
from appliance.keys.enrolment.voucher import new_voucher
from appliance.keys.folder import PkiFolder
from appliance.keys.keeper.keeper import Keeper
from appliance.keys.keeper.port import KeeperState
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.endorsement import fingerprint_of
from appliance.keys.tpm.manufacture import make_software_tpm
from appliance.keys.tpm.policy import Operators
from appliance.keys.tpm.public import sha256
from appliance.watchdog.probes.key import KeyProbe
from appliance.watchdog.probes.tpm import tpm_probes
from appliance.watchdog.suspicions import Code
from tests.attesting import IMAGE_KEY
from tests.boxes import ADMITTER, DAY_MS
from tests.boxes import OPERATORS as OFFICE_OPERATORS
from tests.boxes import Site as HubSite
from tests.contracts.keeper import EVIDENCE, RECEIPT, World
from tests.keepers import ALL_ROLES, BUILDER, OPERATORS, PLANT, Site
from tests.slots import NEWER, OLDER, Slot
from tests.tampering_tpm import new_keeper, seen_by
from tests.tpm import SoftwareTpm

SECRET: Final = b"a secret of the boundary"


OTHER_LINE: Final = Slot("1.0.0", {12: sha256(b"another command line"), 13: sha256(b"another extension")})
"""The older image, started otherwise than the box was enrolled."""


class Box:
    """A TPM, and whatever disk is in the box. Its keeper runs in this process, from :meth:`boot` on.

    :param operators, builder: whom it obeys.
    """

    keeper: Keeper
    site: Site

    def __init__(self, folder: Path, operators: Operators = OPERATORS, builder: rsa.RSAPrivateKey = BUILDER) -> None:
        made = make_software_tpm(folder / "tpm")
        self.vendor_cas = made.vendor_cas
        self.folder, self.operators, self.builder = folder, operators, builder
        self.tpm = SoftwareTpm(made.state).start()
        self._runs = False
        self.new_disk()

    def new_disk(self) -> None:
        """Flashed anew: the keys of whom the box obeys, and nothing else. It must be off."""
        assert not self._runs
        shutil.rmtree(self.folder / "disk", ignore_errors=True)
        self.site = Site(self.folder / "disk", self.tpm.tcti, operators=self.operators, builder=self.builder)
        self.site.write(self.tpm.tcti, {os.getuid(): ALL_ROLES}, boot=False)

    async def off(self) -> None:
        """Its power is cut."""
        if self._runs:
            await self.keeper._worker.close()
            self._runs = False

    async def boot(self, slot: Slot) -> None:
        """Switch it off and on, into this slot."""
        await self.off()
        self.tpm.reset()
        with Device(self.tpm.tcti) as device:
            slot.measure(device)
        self.site.sign_image(slot.signatures(self.builder))
        self.keeper = await new_keeper(self.site)
        self._runs = True

    @property
    def world(self) -> World:
        """What the keeper's contract calls it by."""
        return World(self.keeper, self.site)

    async def works(self) -> None:
        """Signatures, sessions, secrets; and the watchdog has nothing against it."""
        keeper = self.keeper
        await self.site.tell_time(keeper)
        await keeper.sign(RECEIPT)
        assert (await keeper.session("agent")).path.exists()
        assert await keeper.unseal("agent.token") == SECRET
        assert (await seen_by(self.probe))[0] == frozenset()

    async def refuses(self, counter: int = 2) -> None:
        """None of these; and the watchdog, which knows of no quarantine, is told by the TPM."""
        keeper = self.keeper
        for call in (keeper.sign(RECEIPT), keeper.session("agent"), keeper.unseal("agent.token")):
            with pytest.raises(DeniedError, match=r"key_latched|tpm_refused"):
                await call
        assert list((self.site.folder / "session").iterdir()) == []
        await keeper.tick()
        status = await keeper.status()
        assert (status.state, status.counter) == (KeeperState.LATCHED, counter)
        assert (await seen_by(self.probe))[0] == {Code.KEY_LATCHED}

    @property
    def probe(self) -> KeyProbe:
        """Of a watchdog whose folder is empty, or as it was before the quarantine."""
        at = self.folder / "run"
        at.mkdir(exist_ok=True)
        probes = tpm_probes(
            self.keeper,
            lambda: False,
            pki=self.site.folder / "pki",
            run_dir=at,
            image_signatures=self.site.folder / "pcrsig.json",
        )
        return next(each for each in probes if isinstance(each, KeyProbe))


@asynccontextmanager
async def switched_on(box: Box) -> AsyncIterator[Box]:
    """It, and in the end neither keeper nor TPM."""
    try:
        yield box
    finally:
        await box.off()
        box.tpm.stop()


async def test_the_other_slot_does_not_open_the_latch(tmp_path: Path) -> None:
    """Older image, older files of keeper and watchdog, both: latched. Before, and released, either slot works.

    A slot that was started otherwise (PCRs 12 and 13) works in neither case: the key is bound to these.
    """
    async with switched_on(Box(tmp_path)) as box:
        await box.boot(NEWER)
        keeper = await box.world.ready()
        await keeper.seal("agent.token", SECRET)
        state, older_files = box.site.folder / "state", box.folder / "older"
        shutil.copytree(state, older_files)
        await box.works()
        await box.boot(OTHER_LINE)
        with pytest.raises(DeniedError, match="tpm_refused"):
            await box.keeper.unseal("agent.token")
        await box.boot(OLDER)
        await box.works()
        await box.keeper.latch(EVIDENCE)
        await box.refuses()
        for slot in (OLDER, OTHER_LINE, NEWER):
            await box.off()
            shutil.rmtree(state)
            shutil.copytree(older_files, state)
            await box.boot(slot)
            await box.refuses()
        await box.keeper.import_release((await box.world.release()).render())
        await box.works()
        await box.boot(OLDER)
        await box.works()


async def test_a_new_disk_does_not_open_the_latch(tmp_path: Path) -> None:
    """Flashed anew, the TPM makes a new key, and the hub knows the TPM: no voucher and no approval lets it in.

    Flashed anew before it was latched, the same box comes back with the voucher of an operator.
    """
    async with switched_on(Box(tmp_path, OFFICE_OPERATORS, IMAGE_KEY)) as box:
        hub = HubSite(tmp_path / "hub", now_ms=time.time_ns() // 1_000_000)
        vendors = [tmp_path / "vendor-of-boxes.pem", hub.folder / "material/vendor.pem"]
        vendors[0].write_bytes(box.vendor_cas)
        await hub.init(vendors=vendors).own()
        ca = hub.box_folder().hub_ca.read_bytes()

        async def enrol() -> Grant | Pending:
            await box.boot(NEWER)
            folder = PkiFolder(box.site.folder / "pki")
            folder.hub_ca.write_bytes(ca)
            told = fingerprint_of((await box.keeper.describe()).ek_public)
            voucher = new_voucher(ADMITTER, PLANT, told, hub.now_ms + DAY_MS)
            found = await boxside.enrol(box.keeper, hub.send, PLANT, folder, boxside.Papers(voucher.render()))
            assert isinstance(found, Grant | Pending)
            return found

        async def approved() -> None:
            hub.office.approve(fingerprint_of((await box.keeper.describe()).ek_public), PLANT)

        async def flashed() -> None:
            await box.off()
            box.new_disk()

        first = await enrol()
        assert isinstance(first, Grant)
        await flashed()
        second = await enrol()
        assert isinstance(second, Grant)
        assert second.device_ca != first.device_ca
        await box.keeper.latch(EVIDENCE)
        await flashed()
        for _ in range(2):
            with pytest.raises(BsfgError) as refused:
                await enrol()
            assert refused.value.reason is Reason.BOX_QUARANTINED
            await approved()
        with pytest.raises(UnavailableError, match="not_enrolled"):
            await box.keeper.session("agent")
