# SPDX-License-Identifier: Apache-2.0
"""The pages say what is so: links lead somewhere, names exist, examples are right, generated pages are current."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest

from appliance.boundary import pages, records, sink
from appliance.boundary.messages import Message, parse_produced
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.producing import ProducedFact
from appliance.boundary.proto.bsfg.v1 import bsfg_pb2 as pb
from appliance.boundary.reasons import ExitCode, Reason
from appliance.cli.main import cli
from appliance.dev.document import environment_document
from appliance.dev.environment import Environment
from appliance.dev.layout import KeysChoice, Layout
from appliance.hub.hub import SILENT_AFTER_S
from appliance.node import status
from appliance.node.config import NodeConfig
from tests.unit.test_repository import LAYERS
from tools import generate_docs

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def all_pages(root: Path) -> list[Path]:
    """README and everything under docs."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in plain}


def dead_links(page: Path) -> list[str]:
    """Links of a page to files or headings that are not there."""
    found = []
    for target in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text("utf-8"))):
            found.append(target)
    return found


def section(text: str, title: str) -> str:
    """A page's text from one heading to the next of its level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}$(.*?)(?=^#{{1,3}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no heading {title!r}"
    return found[2]


def code_block(text: str, language: str, holding: str) -> str:
    """The block of a language that holds a text."""
    blocks: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return next(block for marked, block in blocks if marked == language and holding in block)


@pytest.fixture(scope="module")
def docs(root: Path) -> dict[str, str]:
    """The hand-written pages by name, without ending."""
    return {page.stem: page.read_text("utf-8") for page in (root / "docs").glob("*.md")}


# -- pages -------------------------------------------------------------------------------------------------------------


def test_dead_links_are_found(tmp_path: Path) -> None:
    """Missing files and missing headings; links in examples are none."""
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# What `it` is: a test\n", "utf-8")
    page.write_text("[a](other.md#what-it-is-a-test) [b](no.md) [c](other.md#no)\n```\n[d](no.md)\n```\n", "utf-8")
    assert dead_links(page) == ["no.md", "other.md#no"]


def test_links_lead_somewhere(root: Path) -> None:
    """Between pages, to headings, and to files of the repository."""
    assert {str(page): found for page in all_pages(root) if (found := dead_links(page))} == {}


def test_every_page_is_in_the_index(root: Path, docs: dict[str, str]) -> None:
    """Nobody finds a page that nothing leads to."""
    linked = {(root / "docs" / target).resolve() for target in LINK.findall(docs["index"])}
    missing = {page for page in (root / "docs").rglob("*.md") if page.resolve() not in linked}
    assert missing - {root / "docs/index.md", *(root / "docs/adr").glob("0*.md")} == set()


@pytest.mark.parametrize("name", sorted(generate_docs.PAGES))
def test_generated_pages_are_current(root: Path, name: str) -> None:
    """``.venv/bin/python tools/generate_docs.py`` mends it."""
    committed = root / "docs/reference" / name
    assert committed.read_text("utf-8") == generate_docs.render(name)


def test_generated_pages_are_whole(root: Path) -> None:
    """Every reason stands in its page; nothing else stands in the folder."""
    text = (root / "docs/reference/reasons.md").read_text("utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(Reason)
    assert {page.name for page in (root / "docs/reference").iterdir()} == set(generate_docs.PAGES)


def test_paths_on_pages_exist(root: Path) -> None:
    """What stands in code marks and looks like a path of the repository."""
    path = re.compile(r"`((?:appliance|docs|requirements|tests|tools|\.ci)/[\w./-]*)`")
    named = {name for page in all_pages(root) for name in path.findall(page.read_text("utf-8"))}
    assert named
    assert {name for name in named if not (root / name).exists()} == set()


# -- names -------------------------------------------------------------------------------------------------------------


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its full name."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            found = command.get_command(context, word)
            assert found is not None
            yield from commands(found, f"{name} {word}")
    else:
        yield name, command


def test_every_command_and_option_is_on_the_page(docs: dict[str, str]) -> None:
    """A heading for each command, and in its section each of its options, and no other."""
    found = dict(commands(cli, "bsfg"))
    assert set(re.findall(r"^### (bsfg .+)$", docs["cli"], re.MULTILINE)) == set(found)
    for name, command in found.items():
        options = {long for p in command.params if isinstance(p, click.Option) for long in p.opts if len(long) > 2}
        rows = re.findall(r"^\| (`--.*?) \|", section(docs["cli"], name), re.MULTILINE)
        assert {option for row in rows for option in re.findall(r"`(--[\w-]+)`", row)} == options, name


def test_exit_codes_are_on_the_page(docs: dict[str, str]) -> None:
    """All of them, in order."""
    assert re.findall(r"^\| (\d) \|", docs["cli"], re.MULTILINE) == [str(int(code)) for code in ExitCode]


def _keys(document: dict[str, Any], skip: frozenset[str]) -> Iterator[str]:
    """The names of all fields, at every depth; below ``skip`` the names are the environment's own."""
    for key, value in document.items():
        yield key
        if isinstance(value, dict):
            inner = list(value.values()) if key in skip else [value]
            for part in inner:
                if isinstance(part, dict):
                    yield from _keys(part, skip)


def test_fields_of_the_environment_are_on_the_page(tmp_path: Path, docs: dict[str, str]) -> None:
    """Every field of ``env.json``."""
    document = environment_document(Environment.generate(Layout.at(tmp_path), KeysChoice.SWTPM))
    names = set(_keys(document, frozenset(("zones", "categories", "users", "tokens", "processes"))))
    page = section(docs["cli"], "bsfg dev up")
    named = {part for text in re.findall(r"`([\w.<>]+)`", page) for part in text.split(".")}
    assert names - named == set()


