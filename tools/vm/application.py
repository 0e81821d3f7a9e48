# SPDX-License-Identifier: Apache-2.0
"""An application on the box, for tests: it has a credential of its own, appends facts on loopback and reads what came.

All of it runs in the guest, by the agent of profile ``test``, through the same doors as an application of a plant.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tools.vm import pace
from tools.vm.agent import Agent

NAME: Final = "vmtest"
_FOLDER: Final = "/run/vmtest"
CREDENTIALS: Final = f"{_FOLDER}/{NAME}.creds"

_ADMIT: Final = """
import pathlib, sys
from appliance.box.layout import BoxLayout
from appliance.box.local import accepted, box_seal
from appliance.box.localkeys import opened_root
from appliance.boundary.names import ProducerId
from appliance.keys.local.applications import Role
from appliance.keys.local.store import LocalKeys
layout, folder = BoxLayout(), pathlib.Path(sys.argv[1])
with opened_root(layout, box_seal(layout)) as root:
    keys = LocalKeys.open(layout.local, accepted(layout).zone, root_file=root)
    keys.ensure(ProducerId(sys.argv[2]), Role.SERVICE, folder)
print("admitted")
"""

_APPEND: Final = """
import http.client, json, pathlib, sys, time
folder, name, prefix, category, to, first, count, patience = sys.argv[1:9]
token = pathlib.Path(folder, name + ".token").read_text().strip()
until = time.monotonic() + float(patience)
answers = {}
for start in range(int(first), int(first) + int(count), 200):
    numbers = range(start, min(start + 200, int(first) + int(count)))
    facts = [{
        "category": category, "kind": "vm",
        "envelope": {"message_id": f"{prefix}-{n}", "from_zone": "plant-a-bsfg", "to_zone": to,
                     "produced_at_unix_ms": str(time.time_ns() // 1000000)},
        "fact": {"subject": f"vm:{prefix}", "predicate": "counted", "object_json": {"number": n}},
    } for n in numbers]
    body = json.dumps({"facts": facts})
    while True:
        try:
            door = http.client.HTTPConnection("127.0.0.1", 8080, timeout=30)
            headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
            door.request("POST", "/bsfg.v1.BoundaryService/AppendFact", body, headers)
            answer = door.getresponse()
            said = json.loads(answer.read() or b"{}")
            door.close()
            if answer.status == 200:
                break
            said = {"error": said, "status": answer.status}
        except (OSError, http.client.HTTPException, ValueError) as error:
            said = {"error": repr(error), "status": 0}
        if time.monotonic() > until:
            break
        time.sleep(0.5)
    if "results" not in said:
        answers["error"] = said
        break
    for n, result in zip(numbers, said["results"]):
        answers[f"{prefix}-{n}"] = [result.get("outcome", ""), result.get("reason", ""), result.get("offset", "0")]
print(json.dumps(answers))
"""

_READ: Final = """
import asyncio, json, sys
import nats
async def main():
    client = await nats.connect("nats://127.0.0.1:4222", user_credentials=sys.argv[1], allow_reconnect=False)
    js = client.jetstream()
    names = json.loads((await client.request("$JS.API.STREAM.NAMES", timeout=10)).data)["streams"]
    found = []
    for name in sorted(n for n in names or [] if n.startswith("FACTS_") and (sys.argv[2] in n or not sys.argv[2])):
        if not sys.argv[2] and "_FROM_" in name:
            continue
        reader = await js.pull_subscribe("facts.>", stream=name)
        while True:
            try:
                page = await reader.fetch(500, timeout=1)
            except nats.errors.TimeoutError:
                break
            for message in page:
                whole = json.loads(message.data)
                found.append([name, whole["envelope"]["message_id"], whole["fact"]["subject"]])
            await asyncio.gather(*(message.ack() for message in page))
    print(json.dumps(found))
    await client.close()
asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class Application:
    """A service of the box: it may produce under its name and read everything. Made by :func:`admit`."""

    agent: Agent

    def append(
        self,
        prefix: str,
        count: int,
        *,
        first: int = 0,
        category: str = "operational",
        to: str = "enterprise-bsfg",
        patience: float = 30.0,
    ) -> dict[str, list[str]]:
        """Append facts with ids ``prefix-N``; for each id outcome, reason and offset; under ``error`` what else came.

        :param patience: seconds to try again while it is not taken, as an application does.
        """
        given = (prefix, category, to, str(first), str(count), str(patience))
        said = self.agent.python(_APPEND, _FOLDER, NAME, *given, seconds=pace.limit(patience + 60))
        answers: dict[str, list[str]] = json.loads(said)
        return answers

    def stored(self, prefix: str, count: int, **how: Any) -> set[str]:
        """As :meth:`append`, where all must be stored; their ids."""
        answers = self.append(prefix, count, **how)
        good = confirmed(answers)
        if len(good) != count:
            raise AssertionError(f"{len(good)} of {count} facts were stored; the first others: {_others(answers)}")
        return good

    def received(self, origin: str = "ENTERPRISE") -> list[str]:
        """The ids of the facts that came from another zone, as an application reads them."""
        return self._read(f"_FROM_{origin}_")

    def own(self) -> list[str]:
        """The ids of the zone's own facts in its log."""
        return self._read("")

    def _read(self, streams: str) -> list[str]:
        said = self.agent.python(_READ, CREDENTIALS, streams, seconds=pace.limit(90))
        return [entry[1] for entry in json.loads(said)]


def confirmed(answers: dict[str, list[str]]) -> set[str]:
    """The ids that were answered as stored, or as stored before."""
    good = {"APPEND_OUTCOME_STORED", "APPEND_OUTCOME_DUPLICATE"}
    return {name for name, answer in answers.items() if name != "error" and answer[0] in good}


def _others(answers: dict[str, list[str]]) -> Sequence[object]:
    good = confirmed(answers)
    return [(name, answer) for name, answer in answers.items() if name not in good][:3]


def admit(agent: Agent) -> Application:
    """Let the application in: its credential is issued and the broker takes it up."""
    agent.python("import os, sys; os.makedirs(sys.argv[1], 0o700, exist_ok=True)", _FOLDER)
    agent.python(_ADMIT, _FOLDER, NAME, seconds=pace.limit(60))
    return Application(agent)
