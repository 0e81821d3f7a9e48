# SPDX-License-Identifier: Apache-2.0
"""Whether the TPM still holds the boundary key under its lock: both are certified over a new nonce, each ten seconds.

The attestation key of enrolment certifies the boundary key's Name, which its policy is part of, and the quarantine
counter. The counter may have grown only by a quarantine of which this box's watchdog knows; where the TPM holds the
key locked and the watchdog's journal says nothing, somebody exchanged or restored the disk.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

import trio

from appliance.boundary.errors import BsfgError, DeniedError
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.quote import one_form
from appliance.keys.enrolled_box import EnrolledBox
from appliance.keys.enrolment.attested import AttestedKind, certified_name, certified_number, open_attestation
from appliance.keys.keeper.port import Certified, KeeperState
from appliance.keys.tpm.policy import counter_public
from appliance.keys.tpm.public import Attestation, name_of
from appliance.watchdog.probes.witness import AGAIN_S, NONCE_BYTES, Witness, words
from appliance.watchdog.probing import Reading, Seen
from appliance.watchdog.suspicions import Code, ProbeName

PERIOD_S: Final = 10.0
_NO_KEY: Final = frozenset({KeeperState.NOT_PROVISIONED})


class KeyProbe:
    """An :class:`~appliance.watchdog.probing.AsyncProbe`.

    :param latched: whether this box's own watchdog knows of the quarantine that the key is locked by.
    """

    name = ProbeName.KEY
    period_s = PERIOD_S

    def __init__(self, witness: Witness, latched: Callable[[], bool] = lambda: False, again_s: float = AGAIN_S) -> None:
        self._witness, self._latched, self._again_s = witness, latched, again_s

    async def look(self) -> Reading:
        """As the port says. What is seen is looked at twice: a key may be replaced at this very moment."""
        reading = await self._look()
        if reading.seen:
            await trio.sleep(self._again_s)
            reading = await self._look()
        return reading

    async def _look(self) -> Reading:
        keeper, nonce = self._witness.keeper, secrets.token_bytes(NONCE_BYTES)
        try:
            before = (await keeper.status()).state
            if before in _NO_KEY:
                return Reading(self.name, facts={"state": before})
            certified = await keeper.certify(nonce)
            box = await self._witness.box()  # read afterwards: the keeper writes it down behind a change of the key
            state = (await keeper.status()).state
            counter = certified_counter(box, nonce, certified)
        except BsfgError as error:
            if error.reason is Reason.BAD_PROOF:
                return Reading(self.name, (Seen(Code.KEY_NOT_PROVABLE, error.detail),))
            return Reading(self.name, blind=words(error))
        seen = []
        if KeeperState.LATCHED in (before, state) and not self._latched():
            seen.append(Seen(Code.KEY_LATCHED, f"counter {counter}, {box.birth_counter} at the key's birth"))
        if counter < box.birth_counter:
            seen.append(Seen(Code.KEY_NOT_PROVABLE, f"counter {counter} is less than {box.birth_counter} at birth"))
        return Reading(self.name, tuple(seen), facts={"state": state, "counter": str(counter)})


def certified_counter(box: EnrolledBox, nonce: bytes, certified: Certified) -> int:
    """The counter, if the attestation key of enrolment certifies it, and the boundary key as it was born.

    :raises DeniedError: ``bad_proof``: it does not.
    """
    key = box.attestation_key
    body = open_attestation(key, AttestedKind.CERTIFY, nonce, _in_one_form(certified.key))
    if certified_name(body) != name_of(box.boundary_public):
        raise DeniedError(Reason.BAD_PROOF, "certify: another key than the boundary key of enrolment")
    body = open_attestation(key, AttestedKind.NV, nonce, _in_one_form(certified.counter))
    return certified_number(body, counter_public().written())


def _in_one_form(told: Attestation) -> Attestation:
    try:
        return Attestation(told.statement, one_form(told.signature))
    except ValueError as error:
        raise DeniedError(Reason.BAD_PROOF, f"no signature: {error}") from error
