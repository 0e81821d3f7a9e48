# SPDX-License-Identifier: Apache-2.0
"""Status documents as they are found: missing, old, damaged, huge, hostile. None is an error, none is believed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.console import documents
from appliance.console.codes import DocState
from appliance.console.documents import MAX_BYTES, MAX_DOCUMENTS, Document, Reader, Values, as_json, neutral
from appliance.console.model import Looker
from appliance.node.status import STALE_AFTER_S
from tests.consoles import BOOTED, NOW, FixedClock, healthy, ms, put, tell

FOLDER = "run/bsfg/status"


def read(root: Path, clock: FixedClock | None = None) -> dict[str, Document]:
    """Look once."""
    return Reader(root / FOLDER, clock or FixedClock()).read()


def one(root: Path, content: str | bytes) -> Document:
    """The document ``agent`` with this content."""
    put(root, f"{FOLDER}/agent.json", content)
    return read(root)["agent"]


def test_the_limit_of_age_is_the_nodes() -> None:
    """The number stands twice, because the module of the node is too large to import."""
    assert documents.STALE_AFTER_S == STALE_AFTER_S


def test_nothing_is_there(tmp_path: Path) -> None:
    """An empty machine is a machine."""
    assert read(tmp_path) == {}
    box = Looker(tmp_path, clock=FixedClock()).look()
    assert {document.state for document in box.documents} == {DocState.MISSING}
    assert (box.zone, box.disk, box.interfaces, box.machine.secure_boot) == ("", None, (), "")


def test_age(tmp_path: Path) -> None:
    """Young, old, from the future, without a date, not written yet; what is written once does not age."""
    for name, ago in (("young", 9), ("old", 11), ("future", -11), ("site", 90_000), ("local", 9_000)):
        tell(tmp_path, name, ago_s=ago)
    put(tmp_path, f"{FOLDER}/undated.json", '{"schema": 1}')
    put(tmp_path, f"{FOLDER}/empty.json", "{}")  # as tmpfiles.d makes it for its owner
    states = {name: document.state for name, document in read(tmp_path).items()}
    assert states == {
        "young": DocState.FRESH,
        "old": DocState.STALE,
        "future": DocState.STALE,
        "undated": DocState.STALE,
        "site": DocState.FRESH,
        "local": DocState.FRESH,
        "empty": DocState.MISSING,
    }


def test_a_clock_that_steps_does_not_silence_anybody(tmp_path: Path) -> None:
    """Once a document was seen to be replaced, that counts and not the wall clock; when it stops, it is noticed."""
    clock = FixedClock()
    reader = Reader(tmp_path / FOLDER, clock)
    tell(tmp_path, "agent")
    assert reader.read()["agent"].speaks
    clock.now += 86_400
    clock.pass_s(2)
    assert reader.read()["agent"].speaks, "the clock jumped a day, the document is as young as it was"
    clock.pass_s(STALE_AFTER_S)
    assert reader.read()["agent"].state is DocState.STALE
    tell(tmp_path, "agent", pid=8)  # written with the old date
    assert reader.read()["agent"].speaks
    clock.pass_s(STALE_AFTER_S + 1)
    assert reader.read()["agent"].state is DocState.STALE


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[1]", "no JSON object"),
        (b'"text"', "no JSON object"),
        (b'{"zone": "\xff\xfe"}', "not UTF-8"),
        (b"{" + b" " * MAX_BYTES + b"}", f"more than {MAX_BYTES} bytes"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"number": ' + b"9" * 5000 + b"}", ""),
    ],
)
def test_damaged(tmp_path: Path, content: bytes, fault: str) -> None:
    """Said, and why; nothing of it is used."""
    found = one(tmp_path, content)
    assert found.state is DocState.DAMAGED
    assert fault in found.fault
    assert not found.values


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """A pipe that nobody writes to, a folder, a link to somewhere else."""
    folder = tmp_path / FOLDER
    folder.mkdir(parents=True)
    os.mkfifo(folder / "pipe.json")
    (folder / "folder.json").mkdir()
    put(tmp_path, "secret", json.dumps({"zone": "secret"}))
    (folder / "link.json").symlink_to(tmp_path / "secret")
    found = read(tmp_path)
    assert {name: document.state for name, document in found.items()} == dict.fromkeys(
        ("pipe", "folder", "link"), DocState.DAMAGED
    )
    assert found["pipe"].fault == "no regular file"


def test_only_names_of_documents_are_read(tmp_path: Path) -> None:
    """And not more than there can be services."""
    for name in ("../x", "A", "a b", "-a", "a" * 40):
        put(tmp_path, f"{FOLDER}/x/../{name}.json", "{}")
    tell(tmp_path, "agent")
    assert list(read(tmp_path)) == ["agent"]
    for number in range(100):
        tell(tmp_path, f"x{number}")
    assert len(read(tmp_path)) == MAX_DOCUMENTS


def test_texts_come_out_neutral() -> None:
    """No control character, no bidirectional trick, one line, not endless."""
    assert neutral("a\x1b[2Jb\x07\x9b\x00") == "a?[2Jb???"
    assert neutral("two\r\nlines\tand  blanks ") == "two lines and blanks"
    assert neutral("\u202eesrever\u2066\u200b\ufeff\ud800") == "?esrever????"
    assert neutral("x" * 500, 10) == "xxxxxxx..."
    assert neutral("plant-å") == "plant-å"


@given(st.text(), st.integers(4, 50))
def test_neutral_for_any_text(text: str, limit: int) -> None:
    """Whatever comes in."""
    shown = neutral(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()


def test_fields_are_taken_in_their_type_only() -> None:
    """What is of another type counts as not there."""
    values = Values(
        {
            "text": "x",
            "number": 7,
            "decimal": "-12",
            "float": 1.9,
            "nan": float("nan"),
            "endless": float("inf"),
            "large": 1 << 70,
            "yes": True,
            "list": [1, {"a": "b"}, "x"],
            "part": {"a": "b"},
            "null": None,
        }
    )
    assert [values.text(name) for name in ("text", "number", "list", "part", "none")] == ["x", "", "", "", ""]
    numbers = ("number", "decimal", "float", "nan", "endless", "large", "yes", "text", "null")
    assert [values.number(name) for name in numbers] == [7, -12, 1, None, None, None, None, None, None]
    assert [values.truth(name) for name in ("yes", "number", "null")] == [True, None, None]
    assert [each.text("a") for each in values.items("list")] == ["b"]
    assert values.part("part").text("a") == "b"
    assert not values.part("text")
    assert list(values.items("text")) == []
    assert not Values([1])


def test_lists_end(tmp_path: Path) -> None:
    """A million problems are a few problems."""
    tell(tmp_path, "agent", problems=[{"reason": "link_down"}] * 5000)
    assert len(read(tmp_path)["agent"].told) == documents.MAX_ITEMS


def test_problems_in_both_forms() -> None:
    """A list of objects, or the keeper's one line; a line without a code is told as a defect."""
    listed = Values({"problems": [{"reason": "link_down", "detail": "x", "where": "y"}, {"detail": "no reason"}, 5]})
    assert [(t.reason, t.detail, t.where) for t in Document("a", values=listed).told] == [("link_down", "x", "y")]
    line = Document("keeper", values=Values({"problem": "tpm_absent: /dev/tpmrm0: none"}))
    assert [(t.reason, t.detail, t.source) for t in line.told] == [("tpm_absent", "/dev/tpmrm0: none", "keeper")]
    odd = Document("keeper", values=Values({"problem": "Traceback (most recent call last)"}))
    assert [(t.reason, t.detail) for t in odd.told] == [("internal", "Traceback (most recent call last)")]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
