# SPDX-License-Identifier: Apache-2.0
"""Who may ask the keeper for what: the whole table, written a second time."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.keys.keeper.port import KeeperState
from appliance.keys.keeper.protocol import (
    ANSWER_BYTES,
    CALLS,
    REQUEST_BYTES,
    Document,
    Evidence,
    Named,
    Nonce,
    Nothing,
    Request,
    Sealing,
    Statement,
)
from appliance.keys.keeper.roles import GRANTS, Operation, Role, check_secret, statement_kind
from appliance.keys.keeper.server import CALLERS, CALLERS_OF_ONE_USER, check
from appliance.keys.tpm.public import Digest
from tests.unit.test_keeper_protocol import ARGUMENTS

ALLOWED = {
    "agent": "status quote certify time_nonce set_time session:agent sign:receipt sign:evidence secret:agent",
    "hub": "status quote certify time_nonce set_time session:agent sign:receipt sign:evidence sign:time secret:hub "
    "hub_ca certify_zone",
    "control": "status session:control secret:control",
    "watchdog": "status quote certify describe latch import_release sign:evidence secret:watchdog",
    "administrator": "status quote certify time_nonce set_time describe certificate_request activate install "
    "import_release hub_ca certify_zone",
}


def asked() -> dict[str, Request]:
    """Every call, by the words above."""
    calls = {
        str(operation): Request(operation, ARGUMENTS[takes])
        for operation, (takes, _) in CALLS.items()
        if operation not in {Operation.SESSION, Operation.SIGN, Operation.SEAL, Operation.UNSEAL}
    }
    for name in ("agent", "control", "hub", "other", ""):
        calls[f"session:{name}"] = Request(Operation.SESSION, Named(name))
    for kind in ("receipt", "evidence", "time", "other"):
        calls[f"sign:{kind}"] = Request(Operation.SIGN, Statement(f"bsfg.v1 {kind}\nx\n".encode()))
    return calls


def allowed(roles: frozenset[Role], request: Request) -> bool:
    """Whether a caller of these roles may."""
    try:
        check(request, roles)
    except DeniedError as error:
        return error.reason != "caller_denied"
    return True


@pytest.mark.parametrize("role", Role)
def test_each_role_may_do_its_own_things_alone(role: Role) -> None:
    """Of all calls with all conditions."""
    words = ALLOWED[role].split()
    found = [name for name, request in asked().items() if allowed(frozenset({role}), request)]
    found += [
        f"secret:{owner}"
        for owner in Role
        if allowed(frozenset({role}), Request(Operation.SEAL, Sealing(f"{owner}.x", b"x")))
        and allowed(frozenset({role}), Request(Operation.UNSEAL, Named(f"{owner}.x")))
        and allowed(frozenset({role}), Request(Operation.UNSEAL, Named(owner)))
    ]
    assert sorted(found) == sorted(words)


def test_nobody_may_do_nothing_and_roles_add_up() -> None:
    """A uid without a role is told so; two roles may what either may, no more."""
    assert set(GRANTS) == set(Role)
    for request in asked().values():
        assert not allowed(frozenset(), request)
    for first, second in itertools.combinations(Role, 2):
        for request in asked().values():
            both = allowed(frozenset({first}), request) or allowed(frozenset({second}), request)
            assert allowed(frozenset({first, second}), request) == both


@pytest.mark.parametrize("name", ["", "agent/x", "../agent", "agent..x", ".agent", "AGENT.x", "agent.x\n", "a" * 65])
def test_a_name_that_could_be_a_path_is_refused(name: str) -> None:
    """Whoever asks."""
    with pytest.raises(RefusedError, match="bad_input"):
        check_secret(frozenset(Role), name)


def test_a_name_is_its_owners_up_to_the_first_mark() -> None:
    """``agentx`` is not the agent's."""
    for name in ("agentx", "agentx.y", "x.agent", "control-agent"):
        with pytest.raises(DeniedError, match="caller_denied"):
            check_secret(frozenset({Role.AGENT}), name)
    for name in ("agent", "agent.y", "agent-y.z"):
        check_secret(frozenset({Role.AGENT}), name)


@pytest.mark.parametrize(
    "statement", [b"", b"\n", b"bsfg.v1 ", b"bsfg.v1 \n", b"bsfg.v1 receipt", b"bsfg.v1 receipt \n", b"BSFG.v1 time\n"]
)
def test_only_statements_have_a_kind(statement: bytes) -> None:
    """A certificate has none."""
    with pytest.raises(RefusedError, match="bad_input"):
        statement_kind(statement)
    assert statement_kind(b"bsfg.v1 receipt\nzone plant-a\n") == "receipt"


def test_conditions_belong_to_their_call() -> None:
    """A call with the arguments of another is judged by its operation."""
    agent = frozenset({Role.AGENT})
    for arguments in (Nothing(), Nonce(b""), Evidence(Digest(b"")), Document(b"")):
        assert not allowed(agent, Request(Operation.SESSION, arguments))
        assert not allowed(agent, Request(Operation.LATCH, arguments))


def test_the_page_names_every_state_and_limit(root: Path) -> None:
    """In the order of the code."""
    text = (root / "docs" / "keeper.md").read_text("utf-8")
    assert re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE)[: len(KeeperState)] == list(KeeperState)
    assert f"{REQUEST_BYTES // 1024} KiB, an answer {ANSWER_BYTES // 1024**2} MiB" in text
    assert f"{CALLERS} connections at once, {CALLERS_OF_ONE_USER} of one user" in text
