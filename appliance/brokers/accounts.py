# SPDX-License-Identifier: Apache-2.0
"""The accounts of nats-facts as JWT claims: who may reach what, and nothing about keys.

**An account for each, because permissions are not enough.** A broker answers a request on whatever reply subject the
requester names, with its own rights and not the requester's. In one account a reader could therefore ask for a stored
message with ``log.facts...`` as reply subject and have it written into a log past all validation (tried: it works with
direct get, pull and every API answer); and a producer could have its acknowledgement delivered to another one. So the
streams and the agent live in the account of the facts, each local application lives in an account of its own, and
between them stand only the services listed here: an answer ends in the account of its requester.

Requests for consumers go to the readers' desk of the agent, since a push consumer could deliver into a log
(:mod:`appliance.brokers.reading`).

An account's JWT names its signing key with a *scope*: what any user signed by that key may do. So a user's own JWT
holds no rights at all, and rights change without handing out anything anew. An export here is open to every account of
the operator; which account takes what stands in the account's own JWT, and only the operator signs those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import Category, ProducerId, ZoneId, parse_producer
from appliance.boundary.reasons import Reason
from appliance.brokers.config import AGENT_USER, CONTROL_USER, SYSTEM_USER
from appliance.brokers.reading import AT_THE_DESK, DESK

Claims = dict[str, Any]
"""The part ``nats`` of an account's JWT."""

INTAKE: Final = "facts.>"
"""Where producers send facts and the agent answers; it is a service, so a message here reaches the agent alone."""
INBOX: Final = "_INBOX.>"
"""Where stock clients wait for answers, and for what a push consumer delivers.

What a push consumer delivers, every reader may see. Other answers stay in the account of their requester.
"""
SINGLE_ANSWER: Final = (
    "$JS.API.INFO",
    "$JS.API.STREAM.INFO.*",
    "$JS.API.STREAM.MSG.GET.*",
    "$JS.API.CONSUMER.INFO.*.*",
    "$JS.API.CONSUMER.DELETE.*.*",
    "$JS.ACK.>",
    "$JS.FC.>",
)
"""What readers may ask, and what is answered once.

Not among them: listing consumers. A reader must know a consumer's name to use or delete it, and does not learn the
names of the agent's.
"""
MANY_ANSWERS: Final = ("$JS.API.CONSUMER.MSG.NEXT.*.*", "$JS.API.DIRECT.GET.>")
"""What readers may ask, and what is answered by many messages."""
CONSUMERS: Final = tuple(f"$JS.API.{operation}" for operation in AT_THE_DESK)
"""What readers may ask and the desk answers."""
LONGEST_PULL_S: Final = 600
"""How long a pull may wait for its first message."""

NO_LIMIT: Final = -1
_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class LocalRights:
    """What a local application of nats-facts may do: produce under its own name, or read, or both.

    :param categories: what it may produce; ``None``: every category.
    :raises RefusedError: ``bad_input``: a name of the appliance itself, or no rights at all.
    """

    name: ProducerId
    produces: bool = True
    reads: bool = False
    categories: frozenset[Category] | None = None

    def __post_init__(self) -> None:
        if parse_producer(self.name) in (AGENT_USER, CONTROL_USER, SYSTEM_USER):
            raise RefusedError(Reason.BAD_INPUT, f"{self.name!r} is a user of the appliance itself")
        if not self.produces and not self.reads:
            raise RefusedError(Reason.BAD_INPUT, f"{self.name!r} may neither produce nor read")


