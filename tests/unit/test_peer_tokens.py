# SPDX-License-Identifier: Apache-2.0
"""A token names its producer, and nothing else does."""

from __future__ import annotations

import hashlib

import pytest

from appliance.boundary.errors import DeniedError
from appliance.boundary.names import ProducerId
from appliance.boundary.producing import Producer
from appliance.boundary.reasons import Reason
from appliance.peer.tokens import Grant, TokenTable, bearer_token


def test_tokens_find_their_producers() -> None:
    """By digest; the digest itself is no token."""
    producers = {name: Producer(ProducerId(name)) for name in ("cli", "press-4")}
    digests = {hashlib.sha256(f"token of {name}".encode()).digest(): one for name, one in producers.items()}
    find = TokenTable({digest: Grant(one) for digest, one in digests.items()})
    assert find("token of cli") == producers["cli"]
    assert find("token of press-4") == producers["press-4"]
    assert find("") is None
    assert find("token of cl") is None
    assert find(next(iter(digests)).hex()) is None
    assert find("\udcff") is None


def test_a_token_ends() -> None:
    """At its time and not before; one without a time does not."""
    now = 100.0
    producer = Producer(ProducerId("cli"))
    grants = {hashlib.sha256(text).digest(): Grant(producer, end) for text, end in ((b"a", 200), (b"b", None))}
    find = TokenTable(grants, lambda: now)
    assert find("a") == find("b") == producer
    now = 200.0
    assert find("a") is None
    assert find("b") == producer


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_a_bearer_token_is_read(scheme: str) -> None:
    """The scheme's case does not matter."""
    assert bearer_token({b"authorization": f"{scheme}  secret ".encode()}) == "secret"


@pytest.mark.parametrize("value", [None, b"", b"Bearer", b"Bearer ", b"Basic c2VjcmV0", b"secret"])
def test_anything_else_is_no_credential(value: bytes | None) -> None:
    """Missing, empty, another scheme."""
    with pytest.raises(DeniedError) as caught:
        bearer_token({} if value is None else {b"authorization": value})
    assert caught.value.reason == Reason.BAD_CREDENTIAL