def test_fields_of_status_are_on_the_page(docs: dict[str, str]) -> None:
    """Every field of a status document."""
    page = section(docs["operations"], "Status documents")
    parts = (
        status.StatusDocument,
        status.BrokerStatus,
        status.StoreStatus,
        status.CrossingReport,
        status.PeerStatus,
        status.Problem,
    )
    names = {field.name for part in parts for field in fields(part)}
    assert names - set(re.findall(r"`(\w+)`", page)) == set()


def test_reasons_on_pages_exist(docs: dict[str, str]) -> None:
    """Those that operators are told what to do about."""
    rows = re.findall(r"^\| (`.*?) \|", section(docs["operations"], "What a reason asks of you"), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named
    assert named - set(Reason) == set()


def test_headers_are_on_the_page(docs: dict[str, str]) -> None:
    """Every header that a stored message may carry, and no other."""
    headers = {value for name, value in vars(records).items() if name.startswith("HEADER_")}
    table = section(docs["protocol"], "What stands in the streams").partition("\nA dead letter")[0]
    assert set(re.findall(r"^\| `(Bsfg-\w+)` \|", table, re.MULTILINE)) == headers


def test_layers_are_on_the_page(docs: dict[str, str]) -> None:
    """In the order of the rule that another test enforces."""
    rooms = re.findall(r"\[`(\w+)`\]\(\.\./appliance/\1/\)", section(docs["architecture"], "The package"))
    rank = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}
    assert set(rooms) == set(rank)
    assert [rank[room] for room in rooms] == sorted(rank.values())


def test_numbers_in_prose_are_those_of_the_code(docs: dict[str, str]) -> None:
    """Where a sentence needs the number itself."""
    text = " ".join(" ".join(docs.values()).split())
    for sentence in (
        f"has not called for {SILENT_AFTER_S:g} s",
        f"older than {status.STALE_AFTER_S:g} s",
        f"every {sink.RECEIPT_EVERY_FACTS:,} facts, or every {sink.RECEIPT_EVERY_S:g} s".replace(",", " ", 1),
        f"More than {sink.MAX_EPOCHS} epochs",
        f"was replaced {sink.MAX_EPOCHS} times",
        f"at most {pages.MAX_PAGE_FACTS - 1} facts when our own source makes it",
        f"random number of {pages.EPOCH_BYTES} bytes",
    ):
        assert sentence in text


def test_readme_names_what_is_installed(root: Path) -> None:
    """The Debian packages of the setup, and no other."""
    needs = re.findall(r'^  "([\w-]+)\|', (root / "tools/setup.sh").read_text("utf-8"), re.MULTILINE)
    readme = (root / "README.md").read_text("utf-8")
    sentence = re.search(r"what is missing of (.*?)\(", readme, re.DOTALL)
    assert sentence
    assert re.findall(r"`([\w-]+)`", sentence[1]) == needs


# -- examples ----------------------------------------------------------------------------------------------------------


def test_example_message_is_a_fact(docs: dict[str, str]) -> None:
    """The intake would take it."""
    payload = code_block(docs["protocol"], "json", "message_id").encode()
    subject = "facts.operational.enterprise.plant-a.orders"
    assert isinstance(parse_produced(ProducedFact(subject, payload)), Message)


def test_example_of_the_chain(docs: dict[str, str]) -> None:
    """It computes what the boundary computes."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code_block(docs["protocol"], "python", "head ="), {})  # noqa: S102 - the page's own example
    head = pages.GENESIS
    for offset, message in ((1, b'{"a":1}'), (4, b'{"a":2}')):
        head = pages.link_fact(head, offset, hashlib.sha256(message).digest())
    head = pages.link_gap(head, pages.Gap(5, 9, pages.GapReason.RETENTION))
    assert printed.getvalue().strip() == head.hex()


def test_example_of_a_receipt(docs: dict[str, str]) -> None:
    """Its statement is written as the boundary writes it."""
    text = code_block(docs["protocol"], "", "bsfg.v1 receipt")
    lines = dict(line.split(" ", 1) for line in text.splitlines())
    receipt = pages.Receipt(
        ZoneId(lines["origin"]),
        ZoneId(lines["receiver"]),
        Category(lines["category"]),
        bytes.fromhex(lines["epoch"]),
        pages.Position(int(lines["offset"]), bytes.fromhex(lines["head"])),
        int(lines["committed_at_unix_ms"]),
    )
    assert receipt.statement().decode() == text


def test_example_of_an_error(docs: dict[str, str]) -> None:
    """Its packed and its readable form say the same."""
    detail = json.loads(code_block(docs["protocol"], "json", "unauthenticated"))["details"][0]
    value = detail["value"]
    info = pb.ErrorInfo.FromString(base64.b64decode(value + "=" * (-len(value) % 4)))
    assert {"reason": info.reason, "detail": info.detail, "hint": info.hint} == detail["debug"]
    assert Reason(info.reason).value == info.reason


@pytest.mark.parametrize(("role", "other"), [("uplink", "listen"), ("listen", "uplink")])
def test_example_configuration(root: Path, tmp_path: Path, role: str, other: str) -> None:
    """It is read as it stands, for an agent and for a hub."""
    text = code_block((root / "docs/reference/config.md").read_text("utf-8"), "toml", "[node]")
    path = tmp_path / "node.toml"
    if role == "uplink":  # what the example says is for hubs only
        text = re.sub(r"^(enrolment|attestation) = .*$", "", text.partition("[control]")[0], flags=re.MULTILINE)
    path.write_text(re.sub(rf"^\[{other}\].*?(?=^\[|\Z)", "", text, flags=re.MULTILINE | re.DOTALL), "utf-8")
    assert getattr(NodeConfig.load(path), role) is not None
