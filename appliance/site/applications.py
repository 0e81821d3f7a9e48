# SPDX-License-Identifier: Apache-2.0
"""The tables ``[applications.<name>]``: who may produce and read on a box, by public material alone.

A box of the product has no login, so nobody can hand out credentials there. They are made where the document is signed,
and the box learns a token's digest and the public half of what signed a NATS user (:mod:`appliance.keys.local.site`).
"""

from __future__ import annotations

from typing import Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import ProducerId, parse_category, parse_producer
from appliance.boundary.policy import ZonePolicy
from appliance.boundary.reasons import Reason
from appliance.factlog.natskeys import KeyKind, public_bytes
from appliance.keys.documents import hex_bytes
from appliance.keys.local.applications import RESERVED, Role
from appliance.keys.local.site import SiteApplication, SiteSecrets, new_site_application
from appliance.site.tables import Table

MOST: Final = 256
"""So many at most: they share the connections of the broker."""
_DIGEST_BYTES: Final = 32


def read_applications(table: Table | None, policy: ZonePolicy) -> tuple[SiteApplication, ...]:
    """All of a document, by name. :raises BadSiteError: ``bad_site``."""
    if table is None:
        return ()
    names = table.fields()
    if len(names) > MOST:
        raise table.fault(None, f"has {len(names)} applications; allowed: at most {MOST}")
    found: list[SiteApplication] = []
    for text in names:
        name = _name(table, text)
        inner = table.need(text)
        made = _application(inner, name, policy)
        inner.end()
        for other in found:
            if made.token is not None and made.token == other.token:
                raise inner.fault("token_sha256", f"token_sha256 is that of {other.name} as well")
            if made.signer and made.signer == other.signer:
                raise inner.fault("nats_signer", f"nats_signer is that of {other.name} as well")
        found.append(made)
    return tuple(sorted(found, key=lambda each: each.name))


def _name(table: Table, text: str) -> ProducerId:
    try:
        name = parse_producer(text)
    except RefusedError as error:
        raise table.fault(text, error.detail) from error
    if name in RESERVED:
        raise table.fault(text, f"{text!r} is a user of the appliance itself")
    return name


def _application(table: Table, name: ProducerId, policy: ZonePolicy) -> SiteApplication:
    role = table.word("role", Role)
    if role is Role.APPLIANCE:
        raise table.fault("role", "role 'appliance' is not one of them")
    categories = table.words("categories") if table.has("categories") else None
    token, signer = table.maybe_value("token_sha256", _digest), table.maybe_value("nats_signer", _signer) or ""
    if role is Role.CONSUMER:
        for field, value in (("categories", categories), ("token_sha256", token)):
            if value is not None:
                raise table.fault(field, f"{field} is for who produces; a consumer reads every category, by NATS")
    if categories is not None and not categories:
        raise table.fault("categories", "categories is empty: it may produce nothing")
    if unknown := sorted((categories or frozenset()) - policy.categories.keys()):
        raise table.fault("categories", f"categories: {unknown[0]!r} needs a table [categories.{unknown[0]}]")
    if not signer and (token is None or role is not Role.PRODUCER):
        raise table.fault(None, "needs nats_signer" + (" or token_sha256" if role is Role.PRODUCER else " to read"))
    return SiteApplication(name, role, categories, token, signer)


def _digest(text: str) -> bytes:
    try:
        return hex_bytes(text, _DIGEST_BYTES)
    except ValueError as error:
        raise ValueError("not a SHA-256 in small hexadecimal digits") from error


def _signer(text: str) -> str:
    try:
        public_bytes(text, KeyKind.ACCOUNT)
    except RefusedError as error:
        raise ValueError("not the public key of an account, as 'bsfg site application' prints it") from error
    return text


def new_application(
    name: str, role: str, categories: tuple[str, ...], now: int
) -> tuple[SiteApplication, SiteSecrets, str]:
    """A new application: what the box is to know, what the application gets, and the table for the document.

    :raises RefusedError: ``bad_name``, ``bad_input``.
    """
    found = parse_producer(name)
    if found in RESERVED:
        raise RefusedError(Reason.BAD_INPUT, f"{name!r} is a user of the appliance itself")
    if role == Role.CONSUMER and categories:
        raise RefusedError(Reason.BAD_INPUT, "categories are for who produces; a consumer reads every category")
    allowed = frozenset(map(parse_category, categories)) or None
    made, secrets = new_site_application(found, Role(role), allowed, now)
    return made, secrets, table_of(made)


def table_of(made: SiteApplication) -> str:
    """An application as a table of the document."""
    lines = [f"[applications.{made.name}]", f'role = "{made.role}"']
    if made.categories is not None:
        lines.append("categories = [" + ", ".join(f'"{each}"' for each in sorted(made.categories)) + "]")
    if made.token is not None:
        lines.append(f'token_sha256 = "{made.token.hex()}"')
    if made.signer:
        lines.append(f'nats_signer = "{made.signer}"')
    return "\n".join(lines) + "\n"
