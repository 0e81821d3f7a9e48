# SPDX-License-Identifier: Apache-2.0
"""Local credentials on a real nats-server: issued, rotated, revoked and ended while the others go on; and forged ones.

The broker is told by a new configuration and SIGHUP, as on a box.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
import trio
from nats.aio.client import Client

from appliance.boundary.errors import UnavailableError
from appliance.boundary.names import Category, ProducerId, ZoneId
from appliance.boundary.reasons import Reason
from appliance.brokers.accounts import LocalRights
from appliance.brokers.config import AGENT_USER, SYSTEM_USER, write_config
from appliance.brokers.process import BrokerProcess
from appliance.factlog.natskeys import KeyKind, NatsKey, UserCredentials
from appliance.keys.local.natsjwt import account_jwt, user_jwt
from appliance.keys.local.root import LocalRoot
from appliance.keys.local.store import FACTS, SYSTEM, LocalKeys
from tests.brokers import AGENT_INBOX, as_client, eventually, running, told
from tests.doors import Door, claims_of, door, entered, knock

PRESS = LocalRights(ProducerId("press-4"), categories=frozenset({Category("operational")}))
MES = LocalRights(ProducerId("mes"))
HMI = LocalRights(ProducerId("hmi"), produces=False, reads=True)
OWN = "facts.operational.plant-a.all.press-4.temperature"
REFUSED = "Authorization Violation"


def tell(broker: BrokerProcess, at: Door) -> None:
    """Write what the keys say now, and let the broker read it."""
    write_config(at.folder / "facts.conf", at.text())
    broker.reload()


async def with_broker(
    folder: Path, scenario: Callable[[Door, BrokerProcess], Awaitable[None]], *rights: LocalRights
) -> None:
    """Run a scenario against a running nats-facts."""
    at = door(folder, *rights)
    async with running(folder, "facts", at.text(), at.listen) as broker:
        await as_client(lambda: scenario(at, broker))


async def answers(client: Client, subject: str) -> str:
    """What reaches the agent of a message, and comes back."""
    return (await client.request(subject, b"x", timeout=2)).data.decode()


async def agent_answers(client: Client) -> None:
    """The agent's part."""

    async def answer(message: Any) -> None:
        await message.respond(message.subject.encode())

    await client.subscribe("facts.>", cb=answer)
    await client.flush()


async def allowed(at: Door, credentials: UserCredentials) -> bool:
    """Whether the broker lets them in."""
    return await asyncio.to_thread(knock, at, credentials.jwt, credentials) == "PONG"


async def test_a_stock_client_reads_the_credentials_file(tmp_path: Path) -> None:
    """The library of NATS's own makers takes key and file as they are."""

    async def scenario(at: Door, _: BrokerProcess) -> None:
        client = await nats.connect(
            f"nats://{at}", user_credentials=str(at.login("press-4").path), allow_reconnect=False
        )
        async with entered(at, AGENT_USER, inbox_prefix=AGENT_INBOX) as (agent, _errors):
            await agent_answers(agent)
            assert await answers(client, OWN) == OWN
        await client.close()

    await with_broker(tmp_path, scenario, PRESS)


async def test_a_reload_admits_rotates_and_revokes_and_the_others_stay(tmp_path: Path) -> None:
    """No connection is lost but those of whoever is revoked; each of the three needs no restart."""

    async def scenario(at: Door, broker: BrokerProcess) -> None:
        async with (
            entered(at, AGENT_USER, inbox_prefix=AGENT_INBOX) as (agent, _),
            entered(at, "press-4") as (press, _),
            entered(at, "hmi") as (hmi, _),
        ):
            await agent_answers(agent)
            old = UserCredentials.load(at.login("press-4").path)
            # A new application.
            mes = at.admit(MES).credentials
            assert not await allowed(at, mes)
            tell(broker, at)
            await eventually(lambda: allowed(at, mes), 5)
            # A rotation that leaves the old one good, then the end of the old one.
            second = at.keys.rotate(PRESS.name, keep_old=True).credentials
            assert await allowed(at, old)
            assert await allowed(at, second)  # nothing had to be told
            third = at.keys.rotate(PRESS.name)
            third.write(at.folder / "issued")
            tell(broker, at)

            async def gone() -> bool:
                return not await allowed(at, old)

            await eventually(gone, 5)
            assert not await allowed(at, second)
            assert press.is_closed
            async with entered(at, "press-4") as (again, _):
                assert await answers(again, OWN) == OWN
            # A revocation.
            at.keys.revoke(PRESS.name)
            tell(broker, at)

            async def locked_out() -> bool:
                return not await allowed(at, third.credentials)

            await eventually(locked_out, 5)
            assert agent.is_connected
            assert hmi.is_connected
            async with entered(at, "mes") as (other, _):
                assert await answers(other, "facts.audit.plant-a.all.mes.x") == "facts.audit.plant-a.all.mes.x"

    await with_broker(tmp_path, scenario, PRESS, HMI)


