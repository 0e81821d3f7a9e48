# SPDX-License-Identifier: Apache-2.0
"""Applications of the site configuration: what a document may say of one, and what the local keys make of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import Category, ProducerId, ZoneId
from appliance.boundary.reasons import Reason
from appliance.cli.main import cli
from appliance.factlog.natskeys import KeyKind, NatsKey, UserCredentials
from appliance.keys.local.applications import Applications, Origin, Role
from appliance.keys.local.site import SiteApplication, new_site_application, site_account
from appliance.keys.local.store import LocalKeys
from appliance.node.local import broker_trust
from appliance.site.applications import MOST, new_application, table_of
from appliance.site.describe import changes, flat
from appliance.site.errors import BadSiteError
from appliance.site.reading import read_site
from tests import sites
from tests.brokers import LIMITS
from tests.doors import claims_of

PLANT = ZoneId("plant-a")
PRESS, HMI, MES = map(ProducerId, ("press-4", "hmi", "mes"))
TELEMETRY = frozenset({Category("telemetry")})
NOW = 1_790_000_000


def made(name: ProducerId = PRESS, role: Role = Role.PRODUCER) -> SiteApplication:
    """A new one, without its secrets."""
    return new_site_application(name, role, None if role is Role.CONSUMER else TELEMETRY, NOW)[0]


def document(*tables: str) -> str:
    """An example with these tables and no other applications."""
    own = re.compile(r"^\[applications\..*?(?=^\[(?!applications)|\Z)", re.MULTILINE | re.DOTALL)
    text = own.sub("", sites.example("two-nics"))
    return text + "\n" + "\n".join(tables)


@pytest.fixture
def keys(tmp_path: Path) -> LocalKeys:
    """New ones."""
    return LocalKeys.open(tmp_path / "local", PLANT)


# -- the document ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["producer", "consumer", "service"])
@pytest.mark.parametrize("categories", [(), ("telemetry", "audit")])
def test_what_the_tool_prints_is_what_the_box_reads(role: str, categories: tuple[str, ...]) -> None:
    """All roles, with and without categories; nothing of what the application gets is in it."""
    if role == "consumer" and categories:
        with pytest.raises(RefusedError):
            new_application("mes", role, categories, NOW)
        return
    application, secrets, table = new_application("mes", role, categories, NOW)
    config = read_site(document(table).encode(), "x")
    assert config.applications == (application,)
    assert secrets.credentials.key.seed not in table
    assert secrets.credentials.jwt not in table
    assert (secrets.token is None) == (role == "consumer")
    assert secrets.token is None or secrets.token not in table
    assert secrets.token is None or hashlib.sha256(secrets.token.encode()).digest() == application.token


def test_the_order_of_tables_says_nothing_and_changes_are_shown() -> None:
    """By name, for people and for programs."""
    press, hmi = made(), made(HMI, Role.CONSUMER)
    one, two = (read_site(document(*order).encode(), "x") for order in (_tables(press, hmi), _tables(hmi, press)))
    assert one == two
    assert flat(one)["applications.press-4.role"] == "producer"
    without = read_site(document(table_of(hmi)).encode(), "x")
    assert ("applications.press-4.role", "producer", "-") in changes(one, without)
    assert ("applications.press-4.token_sha256", "-", (press.token or b"").hex()) in changes(without, one)


def _tables(*applications: SiteApplication) -> list[str]:
    return [table_of(each) for each in applications]


DIGEST = "ab" * 32
SIGNER = NatsKey.from_bytes(KeyKind.ACCOUNT, b"\1" * 32).public
USER_KEY = NatsKey.from_bytes(KeyKind.USER, b"\1" * 32).public
PRODUCER = f'role = "producer"\ntoken_sha256 = "{DIGEST}"'

# the name, the table, what the line of the error has, what it says
RULES = [
    ("press-4", f'token_sha256 = "{DIGEST}"', "[applications.press-4]", "needs role"),
    ("press-4", PRODUCER.replace('"producer"', '"admin"'), "role", "not one of them; allowed: \"producer\""),
    ("press-4", PRODUCER.replace('"producer"', '"appliance"'), "role", "not one of them"),
    ("press-4", 'role = "producer"', "[applications.press-4]", "needs nats_signer or token_sha256"),
    ("press-4", 'role = "service"', "[applications.press-4]", "needs nats_signer to read"),
    ("press-4", f'role = "service"\ntoken_sha256 = "{DIGEST}"', "[applications", "needs nats_signer to read"),
    ("press-4", 'role = "consumer"', "[applications.press-4]", "needs nats_signer to read"),
    ("hmi", f'role = "consumer"\nnats_signer = "{SIGNER}"\ntoken_sha256 = "{DIGEST}"', "token_sha256", "for who"),
    ("hmi", f'role = "consumer"\nnats_signer = "{SIGNER}"\ncategories = ["audit"]', "categories", "for who produces"),
    ("press-4", f"{PRODUCER}\ncategories = []", "categories", "it may produce nothing"),
    ("press-4", f'{PRODUCER}\ncategories = ["weather"]', "categories", "needs a table [categories.weather]"),
    ("press-4", f'{PRODUCER}\ncategories = "audit"', "categories", "must be a list of categories"),
    ("press-4", f'{PRODUCER}\ncategories = ["*"]', "categories", "[a-z0-9]+"),
    ("press-4", f'{PRODUCER}\ncategories = [">"]', "categories", "[a-z0-9]+"),
    ("press-4", PRODUCER.replace("ab", "AB"), "token_sha256", "not a SHA-256"),
    ("press-4", PRODUCER.replace("ab", "xy"), "token_sha256", "not a SHA-256"),
    ("press-4", PRODUCER.replace(DIGEST, DIGEST[2:]), "token_sha256", "not a SHA-256"),
    ("press-4", PRODUCER.replace(DIGEST, ""), "token_sha256", "not a SHA-256"),
    ("press-4", f"{PRODUCER}\ntoken = 'secret'", "token = ", "unknown field 'token'"),
    ("press-4", f'{PRODUCER}\nnats_signer = "{USER_KEY}"', "nats_signer", "not the public key of an account"),
    ("press-4", f'{PRODUCER}\nnats_signer = "{SIGNER[:-1]}B"', "nats_signer", "not the public key of an account"),
    ("press-4", f'{PRODUCER}\nnats_signer = ""', "nats_signer", "not the public key of an account"),
    ("agent", PRODUCER, "[applications.agent]", "a user of the appliance itself"),
    ("sys", PRODUCER, "[applications.sys]", "a user of the appliance itself"),
    ("control", PRODUCER, "[applications.control]", "a user of the appliance itself"),
    ("Press_4", PRODUCER, "[applications.Press_4]", "[a-z0-9]+"),
    ('"press.4"', PRODUCER, "press.4", "[a-z0-9]+"),
    ('"*"', PRODUCER, "[applications", "[a-z0-9]+"),
    ('"$facts"', PRODUCER, "[applications", "[a-z0-9]+"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "table", "where", "says"), RULES, ids=range(len(RULES)))
def test_a_table_that_breaks_a_rule(name: str, table: str, where: str, says: str) -> None:
    """Refused with line and reason; the same document with a good table is read."""
    read_site(document(f"[applications.press-4]\n{PRODUCER}").encode(), "good")
    text = document(f"[applications.{name}]\n{table}")
    with pytest.raises(BadSiteError) as refused:
        read_site(text.encode(), "x")
    assert says in refused.value.problem
    assert where in text.split("\n")[refused.value.line - 1]


def test_no_two_share_a_key_and_there_are_not_too_many() -> None:
    """Whose fact it is must be plain; and all together must fit the broker."""
    press = made()
    same_token = replace(made(MES), token=press.token)
    same_signer = replace(made(MES), signer=press.signer)
    for other, field in ((same_token, "token_sha256"), (same_signer, "nats_signer")):
        with pytest.raises(BadSiteError, match=f"{field} is that of press-4 as well"):
            read_site(document(*_tables(press, other)).encode(), "x")
    many = [f'[applications.p{n}]\nrole = "producer"\ntoken_sha256 = "{n:064x}"' for n in range(MOST + 1)]
    assert len(read_site(document(*many[:-1]).encode(), "x").applications) == MOST
    with pytest.raises(BadSiteError, match=f"at most {MOST}"):
        read_site(document(*many).encode(), "x")


# -- the local keys ----------------------------------------------------------------------------------------------------


def names(keys: LocalKeys) -> dict[str, Origin]:
    """The local applications that have a credential."""
    return {entry.name: entry.origin for entry in keys.applications().local() if entry.issued}


def tokens(keys: LocalKeys) -> dict[str, str]:
    """Whose tokens are good."""
    table = json.loads((keys.folder / "tokens.json").read_text())
    return {digest: grant["producer"] for digest, grant in table.items()}


def accounts(keys: LocalKeys) -> set[str]:
    """The accounts of the broker."""
    return set(broker_trust(keys, LIMITS).accounts)


def test_they_come_stay_change_and_go(keys: LocalKeys) -> None:
    """As the document in force says, at each boot; those made on the box are untouched all the while."""
    own = keys.new(MES, Role.SERVICE)
    base, own_tokens = accounts(keys), tokens(keys)
    press, hmi = made(), made(HMI, Role.CONSUMER)
    assert keys.take_site([press, hmi]) == []
    assert names(keys) == {MES: Origin.BOX, PRESS: Origin.SITE, HMI: Origin.SITE}
    assert accounts(keys) == base | {site_account(PRESS, press.signer), site_account(HMI, hmi.signer)}
    assert tokens(keys) == own_tokens | {(press.token or b"").hex(): PRESS}

    before = (keys.folder / "applications.json").read_bytes()
    assert Applications.parse(before).render() == before
    later = LocalKeys.open(keys.folder, PLANT, now=lambda: NOW + 10**7)
    assert later.take_site([hmi, press]) == []
    assert (keys.folder / "applications.json").read_bytes() == before

    other = made()
    keys.take_site([other, hmi])
    assert accounts(keys) == base | {site_account(PRESS, other.signer), site_account(HMI, hmi.signer)}
    assert tokens(keys) == own_tokens | {(other.token or b"").hex(): PRESS}
    keys.take_site([replace(other, categories=None)])
    assert keys.applications().entries[PRESS].categories is None
    assert names(keys) == {MES: Origin.BOX, PRESS: Origin.SITE}
    keys.take_site([])
    assert (accounts(keys), tokens(keys)) == (base, own_tokens)
    assert keys.applications().entries[MES] == own.application


def test_what_was_made_on_the_box_has_its_name_and_its_token(keys: LocalKeys) -> None:
    """Who signs site configurations does not get another producer's name by it, nor another's token."""
    own = keys.new(PRESS, Role.PRODUCER)
    before = keys.applications()
    stolen = replace(made(MES), token=own.application.issued[-1].token)
    refused = keys.take_site([made(), stolen, replace(made(), name=ProducerId("agent"))])
    assert [text.partition(":")[0] for text in refused] == ["press-4", "mes", "agent"]
    assert keys.applications() == before
    keys.revoke(PRESS)
    assert keys.take_site([made()]) == []
    assert names(keys) == {PRESS: Origin.SITE}


def test_a_revocation_of_the_box_outlives_an_application_of_the_site(keys: LocalKeys) -> None:
    """The name's account is the same again when the site no longer names it; what was revoked stays so."""
    old = keys.new(PRESS, Role.PRODUCER).credentials
    keys.revoke(PRESS)
    keys.take_site([made()])
    keys.take_site([])
    keys.new(PRESS, Role.PRODUCER)
    account = broker_trust(keys, LIMITS).accounts[keys.account(PRESS).public]
    assert old.key.public in claims_of(account)["nats"]["revocations"]