def facts_claims(signing_key: str, revocations: Mapping[str, int], *, desk: bool = True) -> Claims:
    """The account of the streams and of the agent.

    :param signing_key: signs the agent's user JWT. :param revocations: see :func:`application_claims`.
    :param desk: whether the agent runs a :class:`appliance.brokers.desk.ReaderDesk`. Without it readers make consumers
        at JetStream directly, and **one that means harm can write into a log** by a push consumer.
    """
    once = [_export(subject) for subject in (INTAKE, *SINGLE_ANSWER, *_consumers(desk))]
    many = [
        {**_export(subject), "response_type": "Stream", "response_threshold": LONGEST_PULL_S * _NS}
        for subject in MANY_ANSWERS
    ]
    inbox = {"name": INBOX, "subject": INBOX, "type": "stream"}
    # Whatever arrives on _INBOX.> in this account is shown to readers (push consumers deliver there), and they can
    # have messages delivered there. So the agent may not wait for its own answers there; it has its own prefix.
    scope = _scope(signing_key, AGENT_USER, {}, {"deny": [INBOX]})
    everything = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), NO_LIMIT)
    return _account(scope, revocations, NO_LIMIT, everything, exports=[*once, *many, inbox])


def system_claims(signing_key: str, revocations: Mapping[str, int]) -> Claims:
    """The account that asks the broker about itself."""
    return _account(_scope(signing_key, SYSTEM_USER, {}, {}), revocations, NO_LIMIT, {})


def application_claims(
    facts_account: str,
    zone: ZoneId,
    rights: LocalRights,
    signing_key: str,
    connections: int,
    revocations: Mapping[str, int],
    *,
    desk: bool = True,
) -> Claims:
    """The account of one local application.

    :param facts_account: public key of the account of the facts.
    :param signing_key: public key that signs the application's user JWTs.
    :param connections: how many it may have at once.
    :param revocations: user keys that are good no more, each with the time (Unix seconds) of the last JWT it covers.
    """
    taken: list[tuple[str, str]] = []
    if rights.produces:
        taken.append((INTAKE, INTAKE))
    if rights.reads:
        taken += [(subject, subject) for subject in (*SINGLE_ANSWER, *MANY_ANSWERS)]
        taken += zip(CONSUMERS, _consumers(desk), strict=True)
    # In a service import ``subject`` is ours and ``to`` is theirs; in a stream import it is the other way round.
    imports = [
        {"name": here, "account": facts_account, "subject": here, "to": there, "type": "service"}
        for here, there in taken
    ]
    if rights.reads:
        imports.append({"name": INBOX, "account": facts_account, "subject": INBOX, "type": "stream"})
    scope = _scope(signing_key, rights.name, {"allow": published(zone, rights)}, {"allow": [INBOX]})
    return _account(scope, revocations, connections, {}, imports=imports)


def published(zone: ZoneId, rights: LocalRights) -> list[str]:
    """An allow list: what is not in it, such as ``Nats-Trace-Dest`` to any other subject, is refused by the broker."""
    allowed: list[str] = []
    if rights.produces:
        for category in ["*"] if rights.categories is None else sorted(rights.categories):
            own = f"facts.{category}.{zone}.*.{rights.name}"
            allowed += [own, f"{own}.>"]
    if rights.reads:
        allowed += [*SINGLE_ANSWER, *CONSUMERS, *MANY_ANSWERS]
    return allowed or ["none"]  # an empty list would allow everything


def _consumers(desk: bool) -> list[str]:
    """Where requests for consumers arrive in the agent's account."""
    return [f"{DESK}{operation}" for operation in AT_THE_DESK] if desk else list(CONSUMERS)


def _export(subject: str) -> Claims:
    return {"name": subject, "subject": subject, "type": "service"}


def _scope(key: str, role: str, publish: Claims, subscribe: Claims) -> Claims:
    limits = dict.fromkeys(("subs", "data", "payload"), NO_LIMIT)
    template = {"pub": publish, "sub": subscribe, **limits, "allowed_connection_types": ["STANDARD"]}
    return {"kind": "user_scope", "key": key, "role": role, "template": template}


def _account(
    scope: Claims,
    revocations: Mapping[str, int],
    connections: int,
    jetstream: Mapping[str, int],
    *,
    exports: Sequence[Claims] = (),
    imports: Sequence[Claims] = (),
) -> Claims:
    limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports"), NO_LIMIT)
    return {
        "exports": list(exports),
        "imports": list(imports),
        "limits": {**limits, "wildcards": True, "disallow_bearer": True, "conn": connections, "leaf": 0, **jetstream},
        "signing_keys": [scope],
        "revocations": dict(revocations),
    }
