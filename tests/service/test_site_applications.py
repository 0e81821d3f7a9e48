# SPDX-License-Identifier: Apache-2.0
"""Applications of the site configuration on a real nats-server: let in, kept to their own name, ended; and forged ones.

The box never saw their secrets, and the broker's operator never signed for their users.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import nats.errors
import pytest

from appliance.boundary.names import Category, ProducerId
from appliance.brokers.accounts import LocalRights
from appliance.brokers.config import AGENT_USER, write_config
from appliance.brokers.process import BrokerProcess
from appliance.factlog.natskeys import KeyKind, NatsKey, UserCredentials
from appliance.factlog.natslogin import CredentialsFile
from appliance.keys.local.applications import Role
from appliance.keys.local.natsjwt import user_jwt
from appliance.keys.local.site import SiteApplication, new_site_application, site_account
from appliance.keys.local.store import FACTS, SYSTEM
from tests.brokers import AGENT_INBOX, as_client, eventually, running, told
from tests.doors import Door, claims_of, door, entered, knock
from tests.service.test_local_credentials import agent_answers, altered, answers

PRESS, MES, HMI = map(ProducerId, ("press-4", "mes", "hmi"))
TELEMETRY = frozenset({Category("telemetry")})
NOW = 1_790_000_000
OWN = "facts.telemetry.plant-a.all.press-4.temperature"
MADE_HERE = LocalRights(ProducerId("robot"))
UNSCOPED = {"pub": {"allow": [">"]}, "sub": {"allow": [">"]}}


class Site:
    """Two applications of a site, and their secrets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.press, press = new_site_application(PRESS, Role.PRODUCER, TELEMETRY, NOW)
        self.mes, mes = new_site_application(MES, Role.SERVICE, None, NOW)
        for name, secrets in ((PRESS, press), (MES, mes)):
            secrets.write(folder, name)

    def credentials(self, name: str) -> UserCredentials:
        """What the application has."""
        return UserCredentials.load(self.folder / f"{name}.creds")

    def login(self, name: str) -> CredentialsFile:
        """How it comes in."""
        return CredentialsFile(self.folder / f"{name}.creds")


async def with_site(
    folder: Path,
    scenario: Callable[[Door, BrokerProcess, Site], Awaitable[None]],
    known: Callable[[Site], list[SiteApplication]] = lambda site: [site.press, site.mes],
) -> None:
    """Run a scenario against a nats-facts that knows applications of a site, and one of the box's own."""
    at, site = door(folder, MADE_HERE), Site(folder / "site")
    assert at.keys.take_site(known(site)) == []
    async with running(folder, "facts", at.text(), at.listen) as broker:
        await as_client(lambda: scenario(at, broker, site))


async def opens(at: Door, credentials: UserCredentials, jwt: str = "") -> bool:
    """Whether the broker lets them in."""
    return await asyncio.to_thread(knock, at, jwt or credentials.jwt, credentials) == "PONG"


def take(at: Door, broker: BrokerProcess, *applications: SiteApplication) -> None:
    """A newer document is in force."""
    assert at.keys.take_site(applications) == []
    write_config(at.folder / "facts.conf", at.text())
    broker.reload()


async def test_they_produce_under_their_own_name_alone(tmp_path: Path) -> None:
    """Own name and categories reach the agent; another producer's name, another category and the logs do not."""

    async def scenario(at: Door, _: BrokerProcess, site: Site) -> None:
        async with (
            entered(at, AGENT_USER, inbox_prefix=AGENT_INBOX) as (agent, _agent),
            entered(at, site.login(PRESS)) as (press, errors),
            entered(at, site.login(MES)) as (mes, _mes),
        ):
            await agent_answers(agent)
            assert await answers(press, OWN) == OWN
            assert await answers(mes, OWN.replace(PRESS, MES)) == OWN.replace(PRESS, MES)
            for subject in (
                OWN.replace(PRESS, MES),
                OWN.replace(PRESS, "robot"),
                OWN.replace("telemetry", "audit"),
                OWN.replace("plant-a", "plant-b"),
                "log.facts.telemetry.plant-a.all.press-4",
                "$JS.API.STREAM.NAMES",
            ):
                with pytest.raises(nats.errors.TimeoutError):
                    await press.request(subject, b"x", timeout=0.5)
                await told(errors, f'violation for publish to "{subject.lower()}"')

    await with_site(tmp_path, scenario)


async def test_a_newer_document_ends_changes_and_brings_back(tmp_path: Path) -> None:
    """Connections of whom it no longer names are closed; all others stay."""

    async def scenario(at: Door, broker: BrokerProcess, site: Site) -> None:
        press = site.credentials(PRESS)
        async with (
            entered(at, site.login(PRESS)) as (client, _press),
            entered(at, site.login(MES)) as (mes, _mes),
            entered(at, "robot") as (robot, _robot),
        ):
            take(at, broker, site.mes)

            async def gone() -> bool:
                return client.is_closed and not await opens(at, press)

            await eventually(gone, 5)
            newer, secrets = new_site_application(PRESS, Role.PRODUCER, TELEMETRY, NOW)
            take(at, broker, newer, site.mes)
            await eventually(lambda: opens(at, secrets.credentials), 5)
            assert not await opens(at, press)
            take(at, broker, site.press, site.mes)  # a document was taken back
            await eventually(lambda: opens(at, press), 5)
            assert not await opens(at, secrets.credentials)
            assert mes.is_connected
            assert robot.is_connected

    await with_site(tmp_path, scenario)


