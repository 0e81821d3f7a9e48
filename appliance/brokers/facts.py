# SPDX-License-Identifier: Apache-2.0
"""The configuration of nats-facts, the broker that holds a zone's facts.

It has no leaf, no cluster, no gateway and no certificate: facts cannot leave through it, and it starts without a key.

**An account for each, because permissions are not enough.** A broker answers a request on whatever reply subject the
requester names, with its own rights and not the requester's. In one account a reader could therefore ask for a stored
message with ``log.facts...`` as reply subject and have it written into a log past all validation (tried: it works with
direct get, pull and every API answer); and a producer could have its acknowledgement delivered to another one. So the
streams and the agent live in ``FACTS``, each local application lives in an account of its own, and between them stand
only the services listed here: an answer ends in the account of its requester.

Requests for consumers go to the readers' desk of the agent, since a push consumer could deliver into a log
(:mod:`appliance.brokers.reading`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import ProducerId, ZoneId, stream_token
from appliance.boundary.reasons import Reason
from appliance.brokers.config import (
    AGENT_USER,
    RESERVED_CONNECTIONS,
    SYSTEM_ACCOUNT,
    SYSTEM_USER,
    Limits,
    Local,
    LocalUser,
    Secrets,
    common,
    user,
)
from appliance.brokers.reading import AT_THE_DESK, DESK
from appliance.brokers.syntax import Value, render

FACTS_ACCOUNT: Final = "FACTS"

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
LONGEST_PULL: Final = "10m"
"""How long a pull may wait for its first message."""


def local_account(name: ProducerId) -> str:
    """The account of a local application: ``press-4`` is ``LOCAL_PRESS_4``."""
    return f"LOCAL_{stream_token(name)}"


@dataclass(frozen=True, slots=True)
class FactsBroker:
    """The declaration of one nats-facts.

    :raises RefusedError: ``bad_input``: two users of one name, or fewer connections than users.

    :param desk: whether the agent runs a :class:`appliance.brokers.desk.ReaderDesk`. Without it readers make consumers
        at JetStream directly, and **one that means harm can write into a log** by a push consumer.
    """

    zone: ZoneId
    listen: Local
    store: Path
    secrets: Secrets
    limits: Limits
    users: tuple[LocalUser, ...] = ()
    desk: bool = True

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.users]
        if len(set(names)) != len(names):
            raise RefusedError(Reason.BAD_INPUT, "two local users have the same name")
        if self.connections_each < 1:
            raise RefusedError(Reason.BAD_INPUT, f"{len(names)} local users need more connections")

    @property
    def connections_each(self) -> int:
        """How many connections each local user may have, so that together they cannot take the agent's."""
        return (self.limits.max_connections - RESERVED_CONNECTIONS) // max(len(self.users), 1)

    def render(self) -> str:
        """The configuration text for nats-server; it holds passwords."""
        document = common(f"{self.zone}-facts", self.listen, self.store, self.limits)
        accounts: dict[str, Value] = {FACTS_ACCOUNT: self._facts()}
        accounts.update({local_account(entry.name): self._local(entry) for entry in self.users})
        accounts[SYSTEM_ACCOUNT] = {"users": [user(SYSTEM_USER, self.secrets.system)]}
        document["accounts"] = accounts
        return render(f"nats-facts of zone {self.zone}. Generated; changes are overwritten.", document)

    def _facts(self) -> Value:
        # Whatever arrives on _INBOX.> in this account is shown to readers (push consumers deliver there), and they can
        # have messages delivered there. So the agent may not wait for its own answers there; it has its own prefix.
        agent = user(AGENT_USER, self.secrets.owner, {"subscribe": {"deny": [INBOX]}})
        producers = [local_account(entry.name) for entry in self.users if entry.produces]
        readers = [local_account(entry.name) for entry in self.users if entry.reads]
        exports: list[Value] = []
        if producers:  # an export without accounts would be for all
            exports.append({"service": INTAKE, "accounts": producers})
        if readers:
            exports += [{"service": subject, "accounts": readers} for subject in self._answered_once()]
            many: dict[str, Value] = {"response_type": "stream", "response_threshold": LONGEST_PULL}
            exports += [{"service": subject, **many, "accounts": readers} for subject in MANY_ANSWERS]
            exports.append({"stream": INBOX, "accounts": readers})
        return {"jetstream": "enabled", "users": [agent], "exports": exports}

    def _answered_once(self) -> tuple[str, ...]:
        return (*SINGLE_ANSWER, *_consumers(self.desk))

    def _local(self, entry: LocalUser) -> Value:
        taken: list[tuple[str, str]] = []
        if entry.produces:
            taken.append((INTAKE, INTAKE))
        if entry.reads:
            taken += [(subject, subject) for subject in (*SINGLE_ANSWER, *MANY_ANSWERS)]
            taken += zip(_consumers(self.desk), CONSUMERS, strict=True)
        imports: list[Value] = [
            {"service": {"account": FACTS_ACCOUNT, "subject": there}, "to": here} for there, here in taken
        ]
        if entry.reads:
            imports.append({"stream": {"account": FACTS_ACCOUNT, "subject": INBOX}})
        return {
            "limits": {"max_connections": self.connections_each},
            "users": [user(entry.name, entry.password, _permissions(self.zone, entry))],
            "imports": imports,
        }


def _consumers(desk: bool) -> list[str]:
    """Where requests for consumers arrive in the agent's account."""
    return [f"{DESK}{operation}" for operation in AT_THE_DESK] if desk else list(CONSUMERS)


def _permissions(zone: ZoneId, entry: LocalUser) -> Value:
    """An allow list: what is not in it, such as ``Nats-Trace-Dest`` to any other subject, is refused by the broker."""
    allowed: list[Value] = []
    if entry.produces:
        for category in ["*"] if entry.categories is None else sorted(entry.categories):
            own = f"facts.{category}.{zone}.*.{entry.name}"
            allowed += [own, f"{own}.>"]
    if entry.reads:
        allowed += [*SINGLE_ANSWER, *CONSUMERS, *MANY_ANSWERS]
    return {"publish": {"allow": allowed}, "subscribe": {"allow": [INBOX]}}