def test_on_the_box_they_are_not_changed_by_hand(keys: LocalKeys) -> None:
    """A rotation would be undone by the next boot."""
    keys.take_site([made()])
    before = keys.applications()
    for attempt in (keys.rotate, keys.revoke, lambda name: keys.new(name, Role.PRODUCER)):
        with pytest.raises(RefusedError) as refused:
            attempt(PRESS)
        assert refused.value.reason in (Reason.BAD_INPUT, Reason.APPLICATION_EXISTS)
    assert keys.applications() == before


def test_nobody_holds_the_key_of_its_account(keys: LocalKeys) -> None:
    """It is neither the signer's nor one that follows from a root; another name or signer has another account."""
    press = made()
    signer = NatsKey.generate(KeyKind.ACCOUNT).public
    found = {site_account(name, key) for name in (PRESS, MES) for key in (press.signer, signer)}
    assert len(found) == 4
    assert not found & {press.signer, signer, *(keys.account(name).public for name in (PRESS, MES, "$facts"))}
    jwt = claims_of(new_site_application(PRESS, Role.PRODUCER, None, NOW)[1].credentials.jwt)
    assert jwt["nats"]["issuer_account"] == site_account(PRESS, jwt["iss"])
    assert "exp" not in jwt
    assert not {"pub", "sub"} & jwt["nats"].keys()


