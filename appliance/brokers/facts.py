# SPDX-License-Identifier: Apache-2.0
"""The configuration of nats-facts, the broker that holds a zone's facts.

It has no leaf, no cluster and no gateway: facts cannot leave through it, and it starts without a boundary key. Who
may come in is said by JWTs (NATS operator mode): the operator's, and one for each account
(:mod:`appliance.brokers.accounts`).
They stand in this file; a broker that reads it again (SIGHUP) takes up new accounts and drops what is revoked, and the
connections of all others stay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.brokers.config import RESERVED_CONNECTIONS, Limits, Local, Plant, common
from appliance.brokers.syntax import Value, render

TLS_TIMEOUT_S: Final = 5
"""How long a client may take for its handshake."""
_FILE = re.compile(r"[A-Za-z0-9_./-]+")
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class BrokerTrust:
    """Whom the broker lets in. Nothing here is secret, but it decides.

    :param operator: the operator's JWT. :param system: public key of the system account.
    :param accounts: the JWT of every account, that of the system too, by its public key.
    :raises RefusedError: ``bad_input``: not JWTs, or none for the system account.
    """

    operator: str = field(repr=False)
    system: str
    accounts: Mapping[str, str] = field(repr=False)

    def __post_init__(self) -> None:
        if self.system not in self.accounts:
            raise RefusedError(Reason.BAD_INPUT, "the system account has no JWT")
        if not all(_JWT.fullmatch(text) for text in (self.operator, *self.accounts.values())):
            raise RefusedError(Reason.BAD_INPUT, "not a JWT")

    def fields(self) -> dict[str, Value]:
        """The fields of the configuration that say it."""
        preload: dict[str, Value] = dict(self.accounts)
        return {
            "operator": self.operator,
            "system_account": self.system,
            "resolver": "MEMORY",
            "resolver_preload": preload,
        }

    def render(self) -> str:
        """A file of its own, for a configuration that includes it."""
        return render("Whom nats-facts lets in. Generated; changes are overwritten.", self.fields())


@dataclass(frozen=True, slots=True)
class IncludedTrust:
    """That the broker reads whom it lets in from a file of its own, which may be there later than this one.

    :param file: relative to the folder of the configuration; the server takes an absolute path for a relative one.
    """

    file: PurePosixPath

    def __post_init__(self) -> None:
        if self.file.is_absolute() or not _FILE.fullmatch(str(self.file)):
            raise RefusedError(Reason.BAD_INPUT, f"{self.file}: a plain relative path")


def connections_each(limits: Limits, applications: int) -> int:
    """How many connections each local application may have, so that together they cannot take the agent's.

    :raises RefusedError: ``bad_input``: fewer connections than applications.
    """
    each = (limits.max_connections - RESERVED_CONNECTIONS) // max(applications, 1)
    if each < 1:
        raise RefusedError(Reason.BAD_INPUT, f"{applications} local applications need more connections")
    return each


@dataclass(frozen=True, slots=True)
class FactsBroker:
    """The declaration of one nats-facts.

    :param listen: loopback without TLS, or the plant interface with it.
    """

    zone: ZoneId
    listen: Local | Plant
    store: Path
    limits: Limits
    trust: BrokerTrust | IncludedTrust

    def render(self) -> str:
        """The configuration text for nats-server."""
        document = common(f"{self.zone}-facts", self.listen, self.store, self.limits)
        if isinstance(self.listen, Plant):
            file = str(self.listen.certificate)
            document["tls"] = {"cert_file": file, "key_file": file, "min_version": "1.3", "timeout": TLS_TIMEOUT_S}
        comment = f"nats-facts of zone {self.zone}. Generated; changes are overwritten."
        if isinstance(self.trust, IncludedTrust):
            del document["system_account"]  # the included file names it
            return render(comment, document) + f'include "{self.trust.file}"\n'
        document.update(self.trust.fields())
        return render(comment, document)
