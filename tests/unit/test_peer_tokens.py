# SPDX-License-Identifier: Apache-2.0
"""A token names its producer, and nothing else does."""

from __future__ import annotations

import hashlib

import pytest

from appliance.boundary.errors import DeniedError
from appliance.boundary.names import ProducerId
from appliance.boundary.producing import Producer
from appliance.boundary.reasons import Reason
from appliance.peer.tokens import TokenTable, bearer_token


def test_tokens_find_their_producers() -> None:
    """By digest; the digest itself is no token."""
    producers = {name: Producer(ProducerId(name)) for name in ("cli", "press-4")}
    digests = {hashlib.sha256(f"token of {name}".encode()).digest(): one for name, one in producers.items()}
    find = TokenTable(digests)
    assert find("token of cli") == producers["cli"]
    assert find("token of press-4") == producers["press-4"]
    assert find("") is None
    assert find("token of cl") is None
    assert find(next(iter(digests)).hex()) is None
    assert find("\udcff") is None


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