FIELDS = ("state", "zone", "problems", "problem", "crossings", "boundary", "broker", "mode", "updated_at_unix_ms",
          "mode_since_unix_ms", "refused", "version", "fingerprint", "peers", "since_unix_ms", "kind")  # fmt: skip


@given(
    st.dictionaries(st.sampled_from(FIELDS), JSON), st.sampled_from(["agent", "keeper", "site", "watchdog", "enrol"])
)
def test_any_json_is_a_box(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any], name: str) -> None:
    """Nothing that a service can write stops the page."""
    root = tmp_path_factory.mktemp("box")
    healthy(root)
    put(root, f"{FOLDER}/{name}.json", json.dumps({"updated_at_unix_ms": ms(1), **values}))
    box = Looker(root, clock=FixedClock()).look()
    json.dumps(as_json(box))
    assert (box.now_unix_s, box.uptime_s) == (NOW, BOOTED)


@given(st.binary(max_size=300))
@example(b"{}")
@example(b" { }\n")
def test_any_bytes_are_a_document(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Neither do bytes that are no JSON; an empty object is what a document is before its owner has spoken."""
    found = one(tmp_path_factory.mktemp("box"), content).state
    if found is DocState.MISSING:
        assert json.loads(content) == {}
    else:
        assert found in {DocState.DAMAGED, DocState.STALE}
