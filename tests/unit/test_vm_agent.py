# SPDX-License-Identifier: Apache-2.0
"""The client of the guest's agent, against one that answers as qemu-guest-agent does."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.vm.agent import Agent
from tools.vm.faults import AgentError

Answer = Callable[[str, dict[str, Any]], Any]


class Guest:
    """An agent for one connection: it synchronises, and answers the rest as a test says."""

    def __init__(self, path: Path, answer: Answer, leftover: bytes = b"") -> None:
        self.answer = answer
        self.leftover = leftover
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        self._server.listen(4)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                connection.sendall(self.leftover)
                for line in lines:
                    request = json.loads(line.lstrip(b"\xff"))
                    name, given = request["execute"], request.get("arguments", {})
                    if name == "guest-sync-delimited":
                        connection.sendall(b"\xff" + json.dumps({"return": given["id"]}).encode() + b"\n")
                        continue
                    self.asked.append((name, given))
                    connection.sendall(json.dumps(self.answer(name, given)).encode() + b"\n")

    def close(self) -> None:
        """Nobody is let in any more."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(5)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """The client; it hangs up at the end."""
    client = Agent(tmp_path / "agent")
    yield client
    client.close()


def encoded(text: bytes) -> str:
    """As the agent carries bytes."""
    return base64.b64encode(text).decode()


def test_a_command_is_run_to_its_end(tmp_path: Path, agent: Agent) -> None:
    """Polled until it has ended, with what it printed; what an earlier talk left on the line is skipped."""
    polls = iter([{"exited": False}, {"exited": True, "exitcode": 3, "out-data": encoded(b"hello\n")}])

    def answer(name: str, _: dict[str, Any]) -> Any:
        return {"return": {"pid": 7} if name == "guest-exec" else next(polls)}

    guest = Guest(tmp_path / "agent", answer, leftover=b'{"return": {"pid": 1}}\n{"return')
    agent.wait(10)
    done = agent.run("/usr/bin/true", "-x", stdin=b"in")
    assert (done.code, done.text, done.err) == (3, "hello", b"")
    asked = {"path": "/usr/bin/true", "arg": ["-x"], "capture-output": True, "input-data": encoded(b"in")}
    assert guest.asked[0] == ("guest-exec", asked)
    agent.close()
    guest.close()


def test_a_failure_is_told_with_what_it_said(tmp_path: Path, agent: Agent) -> None:
    """Whether the command fails, or the agent refuses."""
    ended = {"exited": True, "exitcode": 1, "err-data": encoded(b"no such zone")}
    guest = Guest(tmp_path / "agent", lambda name, _: {"return": {"pid": 7} if name == "guest-exec" else ended})
    agent.wait(10)
    with pytest.raises(AgentError, match="bsfg ended with 1 in the guest: no such zone"):
        agent.check("bsfg")
    guest.answer = lambda *_: {"error": {"class": "GenericError", "desc": "disabled"}}
    with pytest.raises(AgentError, match="guest-exec: disabled"):
        agent.check("bsfg")
    agent.close()
    guest.close()


def test_files_are_carried_in_pieces(tmp_path: Path, agent: Agent) -> None:
    """Written and read as bytes, and closed."""
    files: dict[int, bytes] = {}

    def answer(name: str, given: dict[str, Any]) -> Any:
        if name == "guest-file-open":
            files.setdefault(5, b"")
            return {"return": 5}
        if name == "guest-file-write":
            files[5] += base64.b64decode(given["buf-b64"])
        if name == "guest-file-read":
            data, files[5] = files[5][: given["count"]], files[5][given["count"] :]
            return {"return": {"count": len(data), "buf-b64": encoded(data), "eof": not files[5]}}
        return {"return": {}}

    guest = Guest(tmp_path / "agent", answer)
    agent.wait(10)
    content = bytes(range(256)) * 500
    agent.write("/run/x", content)
    assert agent.read("/run/x") == content
    assert [name for name, _ in guest.asked].count("guest-file-close") == 2
    agent.close()
    guest.close()


def test_an_agent_that_is_not_there_is_said_so(agent: Agent) -> None:
    """Within the time that was given."""
    with pytest.raises(AgentError, match="did not answer within 0 s"):
        agent.wait(0)
