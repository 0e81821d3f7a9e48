# SPDX-License-Identifier: Apache-2.0
"""How a connection proves itself to a broker: with a password, or with a user JWT and the key that it names."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from appliance.boundary.errors import RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.factlog.natskeys import UserCredentials

NatsOptions: TypeAlias = Mapping[str, Any]
"""What nats-py is told to reach a broker and to prove itself there."""


class Login(Protocol):
    """What a connection knows of itself."""

    def options(self, nonce: str) -> dict[str, str]:
        """The fields of CONNECT that prove it.

        :param nonce: what the broker wants to have signed; empty if it does not ask.
        :raises UnavailableError: ``broker_unavailable``: the proof cannot be given now.
        """
        ...


@dataclass(frozen=True, slots=True)
class Credentials:
    """User and password of a local broker."""

    user: str
    password: str = field(repr=False)

    def options(self, nonce: str) -> dict[str, str]:  # noqa: ARG002 - a password signs nothing
        """User and password."""
        return {"user": self.user, "pass": self.password}


@dataclass(frozen=True, slots=True)
class CredentialsFile:
    """A NATS credentials file, read for every connection: one that is replaced needs no restart."""

    path: Path

    def options(self, nonce: str) -> dict[str, str]:
        """The JWT, and the nonce signed."""
        if not nonce:
            raise UnavailableError(
                Reason.BROKER_UNAVAILABLE, "the broker asks for no proof: it is not the one expected"
            )
        try:
            credentials = UserCredentials.load(self.path)
        except RefusedError as error:
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, error.detail) from error
        return {"jwt": credentials.jwt, "sig": credentials.answer(nonce)}


def client_options(login: Login) -> dict[str, Any]:
    """What nats-py is told to prove itself; with a JWT it asks for the signature when it has the broker's nonce."""
    if isinstance(login, Credentials):
        return {"user": login.user, "password": login.password}
    found: dict[str, str] = {}

    def sign(nonce: str) -> bytes:
        found.update(login.options(nonce))
        return found["sig"].encode()

    def jwt() -> bytes:
        return found["jwt"].encode()

    return {"signature_cb": sign, "user_jwt_cb": jwt}


def client_tls(authority: Path) -> ssl.SSLContext:
    """TLS 1.3 to a broker with a certificate of the local CA. :raises RefusedError: ``bad_input`` naming the file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.hostname_checks_common_name = False
    try:
        context.load_verify_locations(authority)
    except OSError as error:  # ssl.SSLError is one
        raise RefusedError(Reason.BAD_INPUT, f"{authority}: {error}") from error
    return context
