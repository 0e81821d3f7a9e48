# SPDX-License-Identifier: Apache-2.0
"""Who may ask the keeper for what: one table. Pure.

A caller is the uid that the kernel names for the other end of the socket (SO_PEERCRED, unix(7)); the configuration
says which roles a uid has. Nothing that a caller says about itself counts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.boundary.reasons import Reason

STATEMENT: Final = re.compile(rb"bsfg\.v1 ([a-z]{1,32})\n")
"""How a statement begins; the group is its kind."""
SECRET_NAME: Final = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")
SECRET_NAME_LENGTH: Final = 64


class Role(StrEnum):
    """What a process on the box is to the keeper."""

    AGENT = "agent"
    HUB = "hub"
    CONTROL = "control"
    WATCHDOG = "watchdog"
    ADMINISTRATOR = "administrator"


class Operation(StrEnum):
    """The calls of the port."""

    STATUS = "status"
    SESSION = "session"
    SIGN = "sign"
    SEAL = "seal"
    UNSEAL = "unseal"
    QUOTE = "quote"
    LATCH = "latch"
    DESCRIBE = "describe"
    CERTIFICATE_REQUEST = "certificate_request"
    ACTIVATE = "activate"
    CERTIFY = "certify"
    INSTALL = "install"
    IMPORT_RELEASE = "import_release"
    TIME_NONCE = "time_nonce"
    SET_TIME = "set_time"
    HUB_CA = "hub_ca"
    CERTIFY_ZONE = "certify_zone"


@dataclass(frozen=True, slots=True)
class Grant:
    """What one role may do.

    :param operations: calls without further conditions. :param sessions: names of sessions it may ask for.
    :param statements: kinds of statements it may have signed.
    :param secrets: whether it may seal and unseal secrets whose name begins with its own.
    """

    operations: frozenset[Operation] = frozenset()
    sessions: frozenset[str] = frozenset()
    statements: frozenset[str] = frozenset()
    secrets: bool = False


_O = Operation
_TIME: Final = frozenset({_O.TIME_NONCE, _O.SET_TIME})
_EVIDENCE: Final = frozenset({_O.QUOTE, _O.CERTIFY})
_AUTHORITY: Final = frozenset({_O.HUB_CA, _O.CERTIFY_ZONE})
GRANTS: Final[Mapping[Role, Grant]] = {
    Role.AGENT: Grant(
        _TIME | _EVIDENCE | {_O.STATUS}, frozenset({"agent"}), frozenset({"receipt", "evidence"}), secrets=True
    ),
    Role.HUB: Grant(
        _TIME | _EVIDENCE | _AUTHORITY | {_O.STATUS},
        frozenset({"agent"}),
        frozenset({"receipt", "evidence", "time"}),
        secrets=True,
    ),
    Role.CONTROL: Grant(frozenset({_O.STATUS}), frozenset({"control"}), secrets=True),
    Role.WATCHDOG: Grant(
        # It hands on a release, which the TPM takes for its two signatures and not for who brings it.
        _EVIDENCE | {_O.STATUS, _O.LATCH, _O.DESCRIBE, _O.IMPORT_RELEASE},
        statements=frozenset({"evidence"}),
        secrets=True,
    ),
    Role.ADMINISTRATOR: Grant(
        _TIME
        | _EVIDENCE
        | _AUTHORITY
        | {_O.STATUS, _O.DESCRIBE, _O.CERTIFICATE_REQUEST, _O.ACTIVATE, _O.INSTALL, _O.IMPORT_RELEASE},
    ),
}
"""The table; what it does not say is denied."""


def check_secret_name(name: str) -> None:
    """:raises RefusedError: ``bad_input``: no name of a secret, such as ``agent.token``."""
    if len(name) > SECRET_NAME_LENGTH or not SECRET_NAME.fullmatch(name):
        raise RefusedError(Reason.BAD_INPUT, "a secret's name has lower-case letters and digits, parted by . or -")


def statement_kind(statement: bytes) -> str:
    """The kind of a statement, such as ``receipt``. :raises RefusedError: ``bad_input``: it is none.

    Certificates, which the same key signs, never begin so: nobody gets one by asking for a receipt.
    """
    match = STATEMENT.match(statement)
    if match is None:
        raise RefusedError(Reason.BAD_INPUT, "the boundary key signs statements of this product only")
    return match[1].decode()


def check_operation(roles: Collection[Role], operation: Operation) -> None:
    """:raises DeniedError: ``caller_denied``: none of these roles may ask for this without further conditions."""
    _need(any(operation in GRANTS[role].operations for role in roles), roles, operation)


def check_session(roles: Collection[Role], name: str) -> None:
    """:raises DeniedError: ``caller_denied``: not this session."""
    _need(any(name in GRANTS[role].sessions for role in roles), roles, f"session {name}")


def check_statement(roles: Collection[Role], statement: bytes) -> None:
    """:raises DeniedError: ``caller_denied``: not statements of this kind. :raises RefusedError: ``bad_input``."""
    kind = statement_kind(statement)
    _need(any(kind in GRANTS[role].statements for role in roles), roles, f"sign {kind}")


def check_secret(roles: Collection[Role], name: str) -> None:
    """:raises DeniedError: ``caller_denied``: not a secret of its own. :raises RefusedError: ``bad_input``."""
    check_secret_name(name)
    owner = re.split(r"[.-]", name, maxsplit=1)[0]
    _need(any(GRANTS[role].secrets and role == owner for role in roles), roles, f"secret {name}")


def _need(allowed: bool, roles: Collection[Role], what: str) -> None:
    if not allowed:
        raise DeniedError(Reason.CALLER_DENIED, f"{what}: not for {', '.join(sorted(roles)) or 'this user'}")
