# SPDX-License-Identifier: Apache-2.0
"""What the pages tell a newcomer to type works as it stands there, and prints what stands there.

A page is run as one shell session in a folder of its own: its ``sh`` blocks in order, with its ``python`` blocks as the
files their first lines name. A ``text`` or ``json`` block right behind a ``sh`` block is what that must print.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import nats
import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client

from appliance.dev.environment import INTAKE_PORT, Environment
from appliance.dev.layout import HOST, PLANT, Layout
from appliance.dev.lifecycle import bring_down, start_detached
from tests.processes import run

PAGE_TIMEOUT_S = 220
CALL_TIMEOUT_S = 1.0


class Block(NamedTuple):
    """A fenced block of a page, the line it begins at, and whether it stands right behind the block before it."""

    language: str
    text: str
    line: int
    follows: bool = False


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    end = 0
    for fence in re.finditer(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        follows = bool(found) and not page[end : fence.start()].strip()
        found.append(Block(fence[1], fence[2], page.count("\n", 0, fence.start()) + 1, follows))
        end = fence.end()
    return found


def shape(text: str) -> list[str]:
    """The lines of a table without what changes from run to run: numbers, epochs, widths of columns."""
    text = re.sub(r"\b[0-9a-f]{8,}\b", "H", text)
    lines = re.sub(r"(?<![\w-])\d[\d.]*(?![\w-])", "N", text).splitlines()
    return [" ".join(line.split()) for line in lines]


def answers(printed: str, expected: Block, *, exact: bool = True) -> bool:
    """Whether a command printed what its page says; if not ``exact``, its shape, in which ``…`` stands for anything."""
    if expected.language == "json":
        return bool(json.loads(printed) == json.loads(expected.text))
    if exact:
        return printed.strip() == expected.text.strip()
    pattern = "".join(_line_pattern(line) for line in shape(expected.text.strip()))
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in shape(printed.strip()))) is not None


def _line_pattern(line: str) -> str:
    """What a line of a page stands for; one that is ``…`` alone stands for any number of lines."""
    return "(?:.*\n)*" if line == "…" else ".*".join(re.escape(part) for part in line.split("…")) + "\n"


def run_page(page: Path, folder: Path, *, exact: bool = True) -> None:
    """Run a page; fails with the first block that does not do what it says."""
    found = blocks(page.read_text("utf-8"))
    for block in found:
        if block.language == "python" and (name := re.match(r"# (\w+\.py)\n", block.text)):
            (folder / name[1]).write_text(block.text, encoding="utf-8")
    commands = [(block, after) for block, after in zip_longest(found, found[1:]) if block.language == "sh"]
    assert commands, f"{page.name} has nothing to run"
    printed = _session([block for block, _ in commands], folder)
    for (block, after), output in zip(commands, printed, strict=True):
        if after is not None and after.follows and after.language in ("text", "json"):
            told = f"{page.name}:{block.line} printed:\n{output}\nand not:\n{after.text}"
            assert answers(output, after, exact=exact), told


def _session(commands: list[Block], folder: Path) -> list[str]:
    """Run the blocks in one shell that stops at the first failure; what each printed on standard output."""
    marks = [f"::: line {block.line}" for block in commands]
    script = "".join(f"{block.text}echo '{mark}'\n" for block, mark in zip(commands, marks, strict=True))
    outcome = run(
        ["bash", "-euo", "pipefail", "-c", script],
        limit_s=PAGE_TIMEOUT_S,
        cwd=folder,
        env={**os.environ, "PATH": f"{_shims(folder)}{os.pathsep}{os.environ['PATH']}"},
    )
    assert outcome.returncode == 0, f"exit code {outcome.returncode}:\n{outcome.stdout}{outcome.stderr}"
    outputs, rest = [], outcome.stdout
    for mark in marks:
        output, _, rest = rest.partition(f"{mark}\n")
        outputs.append(output)
    return outputs


def _shims(folder: Path) -> Path:
    """``bsfg`` and ``python3`` as an activated ``.venv`` has them, whether or not this Python is in one."""
    shims = folder / ".shims"
    shims.mkdir()
    package = Path(__file__).resolve().parents[2]
    commands = {
        "bsfg": "-P -c 'from appliance.cli.main import main; main()' \"$@\"",
        "python3": '"$@"',
    }
    for name, arguments in commands.items():
        shim = shims / name
        shim.write_text(f"#!/bin/sh\nexport PYTHONPATH='{package}'\nexec '{sys.executable}' {arguments}\n", "utf-8")
        shim.chmod(0o755)
    return shims


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder; an environment left in it is ended."""
    yield tmp_path
    if (tmp_path / "D/env.json").exists():
        bring_down(Layout.at(tmp_path / "D"), remove=True)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """Two zones, in a folder named ``D`` as on the pages."""
    layout = Layout.at(tmp_path_factory.mktemp("zones") / "D")
    yield start_detached(layout, lambda _: None)
    bring_down(layout, remove=True)


