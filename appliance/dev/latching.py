# SPDX-License-Identifier: Apache-2.0
"""Latch a zone's box, and release it: what a watchdog and two operators do, played by one user of an environment.

The latch is the real one: the TPM's counter is incremented, and the TPM itself refuses the boundary key from then on.
The release is the real one too: the box requests, two operators sign over its certified counter, the TPM checks both.
Then the box must be booted anew: the latch has extended PCR 14, and the hub fails a box whose quote shows that. Here
all processes of the zone are killed at once, its TPM among them.
"""

from __future__ import annotations

import time

from appliance.boundary.errors import UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.dev.boxes import enrolled_record
from appliance.dev.control import PowerCutRequest
from appliance.dev.environment import Environment
from appliance.dev.keeping import keeper_of
from appliance.dev.layout import ZONE_OF
from appliance.dev.lifecycle import query
from appliance.dev.offline import OPERATORS, Offline
from appliance.keys.files import PRIVATE, write_atomically
from appliance.keys.keeper.port import KeeperStatus
from appliance.keys.release import add_signature, new_release
from appliance.keys.release_request import request_of
from appliance.keys.tpm.public import sha256


async def latch(environment: Environment, zone: ZoneId) -> int:
    """Lock the zone's boundary key; the counter now.

    :raises UnavailableError: ``keeper_unavailable``, ``tpm_absent``; ``bad_environment``: there is no TPM.
    """
    keeper, evidence = keeper_of(environment, zone), environment.layout.zone(zone).evidence
    text = f"{zone} was latched on purpose, in a development environment, at {time.time():.0f} (Unix seconds)\n"
    write_atomically(evidence, text.encode(), PRIVATE)
    return (await keeper.latch(sha256(text.encode()))).counter


def reboot(environment: Environment, zone: ZoneId) -> None:
    """End all processes of a zone as a power cut would; the supervisor starts them again. Blocking.

    :raises UnavailableError: ``not_running``.
    """
    names = tuple(name for name in environment.processes if ZONE_OF[name] == zone)
    query(environment.layout, PowerCutRequest(names))


async def release(environment: Environment, zone: ZoneId) -> KeeperStatus:
    """Let both operators of the environment sign, and the keeper take it; its state afterwards.

    :raises DeniedError: ``bad_evidence``, ``bad_release``: as the operators' tool and the keeper say.
    """
    keeper, offline = keeper_of(environment, zone), Offline(environment.layout.offline)
    box = enrolled_record(environment, zone).for_release()
    try:
        evidence = sha256(environment.layout.zone(zone).evidence.read_bytes())
    except OSError as error:
        raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{zone} was not latched here") from error
    request = await request_of(keeper, evidence)
    signed = new_release(box, request)
    for name in OPERATORS:
        signed = add_signature(box, request, signed, offline.operator(name))
    await keeper.import_release(signed.render())
    return await keeper.status()
