# SPDX-License-Identifier: Apache-2.0
"""What the names of a site were found to stand for: the document between the program that asks and the one that opens.

``bsfg-names`` speaks to name servers and has no privilege; ``bsfg-names-sets`` fills the firewall's sets and speaks to
nobody. The second believes the first nothing but this: names that the site configuration has, with few addresses that
can be a server's, in the one form that :func:`rendered` gives them. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from typing import Any, Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.site.config import Address
from appliance.site.services import Resolved

SCHEMA: Final = 1
EACH_AT_MOST: Final = 16
"""Addresses of one name; a resolver does not open the box to more."""
MAX_BYTES: Final = 64 * 1024
"""Of the document; a site configuration has fewer names than would fill it."""
_THIS_NETWORK: Final = IPv4Network("0.0.0.0/8")


def is_dialled(address: Address) -> bool:
    """Whether it can be a server's: nobody's hub is this machine, everybody, nobody, or on one wire only."""
    if isinstance(address, IPv6Address) and (address.scope_id is not None or address.ipv4_mapped is not None):
        return False
    if isinstance(address, IPv4Address) and (address.is_reserved or address in _THIS_NETWORK):
        return False
    return not (address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local)


def rendered(resolved: Resolved) -> bytes:
    """The document: each name with its addresses as text."""
    names = {name: [str(address) for address in found] for name, found in resolved.items()}
    return json.dumps({"schema": SCHEMA, "names": names}, indent=1, sort_keys=True).encode() + b"\n"


def parsed(data: bytes, names: Sequence[str]) -> Resolved:
    """What it says. :param names: those that the site configuration has to be looked up; it may say less, never more.

    :raises RefusedError: ``bad_document``: anything about it is not as :func:`rendered` makes it.
    """
    values = _object(data)
    if values.keys() != {"schema", "names"} or values["schema"] is not SCHEMA or not isinstance(values["names"], dict):
        raise _refused("it has not the fields of this schema")
    unknown = sorted(set(values["names"]) - set(names))
    if unknown:
        raise _refused(f"{len(unknown)} of its names are not in the site configuration")
    return {name: _addresses(name, values["names"][name]) for name in names if name in values["names"]}


def _object(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise _refused(f"more than {MAX_BYTES} bytes")
    try:
        values = json.loads(data.decode("ascii"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _refused("no JSON") from error
    if not isinstance(values, dict):
        raise _refused("no JSON object")
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise _refused("a key stands twice")
    return values


def _addresses(name: str, given: object) -> tuple[Address, ...]:
    if not isinstance(given, list) or not 1 <= len(given) <= EACH_AT_MOST:
        raise _refused(f"{name} has no list of 1 to {EACH_AT_MOST} addresses")
    found = tuple(_address(name, text) for text in given)
    if len(set(found)) != len(found):
        raise _refused(f"{name} has an address twice")
    return found


def _address(name: str, text: object) -> Address:
    try:
        address = ip_address(text) if isinstance(text, str) else None
    except ValueError:
        address = None
    if address is None or str(address) != text:
        raise _refused(f"{name} has what is no address")
    if not is_dialled(address):
        raise _refused(f"{name} is said to be {address}, which is no server's")
    return address


def _refused(why: str) -> RefusedError:
    return RefusedError(Reason.BAD_DOCUMENT, f"what the names stand for: {why}")
