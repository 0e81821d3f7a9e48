# SPDX-License-Identifier: Apache-2.0
"""What a latched box asks its operators to sign: its counter, certified over the evidence's digest, and its PCRs."""

from __future__ import annotations

from appliance.keys.enrolment.birth import BirthPolicy
from appliance.keys.keeper.port import KeeperPort
from appliance.keys.release import ReleaseRequest, certified_counter
from appliance.keys.tpm.policy import BOUND_PCRS
from appliance.keys.tpm.public import Digest


async def request_of(keeper: KeeperPort, evidence: Digest) -> ReleaseRequest:
    """The request for release of the keeper's box: its counter, certified over the evidence's digest, and its PCRs.

    :raises DeniedError: ``bad_evidence``: the certificate is not one of this counter over this evidence.
    """
    zone = (await keeper.status()).zone
    device = BirthPolicy.parse((await keeper.describe()).policy).policy.device
    certificate = (await keeper.certify(evidence)).counter
    quoted = (await keeper.quote(evidence)).pcrs
    counter = certified_counter(certificate.statement, evidence)
    return ReleaseRequest(zone, device, counter, {pcr: quoted[pcr] for pcr in BOUND_PCRS}, evidence, certificate)