async def test_an_application_can_come_back_after_its_revocation(tmp_path: Path) -> None:
    """With a new credential; the revoked one stays revoked."""

    async def scenario(at: Door, broker: BrokerProcess) -> None:
        old = UserCredentials.load(at.login("press-4").path)
        at.keys.revoke(PRESS.name)
        new = at.admit(PRESS).credentials
        tell(broker, at)
        await eventually(lambda: allowed(at, new), 5)
        assert not await allowed(at, old)

    await with_broker(tmp_path, scenario, PRESS)


async def test_the_appliances_own_users_rotate_too(tmp_path: Path) -> None:
    """The file is there before the old key is refused, so an agent that reconnects finds it."""

    async def scenario(at: Door, broker: BrokerProcess) -> None:
        old = UserCredentials.load(at.login(AGENT_USER).path)
        async with entered(at, AGENT_USER, inbox_prefix=AGENT_INBOX) as (agent, _):
            at.keys.revoke(ProducerId(AGENT_USER))
            new = UserCredentials.load(at.login(AGENT_USER).path)
            assert await allowed(at, new)
            assert agent.is_connected
            tell(broker, at)

            async def gone() -> bool:
                return agent.is_closed

            await eventually(gone, 5)
            assert not await allowed(at, old)
            assert await allowed(at, new)

    await with_broker(tmp_path, scenario, PRESS)


async def test_rights_change_without_a_new_credential(tmp_path: Path) -> None:
    """They stand in the account, not in what the application holds."""

    async def scenario(at: Door, broker: BrokerProcess) -> None:
        issued = UserCredentials.load(at.login("press-4").path)
        assert not {"pub", "sub", "resp"} & claims_of(issued.jwt)["nats"].keys()
        async with entered(at, AGENT_USER, inbox_prefix=AGENT_INBOX) as (agent, _):
            await agent_answers(agent)
            async with entered(at, "press-4") as (press, _):
                with pytest.raises(nats.errors.TimeoutError):
                    await answers(press, OWN.replace("operational", "audit"))

    await with_broker(tmp_path, scenario, PRESS)


async def test_a_credential_ends_at_its_time(tmp_path: Path) -> None:
    """Also for whoever is connected then; nobody else notices."""

    async def scenario(at: Door, broker: BrokerProcess) -> None:
        handed = at.admit(MES, life_s=4)
        tell(broker, at)
        await eventually(lambda: allowed(at, handed.credentials), 5)
        async with entered(at, "mes") as (mes, _), entered(at, "press-4") as (press, _):

            async def ended() -> bool:
                return mes.is_closed

            await eventually(ended, 10)
            assert press.is_connected

        async def refused() -> bool:
            return not await allowed(at, handed.credentials)

        await eventually(refused, 3)  # the second of its end is still good for who comes

    await with_broker(tmp_path, scenario, PRESS)


# -- forged ones -------------------------------------------------------------------------------------------------------


def encoded(part: dict[str, Any]) -> str:
    """A part of a JWT."""
    return base64.urlsafe_b64encode(json.dumps(part, separators=(",", ":")).encode()).decode().rstrip("=")


def altered(jwt: str, signer: NatsKey | None, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> str:
    """A JWT with another head or body, signed by somebody; without a signer the old signature stays."""
    parts = jwt.split(".")
    head, body = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in parts[:2])
    change(head, body)
    text = f"{encoded(head)}.{encoded(body)}"
    signature = (
        parts[2] if signer is None else base64.urlsafe_b64encode(signer.sign(text.encode())).decode().rstrip("=")
    )
    return f"{text}.{signature}"


def forgeries(at: Door, own: UserCredentials) -> Iterator[tuple[str, str]]:
    """JWTs that the broker must not take from the holder of a good one, by class."""
    dice = random.Random(7)
    for index in dice.sample(range(len(own.jwt)), 120):
        letter = dice.choice([c for c in "ABCDEFGHabcdefgh0189-_." if c != own.jwt[index]])
        mutant = own.jwt[:index] + letter + own.jwt[index + 1 :]
        if claims_differ(mutant, own.jwt):
            yield "letter", mutant
    for cut in range(1, 40):
        yield "truncated", own.jwt[:-cut]
    keys, facts, press = at.keys, at.keys.account(FACTS), at.keys.account("press-4")
    accounts = {"facts": facts.public, "system": keys.account(SYSTEM).public, "hmi": keys.account("hmi").public}
    fields: list[tuple[str, Any]] = [
        ("name", "agent"),
        ("sub", NatsKey.generate(KeyKind.USER).public),
        ("exp", 4_000_000_000),
        ("iat", 4_000_000_000),
        ("iss", facts.signer.public),
        ("iss", press.public),
        ("iss", keys.operator.public),
        ("aud", "NATS"),
    ]
    permissions = {"pub": {"allow": [">"]}, "sub": {"allow": [">"]}}
    claims: list[tuple[str, Any]] = [
        *[("issuer_account", account) for account in accounts.values()],
        ("bearer_token", True),
        ("type", "account"),
        ("pub", {"allow": [">"]}),
        ("sub", {"allow": [">"]}),
        ("subs", -1),
        ("permissions", permissions),
    ]
    strangers = [NatsKey.generate(kind) for kind in (KeyKind.ACCOUNT, KeyKind.OPERATOR, KeyKind.USER)]
    for where, changes in (("claims", fields), ("nats", claims)):
        for name, value in changes:

            def change(_: dict[str, Any], body: dict[str, Any], w: str = where, n: str = name, v: Any = value) -> None:
                (body if w == "claims" else body["nats"])[n] = v

            yield "old signature", altered(own.jwt, None, change)
            for signer in (own.key, *strangers):
                yield "own or strange signature", altered(own.jwt, signer, change)
    for algorithm in ("none", "None", "ed25519", "HS256", ""):

        def rename(head: dict[str, Any], _: dict[str, Any], name: str = algorithm) -> None:
            head["alg"] = name

        yield "algorithm", altered(own.jwt, own.key, rename)
        yield "algorithm", altered(own.jwt, None, rename).rsplit(".", 1)[0] + "."
    yield from foreign(own)


