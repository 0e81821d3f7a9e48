# SPDX-License-Identifier: Apache-2.0
"""A box's own programs from a bare folder to facts that cross, at a hub alone: what a first boot does, without a VM."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client

from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.dev.hub_alone import HubAlone
from appliance.dev.layout import ENTERPRISE
from appliance.dev.processes import python_environment
from appliance.keys.keeper.client import ask_keeper
from appliance.keys.keeper.port import KeeperState
from appliance.keys.tpm.endorsement import fingerprint_of
from appliance.node.status import StatusDocument
from appliance.site.document import sign_site
from appliance.watchdog.probes.ledger import LedgerProbe
from appliance.watchdog.suspicions import Code
from tests import sites
from tests.alone import BoxAlone, box_alone, until
from tests.processes import run
from tests.produced import document as produced_document

PLANT, SECOND, STRANGER = map(ZoneId, ("plant-a", "plant-b", "plant-c"))
"""A zone for the box of each test."""
BSFG = [sys.executable, "-m", "appliance.cli"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubAlone]:
    """A hub that runs."""
    made = HubAlone.make(tmp_path_factory.mktemp("hub") / "hub", [PLANT, SECOND, STRANGER])
    made.start()
    try:
        yield made
    finally:
        made.stop(remove=True)


@contextmanager
def configured(folder: Path, hub: HubAlone, zone: ZoneId) -> Iterator[BoxAlone]:
    """A box whose image and TPM the hub knows the makers of; it has its site configuration on its ESP."""
    with box_alone(folder) as made:
        hub.trust_image_key(made.image_public, f"image-{zone}")
        hub.trust_vendor(made.vendor_cas, f"vendor-{zone}")
        made.at.candidate.write_bytes(hub.site(zone, "10.0.2.2"))
        yield made


@pytest.fixture
def box(tmp_path: Path, hub: HubAlone) -> Iterator[BoxAlone]:
    """The box of plant-a."""
    with configured(tmp_path, hub, PLANT) as made:
        yield made


def bsfg(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """The command line, which must succeed."""
    done = run([*BSFG, *map(str, arguments)], text_in=stdin, env=python_environment())
    assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
    return done


def test_a_first_boot_ends_with_facts_that_cross_both_ways(box: BoxAlone, hub: HubAlone) -> None:
    """In the order of the units; each part works before the next one is there."""
    box.site()
    accepted = box.document("site")
    assert (accepted["state"], accepted["zone"], accepted["version"]) == ("accepted", PLANT, 1)
    box.local()
    bsfg("credential", "new", "press-4", "--role", "service", "--local", box.at.local, "--zone", PLANT)
    box.local()  # on a box its path unit does it
    box.start_facts()
    agent = box.start_agent()

    # Local work goes on before there is a keeper, a hub, a time.
    until(lambda: box.document("agent").get("ready") is True, "local work")
    stored = asyncio.run(_produce(box, "before-keys"))
    assert stored == ("FACTS_OPERATIONAL", 1)
    assert box.document("agent")["mode"] == "autonomous"

    box.start_keeper()
    until(lambda: box.document("keeper").get("state") == KeeperState.NOT_ENROLLED, "a boundary key")
    enrol = box.start_enrol()
    until(lambda: box.document("enrol").get("state") == "waiting", "the hub to know the box")
    fingerprint = box.document("enrol")["fingerprint"]
    described = ask_keeper(box.at.keeper_socket, lambda keeper: keeper.describe())
    assert fingerprint == fingerprint_of(described.ek_public)
    assert hub.pending() == [(fingerprint, PLANT)]

    # The voucher arrives on the ESP; site takes it in, and enrolment reads it at its next attempt.
    box.at.brought_voucher.write_bytes(hub.voucher(PLANT, fingerprint))
    box.site()
    assert enrol.wait(timeout=60) == 0, box.log("bsfg-enrol")
    assert box.document("enrol")["state"] == "enrolled"

    until(lambda: box.document("agent").get("mode") == "normal", "the crossing")
    until(lambda: "before-keys" in _read_at_hub(hub), "the fact at the hub")
    bsfg(
        *("fact", "append", "--dir", hub.environment.layout.root, "--zone", ENTERPRISE, "--to", PLANT),
        *("--category", "operational", "--subject", "order:{row}", "--predicate", "placed"),
        stdin='{"item": "from-the-hub"}\n',
    )
    assert asyncio.run(_consume(box)) == {"item": "from-the-hub"}

    # The control plane's leaf: its session is there, so its path unit would start it.
    assert box.at.session("control").is_file()
    box.start_control()
    until(lambda: _leaf_is_up(hub), "the leaf connection")

    # Somebody stops the agent, changes what its ledger says of a fact that the hub has confirmed, and starts it again.
    probe = LedgerProbe(box.at.status_document("agent"))
    until(lambda: any(each["confirmed"] for each in box.document("agent")["crossings"]), "a receipt")
    assert probe.look().seen == ()
    agent.send_signal(signal.SIGTERM)
    agent.wait(timeout=20)
    with closing(sqlite3.connect(box.at.agent_state / "ledger.db")) as ledger, ledger:
        assert ledger.execute("UPDATE facts SET digest = zeroblob(32) WHERE producer = 'press-4'").rowcount == 1
    box.start_agent()
    until(lambda: [seen.code for seen in probe.look().seen] == [Code.LEDGER_FORGED], "the forgery is seen")


@pytest.fixture
def second(tmp_path: Path, hub: HubAlone) -> Iterator[BoxAlone]:
    """The box of plant-b."""
    with configured(tmp_path, hub, SECOND) as made:
        yield made


def test_a_second_boot_needs_neither_voucher_nor_operator(second: BoxAlone, hub: HubAlone) -> None:
    """Enrolment ends at once, and everything is where it was; what a boot makes anew is made anew."""
    box = second
    boot(box)
    until(lambda: box.document("enrol").get("state") == "waiting", "the hub to know the box")
    hub.approve(box.document("enrol")["fingerprint"], SECOND)
    until(lambda: box.document("agent").get("mode") == "normal", "the crossing")
    known = (box.at.local / "applications.json").read_bytes()

    box.stop()
    box.tpm.reset()
    for path in sorted(box.at.run.rglob("*"), reverse=True):  # a tmpfs
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    enrol = boot(box)
    assert enrol.wait(timeout=60) == 0, box.log("bsfg-enrol")
    assert box.document("enrol")["state"] == "enrolled"
    until(lambda: box.document("agent").get("mode") == "normal", "the crossing")
    assert (box.at.local / "applications.json").read_bytes() == known
    assert StatusDocument.read(box.at.status_document("agent")).keys == "swtpm"


@pytest.fixture
def stranger(tmp_path: Path, hub: HubAlone) -> Iterator[BoxAlone]:
    """The box of plant-c."""
    with configured(tmp_path, hub, STRANGER) as made:
        yield made


def test_a_box_that_the_hub_refuses_says_why_and_works_on(stranger: BoxAlone, hub: HubAlone) -> None:
    """Its TPM is by a vendor that nobody trusts here."""
    box = stranger
    (hub.office.vendors / f"vendor-{STRANGER}.pem").unlink()
    enrol = boot(box)
    until(lambda: box.document("enrol").get("state") == "refused", "the refusal")
    assert box.document("enrol")["problems"][0]["reason"] == Reason.EK_UNKNOWN_VENDOR
    assert enrol.poll() is None
    assert box.document("agent")["ready"] is True


def test_an_air_gapped_box_works_on_its_own(tmp_path: Path) -> None:
    """It has no uplink by design: facts are stored, nothing is dialled, and enrolment over the network ends at once."""
    with box_alone(tmp_path) as box:
        text = sites.example("air-gapped").replace('[plant]\naddress = "192.168.10.5"\n', "")
        box.at.candidate.write_bytes(sign_site(text.encode(), sites.key("signer"), "site.toml"))
        enrol = boot(box)
        assert enrol.wait(timeout=60) == 0, box.log("bsfg-enrol")
        bsfg("credential", "new", "press-4", "--role", "service", "--local", box.at.local, "--zone", PLANT)
        box.local()
        until(lambda: box.document("agent").get("ready") is True, "local work")
        _reload(box)
        assert asyncio.run(_produce(box, "on-its-own")) == ("FACTS_OPERATIONAL", 1)
        assert (box.document("agent")["mode"], box.document("agent")["crossings"]) == ("autonomous", [])
        _conflict(box)
        assert not box.at.control_config.exists()


def test_applications_of_the_site_configuration(tmp_path: Path) -> None:
    """Nobody logs in: what the signed document names may send, by HTTP and NATS; a newer document ends it."""
    table = bsfg("site", "application", "press-4", "--role", "service", "--out", tmp_path / "secrets").stdout
    token = (tmp_path / "secrets/press-4.token").read_text().strip()
    credentials = tmp_path / "secrets/press-4.creds"
    with box_alone(tmp_path / "box") as box:
        _bring(box, 1, table)
        boot(box)
        until(lambda: box.document("agent").get("ready") is True, "local work")
        assert box.document("local") | {"applications": 1, "problems": []} == box.document("local")
        assert _append(box, "by-http", token) == (200, "")
        assert asyncio.run(_produce(box, "by-nats", credentials)) == ("FACTS_OPERATIONAL", 2)
        for wrong in ("", "x", token[:-1], token.swapcase(), table.partition('token_sha256 = "')[2][:64]):
            assert _append(box, "by-a-stranger", wrong) == (401, Reason.BAD_CREDENTIAL)
        # one that was made on this box keeps its name, whatever a document says
        bsfg("credential", "new", "mes", "--role", "producer", "--local", box.at.local, "--zone", PLANT)
        by_hand = (box.at.local / "issued/mes.token").read_text().strip()

        renamed = bsfg("site", "application", "mes", "--role", "producer", "--out", tmp_path / "other").stdout
        _bring(box, 2, renamed)
        box.site()  # at the next boot
        box.local()
        _reload(box)
        until(lambda: _append(box, "after-its-end", token) == (401, Reason.BAD_CREDENTIAL), "the token's end")
        with pytest.raises(nats.errors.Error):
            asyncio.run(_produce(box, "after-its-end", credentials))
        assert _append(box, "made-here", by_hand) == (200, "")
        stolen = (tmp_path / "other/mes.token").read_text().strip()
        assert _append(box, "in-its-name", stolen) == (401, Reason.BAD_CREDENTIAL)
        problems = box.document("local")["problems"]
        assert [(each["reason"], each["detail"].partition(":")[0]) for each in problems] == [("bad_site", "mes")]


def _bring(box: BoxAlone, version: int, *tables: str) -> None:
    """A document for an air-gapped box, onto its ESP; a test's box has no plant interface, so all is on loopback."""
    text = sites.example("air-gapped").replace('[plant]\naddress = "192.168.10.5"\n', "")
    text = text.replace("version = 1 ", f"version = {version} ", 1) + "\n" + "\n".join(tables)
    box.at.candidate.write_bytes(sign_site(text.encode(), sites.key("signer"), "site.toml"))