def test_blocks_and_answers_are_told_apart() -> None:
    """A wrong answer, a missing one and a failing command are seen."""
    page = "text\n\n```sh\necho 1\n```\n\n```text\n2\n```\n"
    command, answer = blocks(page)
    assert (command, answer) == (Block("sh", "echo 1\n", 3), Block("text", "2\n", 7, follows=True))
    assert not blocks(page.replace("```\n\n", "```\n\nLater:\n\n"))[1].follows
    assert answers("2\n", answer)
    assert not answers("1\n", answer)
    assert not answers("", answer)
    table = Block("text", "zone    pid\nplant   28755\n…\nno problems\n", 1)
    assert answers("zone   pid\nplant   1\nmore\nno problems\n", table, exact=False)
    assert answers("zone   pid\nplant   1\nno problems\n", table, exact=False)
    assert not answers("zone   pid\nplant   -\nno problems\n", table, exact=False)
    assert not answers("zone   pid\nplant   1\nproblems\n", table, exact=False)


def test_a_page_that_does_not_work_fails(tmp_path: Path) -> None:
    """So does one that prints something else, and one with nothing to run."""
    page = tmp_path / "page.md"
    for number, text in enumerate(("```sh\nfalse\n```\n", "```sh\necho 1\n```\n\n```text\n2\n```\n", "nothing\n")):
        page.write_text(text, "utf-8")
        (folder := tmp_path / str(number)).mkdir()
        with pytest.raises(AssertionError):
            run_page(page, folder)


def test_clients_page(root: Path, folder: Path) -> None:
    """A stock producer and stock consumers, from start to end of an environment."""
    run_page(root / "docs/clients.md", folder)
    assert not (folder / "D").exists()


def test_credentials_page(root: Path, folder: Path) -> None:
    """A credential from its first day to its last."""
    run_page(root / "docs/credentials.md", folder)
    assert not (folder / "D").exists()


def test_cli_page(root: Path, folder: Path) -> None:
    """Every command, in one session."""
    run_page(root / "docs/cli.md", folder, exact=False)
    assert not (folder / "D").exists()


def test_operations_page(root: Path, folder: Path) -> None:
    """Recovery: a ledger deleted, a log wiped, a zone restored from an older copy."""
    run_page(root / "docs/operations.md", folder)
    assert not (folder / "D").exists()


def test_examples_are_ten_lines(root: Path) -> None:
    """The programs of the clients page do their work in ten lines each."""
    programs = [b.text for b in blocks((root / "docs/clients.md").read_text("utf-8")) if b.language == "python"]
    assert len(programs) == 3
    for program in programs:
        assert sum(line.startswith("    ") for line in program.splitlines()) <= 10


def test_protocol_page(root: Path, environment: Environment) -> None:
    """Curl as a producer and as a peer, and a receipt checked with openssl."""
    run_page(root / "docs/protocol.md", environment.layout.root.parent)


# -- what the table of the clients page says a local user may do -------------------------------------------------------

Call = Callable[[Client], Awaitable[Any]]

STREAM = "FACTS_OPERATIONAL"
FILTER = "facts.operational.>"


def _js(call: Callable[[Any], Awaitable[Any]]) -> Call:
    return lambda client: call(client.jetstream(timeout=CALL_TIMEOUT_S))


CALLS: dict[str, Call] = {
    "js.pull_subscribe(…)": _js(lambda js: js.pull_subscribe(FILTER)),
    "js.pull_subscribe(…, stream=…)": _js(lambda js: js.pull_subscribe(FILTER, stream=STREAM)),
    "js.subscribe(…, stream=…)": _js(lambda js: js.subscribe(FILTER, stream=STREAM)),
    "js.subscribe(…, stream=…, ordered_consumer=True)": _js(
        lambda js: js.subscribe(FILTER, stream=STREAM, ordered_consumer=True)
    ),
    "js.stream_info(…)": _js(lambda js: js.stream_info(STREAM)),
    "js.get_msg(…)": _js(lambda js: js.get_msg(STREAM, 1)),
    "js.get_last_msg(…)": _js(lambda js: js.get_last_msg(STREAM, FILTER)),
    "js.account_info()": _js(lambda js: js.account_info()),
    'nc.request("$JS.API.STREAM.NAMES")': lambda nc: nc.request("$JS.API.STREAM.NAMES", timeout=CALL_TIMEOUT_S),
    "js.streams_info()": _js(lambda js: js.streams_info()),
    "js.consumers_info(…)": _js(lambda js: js.consumers_info(STREAM)),
    "js.find_stream_name_by_subject(…)": _js(lambda js: js.find_stream_name_by_subject(FILTER)),
    "js.add_stream(…)": _js(lambda js: js.add_stream(name="MINE", subjects=["mine"])),
    "js.purge_stream(…)": _js(lambda js: js.purge_stream(STREAM)),
    'nc.subscribe("facts.>")': lambda nc: nc.subscribe("facts.>"),
}


