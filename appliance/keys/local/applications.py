# SPDX-License-Identifier: Apache-2.0
"""What is known of each local application: its role, its credentials and those that are revoked. No secret is in it.

The document ``applications.json`` (``bsfg-local-applications-1``) is the truth; the broker's configuration and the
table of HTTP tokens are derived from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from appliance.boundary.errors import BsfgError, RefusedError
from appliance.boundary.names import Category, ProducerId, ZoneId, parse_category, parse_producer, parse_zone
from appliance.boundary.reasons import Reason
from appliance.factlog.natskeys import KeyKind, public_bytes
from appliance.keys.documents import hex_bytes, parse_document, render_document

FORMAT: Final = "bsfg-local-applications-1"
DOCUMENT_BYTES: Final = 4 * 1024 * 1024
NEVER: Final = 0
"""In the document: a credential that does not expire."""
APPLIANCE_USERS: Final = (ProducerId("agent"), ProducerId("sys"))
"""Users of the broker that are the appliance's own."""
RESERVED: Final = (*APPLIANCE_USERS, ProducerId("control"))
"""Names that no application can have."""


class Origin(StrEnum):
    """Who made an application's credential."""

    BOX = "box"
    """The box: it issued a user's JWT and a token."""
    SITE = "site"
    """The site: its configuration names public halves, and the box never saw the rest."""


class Role(StrEnum):
    """What a local application is for."""

    PRODUCER = "producer"
    """It produces facts under its own name."""
    CONSUMER = "consumer"
    """It reads facts."""
    SERVICE = "service"
    """It does both."""
    APPLIANCE = "appliance"
    """It is the appliance itself; nobody can make such a credential by hand."""


@dataclass(frozen=True, slots=True)
class Issued:
    """One credential: a user key of the broker and, for those who produce, an HTTP token.

    :param public: public key of the NATS user; of an application of the site, the key that signs its user, or nothing.
    :param issued_at: Unix seconds. :param expires: Unix seconds, or never.
    :param token: SHA-256 of the HTTP token.
    """

    public: str
    issued_at: int
    expires: int | None
    token: bytes | None = field(default=None, repr=False)

    def is_over(self, now: float) -> bool:
        """Whether it has expired."""
        return self.expires is not None and now >= self.expires


@dataclass(frozen=True, slots=True)
class Application:
    """A local application.

    :param categories: what it may produce; ``None``: every category.
    :param issued: credentials that are good, oldest first; none: the application is revoked.
    :param revoked: user keys that are good no more, each with the time (Unix seconds) up to which.
    """

    name: ProducerId
    role: Role
    categories: frozenset[Category] | None = None
    issued: tuple[Issued, ...] = ()
    revoked: Mapping[str, int] = field(default_factory=dict)
    origin: Origin = Origin.BOX

    @property
    def produces(self) -> bool:
        """Whether it may produce."""
        return self.role in (Role.PRODUCER, Role.SERVICE)

    @property
    def reads(self) -> bool:
        """Whether it may read."""
        return self.role in (Role.CONSUMER, Role.SERVICE)


@dataclass(frozen=True, slots=True)
class Applications:
    """All of a zone, by name.

    :param created_at: Unix seconds; when operator and accounts say they were made.
    """

    zone: ZoneId
    created_at: int
    entries: Mapping[ProducerId, Application]

    def local(self) -> list[Application]:
        """Those that are not the appliance itself, by name."""
        return [self.entries[name] for name in sorted(self.entries) if name not in APPLIANCE_USERS]

    def render(self) -> bytes:
        """The document."""
        return render_document(
            {
                "format": FORMAT,
                "zone": self.zone,
                "created_at": self.created_at,
                "applications": {name: _application_document(entry) for name, entry in self.entries.items()},
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Applications:
        """Read the document. :raises RefusedError: ``bad_local_keys``."""
        fields = {"zone": str, "created_at": int, "applications": dict}
        values = parse_document(data, FORMAT, fields, DOCUMENT_BYTES, Reason.BAD_LOCAL_KEYS)
        entries: dict[ProducerId, Application] = {}
        try:
            zone = parse_zone(values["zone"])
            for text, entry in values["applications"].items():
                name = parse_producer(text)
                entries[name] = _application(name, entry)
        except (BsfgError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise RefusedError(Reason.BAD_LOCAL_KEYS, f"applications: {error!r}"[:200]) from error
        found = cls(zone, values["created_at"], entries)
        if found.render() != data:
            raise RefusedError(Reason.BAD_LOCAL_KEYS, "applications: unknown fields")
        return found


def _application_document(entry: Application) -> dict[str, Any]:
    origin = {} if entry.origin is Origin.BOX else {"origin": entry.origin}
    return {
        **origin,
        "role": entry.role,
        "categories": None if entry.categories is None else sorted(entry.categories),
        "issued": [
            {
                "public": issued.public,
                "issued_at": issued.issued_at,
                "expires": issued.expires or NEVER,
                "token_sha256": issued.token.hex() if issued.token else "",
            }
            for issued in entry.issued
        ],
        "revoked": dict(entry.revoked),
    }


def _application(name: ProducerId, entry: Mapping[str, Any]) -> Application:
    names = entry["categories"]
    role, origin = Role(entry["role"]), Origin(entry.get("origin", Origin.BOX))
    if (role is Role.APPLIANCE) != (name in APPLIANCE_USERS) or (role is Role.APPLIANCE and origin is Origin.SITE):
        raise ValueError(f"{name} cannot be {role} of {origin}")
    return Application(
        name,
        role,
        None if names is None else frozenset(parse_category(text) for text in names),
        tuple(_issued(value, origin) for value in entry["issued"]),
        {_user(public): _seconds(when) for public, when in entry["revoked"].items()},
        origin,
    )


def _issued(entry: Mapping[str, Any], origin: Origin) -> Issued:
    token = entry["token_sha256"]
    return Issued(
        _user(entry["public"]) if origin is Origin.BOX else _signer(entry["public"]),
        _seconds(entry["issued_at"]),
        _seconds(entry["expires"]) or None,
        hex_bytes(token, 32) if token else None,
    )


def _user(public: str) -> str:
    public_bytes(public, KeyKind.USER)
    return public


def _signer(public: str) -> str:
    if public:
        public_bytes(public, KeyKind.ACCOUNT)
    return public


def _seconds(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("not a time in seconds")
    return value
