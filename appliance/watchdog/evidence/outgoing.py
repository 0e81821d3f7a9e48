# SPDX-License-Identifier: Apache-2.0
"""The way out of the evidence: laid out for whoever copies it onto a USB stick, together with the request for release.

The folder of evidence is the watchdog's alone, and so is the right to ask the keeper for a request. So the watchdog
lays three files out, in memory, where a program of the group ``bsfg`` can read them; that one only copies.

The request is made anew each time, for PCRs may differ since the last start. Where it says the same as the one that is
kept beside the evidence, the kept one is laid out: only the signatures differ, and who copies finds the same bytes.

The same request as a text (:mod:`appliance.keys.release_code`) is made as soon as there is evidence, without anybody
asking: the status page draws it as a QR code.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio

from appliance.boundary.errors import BsfgError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.keys.files import GROUP, read_regular, replace_file, write_atomically
from appliance.keys.keeper.port import KeeperPort
from appliance.keys.release import MAXIMUM_BYTES, ReleaseRequest
from appliance.keys.release_code import ReleaseCode
from appliance.keys.release_request import request_of
from appliance.keys.tpm.public import Digest
from appliance.watchdog.evidence.store import EvidenceStore, Kept

FOLDER: Final = "outgoing"
"""In the watchdog's folder of this boot."""
BUNDLE: Final = "evidence.json"
SEAL: Final = "seal.json"
REQUEST: Final = "request.json"
"""Not there while the keeper makes none."""
LOOK_EVERY_S: Final = 1.0
ASK_AGAIN_S: Final = (15.0, 300.0)
"""When the keeper made no request: at first, and at most."""
_MODE: Final = 0o440
_log = logging.getLogger(__name__)


class Outgoing:
    """Lays evidence out. :param folder: where; its files have the group of the folder above it."""

    def __init__(self, keeper: KeeperPort, store: EvidenceStore, folder: Path) -> None:
        self._keeper, self._store, self._folder = keeper, store, folder
        self._one = trio.Lock()
        self._told: tuple[Digest, str] | None = None

    def text(self, evidence: Digest | None) -> str:
        """The request over this evidence as a text; empty: not made yet."""
        return self._told[1] if self._told is not None and self._told[0] == evidence else ""

    async def run(self, wanted: Callable[[], Digest | None]) -> None:
        """Make the text for whatever evidence is wanted, until cancelled. :param wanted: ``None``: nothing now."""
        again_s = ASK_AGAIN_S[0]
        while True:
            evidence = wanted()
            if evidence is None or self.text(evidence) or await self._tell(evidence):
                again_s = ASK_AGAIN_S[0]
                await trio.sleep(LOOK_EVERY_S)
            else:
                await trio.sleep(again_s)
                again_s = min(2 * again_s, ASK_AGAIN_S[1])

    async def _tell(self, evidence: Digest) -> bool:
        """Whether there is a text now."""
        try:
            async with self._one:
                kept = await trio.to_thread.run_sync(self._store.find, evidence)
                request = None if kept is None else await self._request(kept, evidence)
            if request is None:
                return False
            self._told = evidence, ReleaseCode.of(ReleaseRequest.parse(request)).render()
        except (OSError, BsfgError) as error:
            _log.error("no request for release as a text: %s", error)
        except Exception:  # noqa: BLE001 - a defect here must not end the watchdog
            _log.exception("no request for release as a text")
        return self._told is not None and self._told[0] == evidence

    async def lay_out(self, evidence: Digest) -> None:
        """Lay out the bundle with this digest, its seal, and the request if the keeper makes one.

        :raises UnavailableError: ``not_ready``: there is no such bundle; ``disk_failed``: it cannot be read or laid
            out.
        :raises RefusedError: ``bad_evidence``: what is kept is damaged.
        """
        async with self._one:
            try:
                await self._lay_out(evidence)
            except OSError as error:
                raise UnavailableError(Reason.DISK_FAILED, f"evidence: {error}") from error

    async def _lay_out(self, evidence: Digest) -> None:
        kept = await trio.to_thread.run_sync(self._store.find, evidence)
        if kept is None:
            raise UnavailableError(Reason.NOT_READY, "the evidence is not kept any more")
        bundle, seal = await trio.to_thread.run_sync(kept.read)
        request = await self._request(kept, evidence)
        await trio.to_thread.run_sync(self._write, {BUNDLE: bundle, SEAL: seal, REQUEST: request})

    async def _request(self, kept: Kept, evidence: Digest) -> bytes | None:
        """``None``: the keeper makes none now; evidence is worth being carried without one."""
        try:
            made = await request_of(self._keeper, evidence)
        except BsfgError as error:
            _log.error("no request for release: %s", error)
            return None
        return await trio.to_thread.run_sync(_kept_or, kept.request, made)

    def _write(self, files: dict[str, bytes | None]) -> None:
        self._folder.mkdir(mode=0o750, exist_ok=True)
        for name, data in files.items():
            if data is None:
                (self._folder / name).unlink(missing_ok=True)
            else:
                replace_file(self._folder / name, data, GROUP)


def _kept_or(path: Path, made: ReleaseRequest) -> bytes:
    """The request that is kept, if it says the same; else the new one, which is kept from now on."""
    with contextlib.suppress(OSError, ValueError, BsfgError):
        data = read_regular(path, MAXIMUM_BYTES)
        if replace(ReleaseRequest.parse(data), certificate=made.certificate) == made:
            return data
    data = made.render()
    try:
        write_atomically(path, data, _MODE)
    except OSError as error:  # a full disk: then the next one has another signature, and that is all
        _log.error("the request for release is not kept: %s", error)
    return data
