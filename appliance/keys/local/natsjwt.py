# SPDX-License-Identifier: Apache-2.0
"""The JWTs of NATS operator mode: an operator signs accounts, an account's key signs its users.

Only making them is here; the broker reads and judges them. Source: https://github.com/nats-io/jwt (version 2),
https://docs.nats.io/running-a-nats-service/nats_admin/security/jwt.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives import hashes

from appliance.factlog.natskeys import NatsKey

VERSION: Final = 2
_HEADER: Final = {"typ": "JWT", "alg": "ed25519-nkey"}


def operator_jwt(operator: NatsKey, name: str, system_account: str, issued_at: int) -> str:
    """The operator's word about itself.

    :param system_account: public key of the account that asks the broker about itself.
    :param issued_at: Unix seconds.
    """
    return _encode(operator, operator.public, name, issued_at, None, "operator", {"system_account": system_account})


def account_jwt(operator: NatsKey, account: str, name: str, issued_at: int, claims: Mapping[str, Any]) -> str:
    """The operator's word about an account.

    :param account: its public key. :param claims: exports, imports, limits, signing keys and revocations.
    """
    return _encode(operator, account, name, issued_at, None, "account", claims)


def user_jwt(signer: NatsKey, account: str, user: str, name: str, issued_at: int, expires: int | None) -> str:
    """An account's word about a user. What the user may do is in the scope of the signing key, in the account's JWT.

    :param signer: a signing key of the account. :param user: public key.
    :param expires: Unix seconds; ``None``: never.
    """
    return _encode(signer, user, name, issued_at, expires, "user", {"issuer_account": account})


def _encode(
    signer: NatsKey, subject: str, name: str, issued_at: int, expires: int | None, kind: str, claims: Mapping[str, Any]
) -> str:
    body: dict[str, Any] = {"iat": issued_at, "iss": signer.public, "name": name, "sub": subject}
    if expires is not None:
        body["exp"] = expires
    body["nats"] = {**claims, "type": kind, "version": VERSION}
    body["jti"] = _digest(_json(body))
    signed = f"{_base64(_json(_HEADER))}.{_base64(_json(body))}"
    return f"{signed}.{_base64(signer.sign(signed.encode()))}"


def _digest(data: bytes) -> str:
    running = hashes.Hash(hashes.SHA512_256())
    running.update(data)
    return base64.b32encode(running.finalize()).decode().rstrip("=")


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
