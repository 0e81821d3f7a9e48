# SPDX-License-Identifier: Apache-2.0
"""The configuration of nats-facts, the broker that holds a zone's facts.

It has no leaf, no cluster, no gateway and no certificate: facts cannot leave through it, and it starts without a key.

**Two accounts, because permissions are not enough.** A broker answers a request on whatever reply subject the
requester names, with its own rights and not the requester's. In one account a reader could therefore ask for a stored
message with ``log.facts...`` as reply subject and have it written into a log past all validation (tried: it works with
direct get, pull and every API answer). So the streams and the agent live in ``FACTS``, local applications live in
``LOCAL``, and between them stand only the services listed here; an answer ends in the account of its requester.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import ZoneId
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
from appliance.brokers.syntax import Value, render

FACTS_ACCOUNT: Final = "FACTS"
LOCAL_ACCOUNT: Final = "LOCAL"

INTAKE: Final = "facts.>"
"""Where producers send facts and the agent answers; it is a service, so a message here reaches the agent alone."""
INBOX: Final = "_INBOX.>"
"""Where stock clients wait for answers, and for what a push consumer delivers."""

SINGLE_ANSWER: Final = (
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.INFO.*",
    "$JS.API.STREAM.MSG.GET.*",
    "$JS.API.CONSUMER.CREATE.>",
    "$JS.API.CONSUMER.DURABLE.CREATE.*.*",
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
LONGEST_PULL: Final = "10m"
"""How long a pull may wait for its first message."""


@dataclass(frozen=True, slots=True)
class FactsBroker:
    """The declaration of one nats-facts. :raises RefusedError: ``bad_input``: two users of one name."""

    zone: ZoneId
    listen: Local
    store: Path
    secrets: Secrets
    limits: Limits
    users: tuple[LocalUser, ...] = ()

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.users]
        if len(set(names)) != len(names):
            raise RefusedError(Reason.BAD_INPUT, "two local users have the same name")

    def render(self) -> str:
        """The configuration text for nats-server; it holds passwords."""
        document = common(f"{self.zone}-facts", self.listen, self.store, self.limits)
        document["accounts"] = {
            FACTS_ACCOUNT: _facts_account(self.secrets),
            LOCAL_ACCOUNT: _local_account(self.zone, self.users, self.limits),
            SYSTEM_ACCOUNT: {"users": [user(SYSTEM_USER, self.secrets.system)]},
        }
        return render(f"nats-facts of zone {self.zone}. Generated; changes are overwritten.", document)


def _facts_account(secrets: Secrets) -> Value:
    # Whatever arrives on _INBOX.> in this account is shown to local applications (push consumers deliver there), and
    # they can have messages delivered there. So the agent may not wait for its own answers there; it uses a prefix of
    # its own.
    agent = user(AGENT_USER, secrets.owner, {"subscribe": {"deny": [INBOX]}})
    exports: list[Value] = [{"service": INTAKE, "accounts": [LOCAL_ACCOUNT]}]
    exports += [{"service": subject, "accounts": [LOCAL_ACCOUNT]} for subject in SINGLE_ANSWER]
    exports += [
        {"service": subject, "response_type": "stream", "response_threshold": LONGEST_PULL, "accounts": [LOCAL_ACCOUNT]}
        for subject in MANY_ANSWERS
    ]
    exports.append({"stream": INBOX, "accounts": [LOCAL_ACCOUNT]})
    return {"jetstream": "enabled", "users": [agent], "exports": exports}


def _local_account(zone: ZoneId, users: Sequence[LocalUser], limits: Limits) -> Value:
    services = (INTAKE, *SINGLE_ANSWER, *MANY_ANSWERS)
    imports: list[Value] = [{"service": {"account": FACTS_ACCOUNT, "subject": subject}} for subject in services]
    imports.append({"stream": {"account": FACTS_ACCOUNT, "subject": INBOX}})
    return {
        "limits": {"max_connections": limits.max_connections - RESERVED_CONNECTIONS},
        "users": [user(entry.name, entry.password, _permissions(zone, entry)) for entry in users],
        "imports": imports,
    }


def _permissions(zone: ZoneId, entry: LocalUser) -> Value:
    """An allow list: what is not in it, such as ``Nats-Trace-Dest`` to any other subject, is refused by the broker."""
    allowed: list[Value] = []
    if entry.produces:
        for category in ["*"] if entry.categories is None else sorted(entry.categories):
            own = f"facts.{category}.{zone}.*.{entry.name}"
            allowed += [own, f"{own}.>"]
    if entry.reads:
        allowed += [*SINGLE_ANSWER, *MANY_ANSWERS]
    return {"publish": {"allow": allowed}, "subscribe": {"allow": [INBOX]}}
