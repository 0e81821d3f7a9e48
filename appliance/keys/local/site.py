# SPDX-License-Identifier: Apache-2.0
"""Applications that the site configuration names: their secrets are made at the site, and the box needs none of them.

A NATS user needs a JWT, signed by a key that its account names; and the broker's accounts are signed by an operator
whose key follows from the box's own root, which the site does not know. So the site makes a *signer* for one
application, lets it sign that application's user, forgets it, and names its public half in the signed document. The box
makes an account for it, with a scope for that signer which says what its users may do, as for every application.

The user's JWT must name its account, and an account has a key of its own, whose holder could sign users without any
scope. Here nobody holds it: the account's public key is a digest of name and signer, so both sides know it, and its
private half would be the discrete logarithm of a hash.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from errno import EEXIST
from pathlib import Path
from typing import Final

from appliance.boundary.names import Category, ProducerId
from appliance.factlog.natskeys import KeyKind, NatsKey, UserCredentials, public_bytes, public_text
from appliance.keys.files import PRIVATE, write_atomically
from appliance.keys.local.applications import Role
from appliance.keys.local.natsjwt import user_jwt

TOKEN_BYTES: Final = 32
_DOMAIN: Final = b"bsfg site application 1\0"


@dataclass(frozen=True, slots=True)
class SiteApplication:
    """An application as the site configuration has it. No secret.

    :param categories: what it may produce; ``None``: every category.
    :param token: SHA-256 of its HTTP token.
    :param signer: public key (NKey of an account) that signs its NATS user; may be empty.
    """

    name: ProducerId
    role: Role
    categories: frozenset[Category] | None
    token: bytes | None = field(repr=False)
    signer: str

    @property
    def produces(self) -> bool:
        """Whether it may produce."""
        return self.role is not Role.CONSUMER


@dataclass(frozen=True, slots=True)
class SiteSecrets:
    """What an application gets, once; nothing keeps it.

    :param token: for AppendFact over HTTP; only who produces has one.
    """

    credentials: UserCredentials
    token: str | None = field(repr=False)

    def write(self, folder: Path, name: ProducerId) -> list[Path]:
        """Write ``NAME.creds`` and, for who produces, ``NAME.token``; their owner alone can read them.

        :raises FileExistsError: one of them is there; :raises OSError: it cannot be written.
        """
        files = {folder / f"{name}.creds": self.credentials.text()}
        if self.token is not None:
            files[folder / f"{name}.token"] = f"{self.token}\n"
        for path in files:
            if path.exists():
                raise FileExistsError(EEXIST, "is there already", str(path))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, text in files.items():
            write_atomically(path, text.encode(), PRIVATE)
        return list(files)


def site_account(name: ProducerId, signer: str) -> str:
    """The public key of the account of an application whose users that signer signs; nobody has its private half."""
    digest = hashlib.sha256(_DOMAIN + name.encode() + b"\0" + public_bytes(signer, KeyKind.ACCOUNT)).digest()
    return public_text(KeyKind.ACCOUNT, digest)


def new_site_application(
    name: ProducerId, role: Role, categories: frozenset[Category] | None, now: int
) -> tuple[SiteApplication, SiteSecrets]:
    """A new one with all it needs: what the document says of it, and what the application gets.

    :param now: Unix seconds. What is made does not expire: it ends when a newer document no longer names it.
    """
    signer, user = NatsKey.generate(KeyKind.ACCOUNT), NatsKey.generate(KeyKind.USER)
    jwt = user_jwt(signer, site_account(name, signer.public), user.public, name, now, None)
    token = None if role is Role.CONSUMER else secrets.token_urlsafe(TOKEN_BYTES)
    digest = None if token is None else hashlib.sha256(token.encode()).digest()
    made = SiteApplication(name, role, categories, digest, signer.public)
    return made, SiteSecrets(UserCredentials(jwt, user), token)
