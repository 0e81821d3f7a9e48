# SPDX-License-Identifier: Apache-2.0
"""The probes that ask the TPM, as the watchdog of a box has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from appliance.keys.folder import PkiFolder
from appliance.keys.keeper.port import KeeperPort
from appliance.watchdog.probes.clock import ClockProbe
from appliance.watchdog.probes.key import KeyProbe
from appliance.watchdog.probes.quote import ImageFiles, QuoteProbe
from appliance.watchdog.probes.witness import Witness
from appliance.watchdog.probing import AsyncProbe

IMAGE_SIGNATURES = Path("/run/systemd/tpm2-pcr-signature.json")
PKI = Path("/var/lib/bsfg/pki")
RUN_DIR = Path("/run/bsfg/watchdog")


def tpm_probes(
    keeper: KeeperPort,
    latched: Callable[[], bool],
    *,
    pki: Path = PKI,
    run_dir: Path = RUN_DIR,
    image_signatures: Path = IMAGE_SIGNATURES,
) -> tuple[AsyncProbe, ...]:
    """``quote``, ``key`` and ``clock``.

    :param latched: whether the watchdog's own journal knows why the key is locked and PCR 14 extended, as long as one
        of them is: from the moment before it latches until it has been released and the machine was booted anew.
    :param run_dir: may be written, and does not outlive a boot.
    """
    folder = PkiFolder(pki)
    witness = Witness(keeper, folder, run_dir)
    images = ImageFiles(image_signatures, folder.measurements)
    return QuoteProbe(witness, images, latched), KeyProbe(witness, latched), ClockProbe(witness, run_dir)
