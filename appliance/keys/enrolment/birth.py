# SPDX-License-Identifier: Apache-2.0
"""What a boundary key's authPolicy is made of, as a box tells it: enough to compute the policy again.

It is public, and nobody need believe it: whoever computes the policy compares it with the one of the certified key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from appliance.boundary.errors import BsfgError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.keys.documents import decimal_number, hex_bytes, parse_document, render_document
from appliance.keys.tpm.identity import BoundaryIdentity, load_p256, load_rsa, spki_pem
from appliance.keys.tpm.policy import BOUND_PCRS, BoundaryPolicy, DeviceRef, Operators
from appliance.keys.tpm.public import BOUNDARY, Digest, attributes_of

POLICY_FORMAT: Final = "bsfg-boundary-policy-1"
POLICY_BYTES: Final = 8192
_FIELDS: Final = {
    "device": str,
    "operators": list,
    "image_key": str,
    "release_index": str,
    "birth_counter": str,
    "birth_pcrs": dict,
}


@dataclass(frozen=True, slots=True)
class BirthPolicy:
    """The policy of a boundary key, and what it was born under.

    :param counter: the counter at birth. :param pcrs: :data:`~appliance.keys.tpm.policy.BOUND_PCRS` at birth.
    """

    policy: BoundaryPolicy
    counter: int
    pcrs: Mapping[int, bytes]

    @classmethod
    def of(cls, identity: BoundaryIdentity) -> Self:
        """What is public of a box's identity."""
        return cls(identity.policy, identity.birth_counter, dict(identity.birth_pcrs))

    @property
    def auth_policy(self) -> Digest:
        """The authPolicy that the key must have."""
        return self.policy.auth_policy(self.policy.x(self.counter, self.pcrs))

    def is_of(self, public: bytes) -> bool:
        """Whether a TPMT_PUBLIC has this policy and a boundary key's attributes. :raises RefusedError: ``bad_key``."""
        return attributes_of(public) == (BOUNDARY, self.auth_policy)

    def render(self) -> bytes:
        """The one form of this document."""
        return render_document(
            {
                "format": POLICY_FORMAT,
                "device": self.policy.device.hex(),
                "operators": [spki_pem(key) for key in self.policy.operators.keys],
                "image_key": spki_pem(self.policy.image_key),
                "release_index": f"{self.policy.release_index:08x}",
                "birth_counter": str(self.counter),
                "birth_pcrs": {str(pcr): value.hex() for pcr, value in self.pcrs.items()},
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a policy. :raises RefusedError: ``bad_document``: not in its one form, or no policy."""
        values = parse_document(data, POLICY_FORMAT, _FIELDS, POLICY_BYTES)
        try:
            policy = BoundaryPolicy(
                DeviceRef(hex_bytes(values["device"], 32)),
                Operators(tuple(load_p256(_text(pem)) for pem in values["operators"])),
                load_rsa(values["image_key"]),
                int.from_bytes(hex_bytes(values["release_index"], 4)),
            )
            pcrs = {decimal_number(pcr, 8): hex_bytes(value, 32) for pcr, value in values["birth_pcrs"].items()}
            if sorted(pcrs) != sorted(BOUND_PCRS):
                raise ValueError(f"the PCRs are not {BOUND_PCRS}")
            found = cls(policy, decimal_number(values["birth_counter"]), pcrs)
        except (ValueError, BsfgError) as error:
            raise RefusedError(Reason.BAD_DOCUMENT, f"policy: {error}") from error
        if found.render() != data:
            raise RefusedError(Reason.BAD_DOCUMENT, "policy: not in its one form")
        return found


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a key is PEM text")
    return value