def _append(box: BoxAlone, message_id: str, token: str) -> tuple[int, str]:
    """AppendFact over HTTP; status and reason."""
    fact = {"category": "operational", **produced_document(message_id)}
    request = urllib.request.Request(
        f"http://127.0.0.1:{box.intake_port}/bsfg.v1.BoundaryService/AppendFact",
        json.dumps({"facts": [fact]}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - loopback
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["details"][0]["debug"]["reason"]


def boot(box: BoxAlone) -> subprocess.Popen[bytes]:
    """Start everything in the order of the units; the process of enrolment."""
    box.site()
    box.local()
    box.start_facts()
    box.start_agent()
    box.start_keeper()
    return box.start_enrol()


def _reload(box: BoxAlone) -> None:
    """What nats-facts-reload.service does: trust.conf has a new application."""
    box.facts.send_signal(signal.SIGHUP)
    until(lambda: "Reloaded server configuration" in box.log("nats-facts"), "the reload")


async def _connected(box: BoxAlone, credentials: Path | None = None) -> Client:
    mine = str(credentials or box.at.local / "issued/press-4.creds")
    client = Client()
    try:
        await client.connect(f"nats://127.0.0.1:{box.facts_port}", user_credentials=mine, allow_reconnect=False)
    except nats.errors.Error:
        await client.close()
        raise
    return client


def _conflict(box: BoxAlone) -> None:
    """Two facts under one id: the producer is told, not served any more, and served again when somebody has looked."""
    probe = LedgerProbe(box.at.status_document("agent"))
    assert probe.look().seen == ()
    with pytest.raises(nats.js.errors.APIError, match="conflicting_duplicate: "):
        asyncio.run(_produce(box, "on-its-own", strokes=2))
    with pytest.raises(nats.js.errors.APIError, match="producer_suspended: ") as refused:
        asyncio.run(_produce(box, "another"))
    assert refused.value.code == 503  # it may be sent again later
    until(lambda: [seen.code for seen in probe.look().seen] == [Code.PRODUCER_CONFLICT], "that it is told")
    bsfg("producer", "lift", "press-4", "--state", box.at.agent_state)
    until(lambda: probe.look().seen == (), "that it is lifted")
    assert asyncio.run(_produce(box, "another")) == ("FACTS_OPERATIONAL", 2)


async def _produce(
    box: BoxAlone, message_id: str, credentials: Path | None = None, *, strokes: int = 1
) -> tuple[str, int]:
    """One fact for the hub, by a stock client; where it is stored."""
    client = await _connected(box, credentials)
    try:
        message = json.dumps(produced_document(message_id, to=ENTERPRISE, strokes=strokes)).encode()
        subject = f"facts.operational.{PLANT}.{ENTERPRISE}.press-4"
        acknowledged = await client.jetstream().publish(subject, message, timeout=20)
        return acknowledged.stream, acknowledged.seq
    finally:
        await client.close()


async def _consume(box: BoxAlone) -> dict[str, Any]:
    """The first order of the hub, as a local application reads it."""
    client = await _connected(box)
    try:
        js = client.jetstream()
        for _ in range(100):
            if streams := _forward_streams(box):
                consumer = await js.pull_subscribe("facts.operational.>", stream=streams[0])
                for message in await consumer.fetch(1, timeout=20):
                    found: dict[str, Any] = json.loads(message.data)["fact"]["object_json"]
                    return found
            await asyncio.sleep(0.2)
        raise AssertionError("no forward buffer of the hub's orders")
    finally:
        await client.close()


def _forward_streams(box: BoxAlone) -> list[str]:
    """The forward buffers with orders of the hub, by their folders on disk."""
    return sorted(path.name for path in box.at.facts_store.rglob("FACTS_OPERATIONAL_FROM_ENTERPRISE_*"))


def _read_at_hub(hub: HubAlone) -> str:
    folder = hub.environment.layout.root
    arguments = ("fact", "read", "--dir", folder, "--zone", ENTERPRISE, "--origin", PLANT, "--category", "operational")
    return run([*BSFG, *map(str, arguments)], env=python_environment()).stdout


def _leaf_is_up(hub: HubAlone) -> bool:
    document = StatusDocument.read(hub.environment.layout.zone(ENTERPRISE).status_document)
    return any(peer.leaf_age_s is not None for peer in document.peers)