def granted(page: str) -> dict[str, str]:
    """The table: call, and what it says about it."""
    return dict(re.findall(r"^\| `((?:js|nc)\.[^`]*)` \| ([^|]*?) \|", page, re.MULTILINE))


async def _outcome(environment: Environment, call: Call) -> str:
    """``yes`` or ``no``, as the broker decides."""
    refused = asyncio.Event()

    async def hear(error: Exception) -> None:
        if "permissions violation" in str(error):
            refused.set()

    client = await nats.connect(**environment.facts_login(PLANT, "reader"), error_cb=hear, allow_reconnect=False)
    try:
        await call(client)
        await client.flush()  # nats-py lets this ping overtake what was sent before it,
        await client.flush()  # but not the next one
    except (nats.errors.TimeoutError, TimeoutError):
        assert refused.is_set(), "it timed out, and the broker refused nothing"
    finally:
        await client.close()
    return "no" if refused.is_set() else "yes"


def _message(message_id: str, value: float, to_zone: str = "all") -> bytes:
    envelope = {"message_id": message_id, "from_zone": "plant-a-bsfg", "to_zone": to_zone, "produced_at_unix_ms": 1}
    return json.dumps(
        {"envelope": envelope, "fact": {"subject": "test:1", "predicate": "said", "object_json": {"value": value}}}
    ).encode()


def test_what_a_reader_may_do(root: Path, environment: Environment) -> None:
    """Each call of the table, against the real broker."""

    async def outcomes() -> dict[str, str]:
        client = await nats.connect(**environment.facts_login(PLANT, "app"))
        await client.jetstream().publish("facts.operational.plant-a.all.app", _message("grants-1", 1))
        await client.close()
        return {text: await _outcome(environment, call) for text, call in CALLS.items()}

    assert granted((root / "docs/clients.md").read_text("utf-8")) == asyncio.run(outcomes())


def test_what_a_producer_is_told(environment: Environment) -> None:
    """The answers of the clients page, as nats-py shows them."""

    async def answers_to_a_producer() -> None:
        heard: list[str] = []

        async def hear(error: Exception) -> None:
            heard.append(str(error))

        client = await nats.connect(**environment.facts_login(PLANT, "app"), error_cb=hear)
        publish = client.jetstream(timeout=CALL_TIMEOUT_S).publish
        mine = "facts.audit.plant-a.all.app"
        with pytest.raises(nats.js.errors.APIError, match="unsupported: "):
            await publish(mine, _message("told-1", 1), headers={"Nats-Expected-Last-Sequence": "999"})
        first = await publish(mine, _message("told-1", 1))
        again = await publish(mine, _message("told-1", 1), headers={"Nats-Msg-Id": "told-1"})
        assert (first.duplicate, again.duplicate) == (None, True)
        assert first.seq == again.seq
        with pytest.raises(nats.js.errors.APIError, match="conflicting_duplicate: ") as conflict:
            await publish(mine, _message("told-1", 2))
        assert conflict.value.code == 409
        for payload, headers, reason in (
            (b"nonsense", {}, "malformed_json"),
            (_message("told-2", 1, "enterprise-bsfg"), {}, "zone_mismatch"),
            (_message("told-2", 1), {"Nats-Msg-Id": "told-3"}, "id_mismatch"),
        ):
            with pytest.raises(nats.js.errors.BadRequestError, match=f"{reason}: ") as refused:
                await publish(mine, payload, headers=headers)
            assert refused.value.code == 400
        with pytest.raises(nats.js.errors.NoStreamResponseError):
            await publish("facts.unheard-of.plant-a.all.app", _message("told-2", 1))
        for other in ("facts.audit.plant-a.all.sensors", "facts.audit.enterprise.all.app"):
            heard.clear()
            with pytest.raises(nats.errors.TimeoutError):
                await publish(other, _message("told-2", 1))
            assert "permissions violation" in " ".join(heard)
        await client.close()

    asyncio.run(answers_to_a_producer())


@pytest.mark.parametrize(
    ("method", "path", "content_type", "expected"),
    [
        ("POST", "/elsewhere", "application/json", 404),
        ("GET", "/bsfg.v1.BoundaryService/AppendFact", "application/json", 405),
        ("POST", "/bsfg.v1.BoundaryService/AppendFact", "text/plain", 415),
        ("POST", "/bsfg.v1.BoundaryService/AppendFact", "application/json", 401),
    ],
)
def test_other_answers_of_http(
    environment: Environment, method: str, path: str, content_type: str, expected: int
) -> None:
    """Those of the protocol page that carry no reason; and that without a token nothing is answered."""
    connection = http.client.HTTPConnection(HOST, environment.ports[INTAKE_PORT[PLANT]], timeout=5)
    connection.request(method, path, body=b"{}", headers={"Content-Type": content_type})
    assert connection.getresponse().status == expected
    connection.close()
