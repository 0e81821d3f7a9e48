# SPDX-License-Identifier: Apache-2.0
"""The folder of local keys: what follows from the root, what survives, what is refused; and the keys' own formats."""

from __future__ import annotations

import ipaddress
import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nkeys  # type: ignore[import-untyped]
import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.names import Category, ProducerId, ZoneId
from appliance.boundary.reasons import Reason
from appliance.factlog.natskeys import KeyKind, NatsKey, UserCredentials, public_bytes, verifies
from appliance.keys.files import write_atomically
from appliance.keys.local import root, store
from appliance.keys.local.applications import Applications, Role
from appliance.keys.local.authority import BEGINNING, names_of, parse_plant_name
from appliance.keys.local.root import LocalRoot
from appliance.keys.local.store import FACTS, SYSTEM, LocalKeys
from appliance.node.local import broker_trust
from tests.brokers import LIMITS
from tests.doors import claims_of

PLANT = ZoneId("plant-a")
PRESS = ProducerId("press-4")
NOW = datetime(2026, 12, 1, tzinfo=UTC)
HERE = [ipaddress.ip_address("192.0.2.5"), ipaddress.ip_address("2001:db8::5"), "box.plant.example"]


@pytest.fixture
def keys(tmp_path: Path) -> LocalKeys:
    """New ones."""
    return LocalKeys.open(tmp_path / "local", PLANT)


# -- formats -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KeyKind)
def test_keys_are_those_of_nats(kind: KeyKind) -> None:
    """The library of NATS's makers reads our seeds, and its signatures are good here."""
    ours = NatsKey.generate(kind)
    theirs = nkeys.from_seed(bytearray(ours.seed.encode()))
    assert theirs.public_key.decode() == ours.public
    assert ours.public[0] == {"OPERATOR": "O", "ACCOUNT": "A", "USER": "U"}[kind.name]
    assert verifies(ours.public, kind, b"x", theirs.sign(b"x"))
    assert theirs.verify(b"x", ours.sign(b"x"))
    assert not verifies(ours.public, kind, b"y", ours.sign(b"x"))
    assert not verifies(NatsKey.generate(kind).public, kind, b"x", ours.sign(b"x"))
    assert NatsKey.from_seed(ours.seed) == ours
    assert ours.seed not in repr(ours)


@given(st.data())
def test_a_seed_with_one_wrong_letter_is_refused(data: st.DataObject) -> None:
    """Its checksum says so; so does that of a public key."""
    key = NatsKey.from_bytes(KeyKind.USER, b"\5" * 32)
    for text, read in ((key.seed, NatsKey.from_seed), (key.public, lambda t: public_bytes(t, KeyKind.USER))):
        index = data.draw(st.integers(0, len(text) - 1))
        letter = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567abc10=. "))
        if letter != text[index]:
            with pytest.raises(RefusedError) as refused:
                read(text[:index] + letter + text[index + 1 :])
            assert text not in str(refused.value)


def test_a_credentials_file_has_one_user() -> None:
    """Other tools' files are read too; what has two keys, none, or an account's, is not one."""
    key = NatsKey.generate(KeyKind.USER)
    good = UserCredentials("a.b.c", key)
    assert UserCredentials.parse(good.text()) == good
    assert UserCredentials.parse(good.text().replace("\n", "\r\n")) == good
    other = good.text().replace("The seed below proves who its holder is.", "NKEYs are sensitive.")
    assert UserCredentials.parse(other) == good
    account = good.text().replace(key.seed, NatsKey.generate(KeyKind.ACCOUNT).seed)
    for text in ("", good.text() * 2, good.text().partition("***")[0], account, good.text().replace("a.b.c", "a b")):
        with pytest.raises(RefusedError):
            UserCredentials.parse(text)


# -- the folder --------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the lock."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_opening_again_changes_nothing(keys: LocalKeys) -> None:
    """Nor does it when the files that follow from the document were lost, but for the appliance's own users."""
    keys.new(PRESS, Role.PRODUCER)
    before = contents(keys.folder)
    again = LocalKeys.open(keys.folder, PLANT)
    assert contents(keys.folder) == before
    assert broker_trust(again, LIMITS) == broker_trust(keys, LIMITS)
    (keys.folder / "tokens.json").unlink()
    (keys.folder / "agent.creds").unlink()
    again = LocalKeys.open(keys.folder, PLANT)
    after = contents(keys.folder)
    assert after["tokens.json"] == before["tokens.json"]
    assert after["agent.creds"] != before["agent.creds"]
    agent = again.applications().entries[ProducerId("agent")]
    assert UserCredentials.load(keys.folder / "agent.creds").key.public == agent.issued[-1].public
    assert len(agent.revoked) == 1  # whoever has the lost one cannot use it


