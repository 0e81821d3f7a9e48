# SPDX-License-Identifier: Apache-2.0
"""Images of one builder, and what their boots measure. The boots are **simulated**: whoever plays one extends the PCRs.

PCRs 4 and 9, which differ between images too, are left out: nothing of the product is bound to them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from appliance.keys.tpm.device import Device
from appliance.keys.tpm.policy import IMAGE_PCR
from appliance.keys.tpm.public import Digest, sha256
from appliance.keys.tpm.simulated_boot import SIMULATED_PCRS, pcr_signatures, simulated_word


@dataclass(frozen=True)
class Slot:
    """An image that the builder signed. :param others: what else it has measured, by PCR."""

    version: str
    others: dict[int, Digest] = field(default_factory=dict)

    @property
    def words(self) -> dict[int, Digest]:
        """What its boot extends, by PCR."""
        image = {IMAGE_PCR: sha256(self.version.encode())}
        return {pcr: simulated_word(pcr) for pcr in SIMULATED_PCRS} | image | self.others

    def signatures(self, builder: rsa.RSAPrivateKey) -> bytes:
        """What comes with it."""
        return pcr_signatures(builder, [sha256(bytes(32) + self.words[IMAGE_PCR])])

    def measure(self, device: Device) -> None:
        """Do to a TPM that was just reset what its boot does."""
        device.ensure_srk()
        for pcr, word in self.words.items():
            device.pcr_extend(pcr, word)


NEWER: Final = Slot("2.0.0")
OLDER: Final = Slot("1.0.0")