def changed(jwt: str, key: NatsKey | None, part: str, **values: Any) -> str:
    """A JWT with other claims, signed by a key; ``None``: with its old signature."""

    def change(_: dict[str, Any], body: dict[str, Any]) -> None:
        (body[part] if part else body).update(values)

    return altered(jwt, key, change)


def forgeries(at: Door, site: Site) -> Iterator[tuple[str, str]]:
    """What the holder of the press's credentials, and of keys of their own, can sign."""
    own, other = site.credentials(PRESS), site.credentials(MES)
    account, signer = site_account(PRESS, site.press.signer), site.press.signer
    user, stranger, second = own.key.public, NatsKey.generate(KeyKind.ACCOUNT), NatsKey.generate(KeyKind.ACCOUNT)
    accounts = {
        "own": account,
        "mes": site_account(MES, site.mes.signer),
        "robot": at.keys.account("robot").public,
        "facts": at.keys.account(FACTS).public,
        "system": at.keys.account(SYSTEM).public,
        "name of another": site_account(MES, signer),
        "signer": signer,
        "stranger": stranger.public,
    }
    keys: tuple[NatsKey | None, ...] = (None, own.key, stranger)
    for where, named in accounts.items():
        for key in (stranger, second, own.key):
            yield f"stranger signs for {where}", user_jwt(key, named, user, PRESS, NOW, None)
        yield f"account {where}, old signature", changed(own.jwt, None, "nats", issuer_account=named, x=1)
    for name, value in (("iss", account), ("iss", site.mes.signer), ("iss", at.keys.operator.public), ("name", MES)):
        yield from ((f"{name} changed", changed(own.jwt, key, "", **{name: value})) for key in keys)
    for each in keys:
        yield "rights of its own", changed(own.jwt, each, "nats", **UNSCOPED)
        yield "another user", changed(own.jwt, each, "", sub=other.key.public)
    yield "another's JWT", other.jwt
    for index in range(0, len(own.jwt), 7):
        letter = "A" if own.jwt[index] != "A" else "B"
        yield "letter", own.jwt[:index] + letter + own.jwt[index + 1 :]


async def test_no_forged_jwt_is_taken(tmp_path: Path) -> None:
    """Signed by whatever the press or a stranger holds; the original is taken before and after."""

    async def scenario(at: Door, _: BrokerProcess, site: Site) -> None:
        own = site.credentials(PRESS)
        assert await opens(at, own)
        found = {jwt: kind for kind, jwt in forgeries(at, site) if jwt != own.jwt}
        assert len(found) >= 100
        taken = [kind for jwt, kind in found.items() if await opens(at, own, jwt)]
        assert taken == []
        assert await opens(at, own)

    await with_site(tmp_path, scenario)


async def test_a_signer_that_was_kept_gives_no_more_than_its_scope(tmp_path: Path) -> None:
    """Whoever makes keys without the tool, and keeps the signer, can make users of that application; no wider ones."""
    signer, user = NatsKey.generate(KeyKind.ACCOUNT), NatsKey.generate(KeyKind.USER)
    kept = SiteApplication(HMI, Role.PRODUCER, TELEMETRY, None, signer.public)
    plain = user_jwt(signer, site_account(HMI, signer.public), user.public, HMI, NOW, None)
    wide = changed(plain, signer, "nats", **UNSCOPED)
    assert claims_of(wide)["nats"]["pub"] == {"allow": [">"]}
    elsewhere = [
        user_jwt(signer, at, user.public, HMI, NOW, None) for at in (signer.public, site_account(MES, signer.public))
    ]

    async def scenario(at: Door, _: BrokerProcess, site: Site) -> None:
        mine = UserCredentials(plain, user)
        assert await opens(at, mine)
        assert not await opens(at, mine, wide)
        for account in (site_account(MES, site.mes.signer), at.keys.account(FACTS).public):
            assert not await opens(at, mine, user_jwt(signer, account, user.public, HMI, NOW, None))
        assert [jwt for jwt in elsewhere if await opens(at, mine, jwt)] == []

    await with_site(tmp_path, scenario, lambda site: [site.mes, kept])


def test_what_the_box_keeps_is_public(tmp_path: Path) -> None:
    """Neither token, nor seed, nor a JWT of an application's user lies in its folder."""
    at, site = door(tmp_path / "box"), Site(tmp_path / "site")
    at.keys.take_site([site.press, site.mes])
    kept = b"".join(path.read_bytes() for path in at.keys.folder.rglob("*") if path.is_file()) + at.text().encode()
    for name in (PRESS, MES):
        mine = site.credentials(name)
        token = (site.folder / f"{name}.token").read_bytes().strip()
        assert not [secret for secret in (mine.key.seed.encode(), mine.jwt.encode(), token) if secret in kept]
    assert json.loads((at.keys.folder / "tokens.json").read_text()).keys() == {
        (each.token or b"").hex() for each in (site.press, site.mes)
    }