def test_the_root_says_everything(keys: LocalKeys, tmp_path: Path) -> None:
    """With it alone, elsewhere, the same operator and accounts come out; with another one, others."""
    sealed = tmp_path / "sealed"
    (keys.folder / "root.key").rename(sealed)
    again = LocalKeys.open(keys.folder, PLANT, root_file=sealed)
    assert not (keys.folder / "root.key").exists()
    for name in (FACTS, SYSTEM, "press-4", "facts"):
        assert again.account(name) == keys.account(name)
    assert again.operator == keys.operator
    assert again.account("facts") != again.account(FACTS)
    other = LocalKeys.open(tmp_path / "other", PLANT)
    assert other.operator != keys.operator
    names = (FACTS, SYSTEM, "press-4", "mes", "system", "signer", "application")
    publics = [public for name in names for public in (keys.account(name).public, keys.account(name).signer.public)]
    assert len(set(publics)) == 2 * len(names)


def test_no_file_shows_a_secret(keys: LocalKeys) -> None:
    """What is not secret holds none, and what is can be read by its owner alone; nothing is shown."""
    handed = keys.new(PRESS, Role.SERVICE, frozenset({Category("audit")}), life_s=60)
    handed.write(keys.folder)
    keys.authority().ensure_server(HERE, NOW)
    secret = (keys.folder / "root.key").read_text().strip()
    assert handed.token is not None
    private = {secret, handed.token, handed.credentials.key.seed}
    for path in keys.folder.iterdir():
        text = path.read_text()
        if path.name in ("root.key", "server.pem") or path.suffix in (".creds", ".token"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        else:
            assert not any(word in text for word in (*private, "PRIVATE", "SEED")), path
    shown = f"{handed!r} {LocalRoot.load(keys.folder / 'root.key')!r} {broker_trust(keys, LIMITS)!r}"
    assert not any(word in shown for word in (*private, handed.credentials.jwt))
    assert stat.S_IMODE(keys.folder.stat().st_mode) == 0o700


def test_a_lost_or_damaged_folder_is_named(keys: LocalKeys, tmp_path: Path) -> None:
    """A new root is never made where credentials were handed out: that would silently shut everybody out."""
    cases: list[Callable[[], object]] = [
        (keys.folder / "root.key").unlink,
        lambda: (keys.folder / "root.key").write_text("00" * 31),
        lambda: (keys.folder / "root.key").write_text("x"),
        lambda: (keys.folder / "applications.json").write_text("{}"),
        lambda: (keys.folder / "applications.json").write_text(
            (keys.folder / "applications.json").read_text().replace('"plant-a"', '"plant-b"')
        ),
    ]
    good = contents(keys.folder)
    for damage in cases:
        damage()
        with pytest.raises(UnavailableError) as refused:
            LocalKeys.open(keys.folder, PLANT)
        assert refused.value.reason is Reason.BAD_LOCAL_KEYS
        assert str(keys.folder) in refused.value.detail
        for name, data in good.items():
            (keys.folder / name).write_bytes(data)
    with pytest.raises(UnavailableError):
        LocalKeys.open(tmp_path / "new", PLANT, root_file=tmp_path / "nowhere")
    LocalKeys.open(keys.folder, PLANT)


def test_the_document_has_one_form(keys: LocalKeys) -> None:
    """What is unknown, missing or of another kind is refused."""
    keys.new(PRESS, Role.PRODUCER, frozenset({Category("audit")}), life_s=60)
    data = keys.applications().render()
    assert Applications.parse(data) == keys.applications()
    values = json.loads(data)
    press = values["applications"]["press-4"]
    for change in (
        {"role": "appliance"}, {"role": "king"}, {"categories": "audit"}, {"categories": ["A B"]}, {"x": 1},
        {"issued": [{**press["issued"][0], "public": "U"}]}, {"issued": [{**press["issued"][0], "expires": -1}]},
        {"issued": [{**press["issued"][0], "token_sha256": "ab"}]}, {"revoked": {"U": 1}}, {"issued": 5},
    ):  # fmt: skip
        text = json.dumps({**values, "applications": {"press-4": {**press, **change}}}, separators=(",", ":"))
        with pytest.raises(RefusedError) as refused:
            Applications.parse(text.encode() + b"\n")
        assert refused.value.reason is Reason.BAD_LOCAL_KEYS
    for name in ("agent", "Press 4"):
        text = json.dumps({**values, "applications": {name: press}}, separators=(",", ":"))
        with pytest.raises(BsfgError):
            Applications.parse(text.encode() + b"\n")


@pytest.mark.parametrize(
    ("attempt", "reason"),
    [
        (lambda keys: keys.new(ProducerId("agent"), Role.PRODUCER), Reason.BAD_INPUT),
        (lambda keys: keys.new(ProducerId("control"), Role.PRODUCER), Reason.BAD_INPUT),
        (lambda keys: keys.new(ProducerId("mes"), Role.APPLIANCE), Reason.BAD_INPUT),
        (lambda keys: keys.new(ProducerId("mes"), Role.CONSUMER, frozenset({Category("audit")})), Reason.BAD_INPUT),
        (lambda keys: keys.new(ProducerId("mes"), Role.PRODUCER, frozenset()), Reason.BAD_INPUT),
        (lambda keys: keys.new(ProducerId("mes"), Role.PRODUCER, life_s=0), Reason.BAD_INPUT),
        (lambda keys: keys.new(ProducerId("mes"), Role.PRODUCER, life_s=10**10), Reason.BAD_INPUT),
        (lambda keys: keys.new(PRESS, Role.PRODUCER), Reason.APPLICATION_EXISTS),
        (lambda keys: keys.rotate(ProducerId("nobody")), Reason.UNKNOWN_APPLICATION),
        (lambda keys: keys.rotate(ProducerId("agent")), Reason.BAD_INPUT),
        (lambda keys: keys.revoke(ProducerId("nobody")), Reason.UNKNOWN_APPLICATION),
        (lambda keys: keys.ensure(PRESS, Role.CONSUMER, keys.folder), Reason.APPLICATION_EXISTS),
    ],
)
def test_what_is_wrong_changes_nothing(keys: LocalKeys, attempt: Callable[[LocalKeys], object], reason: Reason) -> None:
    """And says why."""
    keys.new(PRESS, Role.PRODUCER)
    before = contents(keys.folder)
    with pytest.raises(RefusedError) as refused:
        attempt(keys)
    assert refused.value.reason is reason
    assert contents(keys.folder) == before


def test_ensure_issues_once_and_respects_a_revocation(keys: LocalKeys) -> None:
    """Lost or foreign files are replaced; the credentials in them end."""
    folder = keys.folder / "issued"
    keys.ensure(PRESS, Role.PRODUCER, folder)
    before = contents(folder)
    keys.ensure(PRESS, Role.PRODUCER, folder)
    assert contents(folder) == before
    (folder / "press-4.token").write_text("another")
    keys.ensure(PRESS, Role.PRODUCER, folder)
    assert contents(folder).keys() == before.keys()
    assert contents(folder)["press-4.creds"] != before["press-4.creds"]
    assert len(keys.applications().entries[PRESS].revoked) == 1
    keys.revoke(PRESS)
    before = contents(folder)
    keys.ensure(PRESS, Role.PRODUCER, folder)
    assert contents(folder) == before
    assert keys.account("press-4").public not in broker_trust(keys, LIMITS).accounts


def test_a_revocation_covers_what_was_issued_whatever_the_clock_says(tmp_path: Path) -> None:
    """A clock that went back does not leave a revoked credential good."""
    now = 2_000_000_000.0
    keys = LocalKeys.open(tmp_path / "local", PLANT, now=lambda: now)
    public = keys.new(PRESS, Role.PRODUCER).credentials.key.public
    now = 1_000_000_000.0
    handed = keys.rotate(PRESS)
    (jwt,) = [
        jwt for account, jwt in broker_trust(keys, LIMITS).accounts.items() if account == keys.account("press-4").public
    ]
    assert claims_of(jwt)["nats"]["revocations"] == {public: 2_000_000_000}
    assert handed.credentials.key.public not in claims_of(jwt)["nats"]["revocations"]


class Killed(BaseException):
    """Nothing after this was done."""


def test_it_may_be_killed_between_any_two_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Called again, it ends where it would have ended; what lies there is good, and known to the document."""
    real = write_atomically
    for left in range(20):
        folder = tmp_path / str(left)
        written = 0

        def write(path: Path, data: bytes, mode: int, last: int = left) -> None:
            nonlocal written
            if written == last:
                raise Killed
            written += 1
            real(path, data, mode)

        with monkeypatch.context() as patched:
            for module in (store, root):
                patched.setattr(module, "write_atomically", write)
            done = work_through(folder)
        keys = LocalKeys.open(folder, PLANT)
        keys.ensure(PRESS, Role.SERVICE, folder / "issued")
        entries = keys.applications().entries
        for name, path in (("agent", folder / "agent.creds"), ("press-4", folder / "issued" / "press-4.creds")):
            (issued,) = entries[ProducerId(name)].issued
            assert UserCredentials.load(path).key.public == issued.public
        assert len(json.loads((folder / "tokens.json").read_text())) == 1
        if done:
            break
    assert left >= 5


def work_through(folder: Path) -> bool:
    """Some changes; whether they came to their end."""
    try:
        keys = LocalKeys.open(folder, PLANT)
        keys.ensure(PRESS, Role.SERVICE, folder / "issued")
        keys.revoke(ProducerId("agent"))
    except Killed:
        return False
    return True


# -- the local CA ------------------------------------------------------------------------------------------------------


def test_the_authority_outlives_its_certificate(keys: LocalKeys) -> None:
    """Whoever trusts the old one trusts what is issued under the new one: the key is the same."""
    authority = keys.authority()
    trusted = authority.certificate
    (keys.folder / "ca.pem").unlink()
    again = keys.authority()
    assert again.certificate != trusted
    assert again.certificate.public_key() == trusted.public_key()
    server = again.rotate_server(HERE, NOW)
    server.verify_directly_issued_by(trusted)
    verify(trusted, server)


def verify(authority: x509.Certificate, server: x509.Certificate) -> None:
    """As a client of the plant would: the name is right, the chain good."""
    trusted = x509.verification.Store([authority])
    for name in (x509.IPAddress(ipaddress.ip_address("192.0.2.5")), x509.DNSName("box.plant.example")):
        x509.verification.PolicyBuilder().store(trusted).time(NOW).build_server_verifier(name).verify(server, [])


def test_a_server_certificate_is_renewed_in_time(keys: LocalKeys) -> None:
    """Not before; and at once when the names change, or its file is damaged or another CA's."""
    authority = keys.authority()
    assert authority.ensure_server(HERE, NOW)
    first = authority.server_certificate()
    assert first is not None
    assert names_of(first) == set(HERE)
    assert not authority.ensure_server(HERE, NOW)
    assert authority.server_certificate() == first
    assert not authority.ensure_server(HERE, first.not_valid_after_utc - timedelta(days=367))
    assert authority.ensure_server(HERE, first.not_valid_after_utc - timedelta(days=300))
    assert authority.ensure_server(HERE[:1], NOW)
    for damaged in (b"", authority.server_file.read_bytes()[:500], b"x"):
        authority.server_file.write_bytes(damaged)
        assert authority.server_certificate() is None
        assert authority.ensure_server(HERE, NOW)
    other = LocalKeys.open(keys.folder.parent / "other", PLANT).authority()
    other.rotate_server(HERE, NOW)
    authority.server_file.write_bytes(other.server_file.read_bytes())
    assert authority.ensure_server(HERE, NOW)
    (keys.folder / "ca.pem").write_bytes((other.folder / "ca.pem").read_bytes())
    with pytest.raises(UnavailableError):
        keys.authority()
    with pytest.raises(RefusedError):
        authority.rotate_server([], NOW)


def test_a_dead_clock_battery_makes_a_good_certificate(keys: LocalKeys) -> None:
    """The year may be 1970 or 2036 for the box; for the plant it is now."""
    authority = keys.authority()
    for year in (1970, 2016, 2036):
        found = authority.rotate_server(HERE, datetime(year, 1, 1, tzinfo=UTC))
        assert found.not_valid_before_utc == BEGINNING < NOW < found.not_valid_after_utc
        verify(authority.certificate, found)


@pytest.mark.parametrize(
    "text", ["", "-a.example", "a-.example", "a..example", "A.example", "a b", "ä.example", "a" * 64]
)
def test_what_is_no_name_is_refused(text: str) -> None:
    """Neither an address nor a DNS name."""
    with pytest.raises(RefusedError):
        parse_plant_name(text)