# -- the command -------------------------------------------------------------------------------------------------------


def run(*arguments: str, expect: int = 0) -> str:
    """The command line; its standard output."""
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == expect, done.output
    return done.stdout


def command(out: Path, *more: str) -> Sequence[str]:
    """``bsfg site application`` for the press."""
    return ("site", "application", "press-4", "--role", "producer", "--category", "telemetry", "--out", str(out), *more)


def test_the_command_makes_files_and_a_table(tmp_path: Path) -> None:
    """The table is for the document as it is printed; the files are for their owner alone, and never overwritten."""
    out = tmp_path / "press"
    table = run(*command(out))
    config = read_site(document(table).encode(), "x")
    assert [each.name for each in config.applications] == [PRESS]
    assert {path.name for path in out.iterdir()} == {"press-4.creds", "press-4.token"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o600}
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    token = (out / "press-4.token").read_text().strip()
    assert config.applications[0].token == hashlib.sha256(token.encode()).digest()
    assert claims_of(UserCredentials.load(out / "press-4.creds").jwt)["iss"] == config.applications[0].signer
    before = {path: path.read_bytes() for path in out.iterdir()}
    run(*command(out), expect=2)
    (out / "press-4.creds").unlink()
    run(*command(out), expect=2)
    assert {path: path.read_bytes() for path in out.iterdir()} == {
        path: data for path, data in before.items() if path.suffix == ".token"
    }
    document_of = json.loads(run(*command(tmp_path / "other", "--output", "json")))
    assert document_of.keys() == {"name", "role", "files", "table"}
    assert all(os.path.exists(path) for path in document_of["files"])


def test_the_command_refuses_what_a_box_would(tmp_path: Path) -> None:
    """And writes nothing."""
    for code, *arguments in (
        (2, "agent", "--role", "producer"),
        (1, "Press", "--role", "producer"),
        (2, "hmi", "--role", "consumer", "--category", "audit"),
        (1, "press-4", "--role", "producer", "--category", "A"),
    ):
        run("site", "application", *map(str, arguments), "--out", str(tmp_path / "none"), expect=int(code))
    assert not (tmp_path / "none").exists()


def test_check_says_that_nobody_reaches_the_box(tmp_path: Path) -> None:
    """Applications, and nowhere to come in."""
    path = tmp_path / "site.toml"
    path.write_text(sites.example("single-site") + table_of(made()))
    assert "without a table [plant]" in run("site", "check", str(path))
    path.write_text(document(table_of(made())))
    assert "without a table [plant]" not in run("site", "check", str(path))