def foreign(own: UserCredentials) -> Iterator[tuple[str, str]]:
    """JWTs of another operator, and of accounts that nobody signed."""
    other = LocalRoot(b"\7" * 32)
    account, signer = (other.nats_key(KeyKind.ACCOUNT, *names) for names in (("$facts",), ("x",)))
    named = claims_of(own.jwt)["nats"]["issuer_account"]
    for issuer, of in ((signer, account.public), (account, account.public), (account, named), (signer, named)):
        yield "foreign", user_jwt(issuer, of, own.key.public, "press-4", 1_700_000_000, None)
    operator = other.nats_key(KeyKind.OPERATOR)
    yield "an account's JWT", account_jwt(operator, account.public, "FACTS", 1_700_000_000, {})


def claims_differ(mutant: str, original: str) -> bool:
    """Whether two texts are two JWTs: the last letter of base64 has bits that nobody reads."""

    def raw(text: str) -> list[bytes] | None:
        try:
            return [base64.urlsafe_b64decode(part + "==") for part in text.split(".")]
        except ValueError:
            return None

    return raw(mutant) != raw(original)


async def test_no_forged_jwt_is_taken(tmp_path: Path) -> None:
    """At least 200 distinct ones, each with a good signature over the nonce; the original is taken before and after."""

    async def scenario(at: Door, _: BrokerProcess) -> None:
        own = UserCredentials.load(at.login("press-4").path)
        assert await allowed(at, own)
        found = {mutant: kind for kind, mutant in forgeries(at, own)}
        assert own.jwt not in found
        assert len(found) >= 200
        assert len(set(found.values())) >= 7
        taken = [(kind, jwt) for jwt, kind in found.items() if "PONG" in await asyncio.to_thread(knock, at, jwt, own)]
        assert taken == []
        assert await allowed(at, own)

    await with_broker(tmp_path, scenario, PRESS, HMI)


async def test_a_credential_opens_its_own_broker_alone(tmp_path: Path) -> None:
    """Another zone's is refused, though it has the same names; so is what was issued under another root."""

    async def scenario(at: Door, _: BrokerProcess) -> None:
        other = LocalKeys.open(tmp_path / "other", ZoneId("plant-b"))
        handed = other.new(PRESS.name, at.keys.applications().entries[PRESS.name].role, PRESS.categories)
        assert not await allowed(at, handed.credentials)
        for name in (AGENT_USER, SYSTEM_USER):
            assert not await allowed(at, UserCredentials.load(other.folder / f"{name}.creds"))
            assert await allowed(at, UserCredentials.load(at.keys.folder / f"{name}.creds"))

    await with_broker(tmp_path, scenario, PRESS)


async def test_a_configuration_that_was_altered_is_not_read(tmp_path: Path) -> None:
    """An account's JWT is signed; a broker refuses to start with one that was changed, and a reload changes nothing."""
    at = door(tmp_path, PRESS)
    text = at.text()
    account = at.keys.account("press-4").public
    line = next(line for line in text.splitlines() if line.strip().startswith(f"{account}:"))
    jwt = line.split('"')[1]
    changed = altered(jwt, None, lambda _, body: body["nats"]["signing_keys"][0]["template"]["pub"].update(allow=[">"]))
    async with running(tmp_path, "facts", text, at.listen) as broker:
        write_config(tmp_path / "facts.conf", text.replace(jwt, changed))
        with pytest.raises(UnavailableError) as refused:
            await broker.check()
        assert refused.value.reason is Reason.BROKER_REFUSED
        broker.reload()
        await trio.sleep(0.5)

        async def scenario() -> None:
            async with entered(at, "press-4") as (press, errors):
                await press.publish("log.facts.x", b"")
                await told(errors, 'violation for publish to "log.facts.x"')

        await as_client(scenario)
