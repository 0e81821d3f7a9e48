# SPDX-License-Identifier: Apache-2.0
"""A nats-facts of a test with its local keys: where it listens, and who may come in."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nats.aio.client import Client

from appliance.boundary.names import ZoneId
from appliance.brokers.accounts import LocalRights
from appliance.brokers.config import Limits, Local
from appliance.factlog.natskeys import UserCredentials
from appliance.factlog.natslogin import CredentialsFile, client_options
from appliance.keys.local.applications import Role
from appliance.keys.local.store import Handed, LocalKeys
from appliance.node.local import facts_broker
from tests.brokers import LIMITS, local

PLANT = ZoneId("plant-a")
ROLES = {(True, True): Role.SERVICE, (True, False): Role.PRODUCER, (False, True): Role.CONSUMER}


@dataclass(frozen=True)
class Door:
    """Where a nats-facts of PLANT listens, and the keys that open it."""

    listen: Local
    keys: LocalKeys
    folder: Path
    limits: Limits = LIMITS

    @property
    def host(self) -> str:
        """The address."""
        return self.listen.host

    @property
    def port(self) -> int:
        """The port."""
        return self.listen.port

    def __str__(self) -> str:
        return str(self.listen)

    def text(self, *, desk: bool = False) -> str:
        """The configuration of the broker."""
        return facts_broker(self.keys, self.listen, self.folder / "store", self.limits, desk=desk).render()

    def login(self, user: str) -> CredentialsFile:
        """How our own connections come in."""
        own = self.keys.folder / f"{user}.creds"
        return CredentialsFile(own if own.exists() else self.folder / "issued" / f"{user}.creds")

    def admit(self, rights: LocalRights, life_s: int | None = None) -> Handed:
        """Issue a credential to a local application; the broker must be told."""
        role = ROLES[rights.produces, rights.reads]
        handed = self.keys.new(rights.name, role, rights.categories, life_s=life_s)
        (self.folder / "issued").mkdir(exist_ok=True)
        handed.write(self.folder / "issued")
        return handed


def door(folder: Path, *applications: LocalRights, limits: Limits = LIMITS) -> Door:
    """New keys, and a free port."""
    found = Door(local(), LocalKeys.open(folder / "local", PLANT), folder, limits)
    for rights in applications:
        found.admit(rights)
    return found


@asynccontextmanager
async def entered(at: Door, user: str | CredentialsFile, **options: Any) -> AsyncIterator[tuple[Client, list[str]]]:
    """A stock nats-py connection with a user's credentials, and the errors the broker told it."""
    errors: list[str] = []

    async def note(error: Exception) -> None:
        errors.append(str(error).lower())

    login = at.login(user) if isinstance(user, str) else user
    client = Client()
    try:
        await client.connect(
            f"nats://{at}",
            allow_reconnect=False,
            connect_timeout=5,
            error_cb=note,
            **client_options(login),
            **options,
        )
        yield client, errors
    finally:
        await client.close()


def knock(at: Door, jwt: str, sign: UserCredentials | None, **extra: str) -> str:
    """What the broker answers to a CONNECT with this JWT: ``PONG``, or ``-ERR`` and its words. Blocking.

    :param sign: whose key signs the nonce, if any.
    """
    with socket.create_connection((at.host, at.port), timeout=5) as connection:
        reader = connection.makefile("rb")
        info = json.loads(reader.readline().removeprefix(b"INFO "))
        fields = {"verbose": False, "lang": "test", "version": "0", "protocol": 1, **extra}
        if jwt:
            fields["jwt"] = jwt
        if sign is not None:
            fields["sig"] = sign.answer(info["nonce"])
        connection.sendall(b"CONNECT " + json.dumps(fields).encode() + b"\r\nPING\r\n")
        answer = reader.readline()
        reader.close()
    return answer.decode().strip()


def claims_of(jwt: str) -> dict[str, Any]:
    """What a JWT says."""
    body = jwt.split(".")[1]
    values: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return values
