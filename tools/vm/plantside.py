# SPDX-License-Identifier: Apache-2.0
"""A machine of the plant: it appends facts over HTTPS and reads them over NATS with TLS, as any stock client would.

``python -m tools.vm.plantside COMMAND …`` runs on the plant's network (:mod:`tools.vm.segment`) and prints one JSON
value; :class:`tools.vm.application.Application` starts it. The box's local CA is taken from its first handshake.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from tools.vm.children import program

_PATH: Final = "/bsfg.v1.BoundaryService/AppendFact"
_AT_ONCE: Final = 200
_SILENT: Final = 2
"""So often nothing comes, and there is nothing: a slow box may be late once."""
_AT_A_TIME: Final = 64
_KNOCK_S: Final = 3.0
_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
Answers = dict[str, Any]


def take_authority(address: str, port: int, target: Path) -> None:
    """Keep the last certificate of the box's chain, its local CA: trust on first use.

    :raises OSError: nobody answers.
    """
    command = [program("openssl"), "s_client", "-connect", f"{address}:{port}", "-showcerts"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
    found = _CERTIFICATE.findall(done.stdout)
    if not found:
        raise ConnectionError(f"no certificate came from {address}:{port}: {done.stderr[-200:]}")
    target.write_text(f"{found[-1]}\n", "ascii")


def trust(folder: Path, address: str, port: int, until: float) -> ssl.SSLContext:
    """What a connection to the box is checked against. :param until: ``time.monotonic`` when to give up."""
    path = folder / "ca.pem"
    while not path.exists():
        try:
            take_authority(address, port, path)
        except (OSError, subprocess.TimeoutExpired):
            if time.monotonic() > until:
                raise
            time.sleep(1)
    return ssl.create_default_context(cafile=str(path))


def append(folder: Path, name: str, address: str, given: dict[str, Any]) -> Answers:
    """Append facts ``prefix-first`` and so on; for each id outcome, reason and offset; under ``error`` why it ended."""
    until = time.monotonic() + given["patience"]
    token = (folder / f"{name}.token").read_text("ascii").strip()
    answers: Answers = {}
    last = given["first"] + given["count"]
    for start in range(given["first"], last, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, last))
        body = json.dumps({"facts": [_fact(given, number) for number in numbers]})
        said = _post(folder, address, token, body, until)
        if "results" not in said:
            answers["error"] = said
            break
        for number, result in zip(numbers, said["results"], strict=True):
            told = [result.get("outcome", ""), result.get("reason", ""), result.get("offset", "0")]
            answers[f"{given['prefix']}-{number}"] = told
    return answers


def _fact(given: dict[str, Any], number: int) -> dict[str, Any]:
    return {
        "category": given["category"],
        "kind": "vm",
        "envelope": {
            "message_id": f"{given['prefix']}-{number}",
            "from_zone": "plant-a-bsfg",
            "to_zone": given["to"],
            "produced_at_unix_ms": str(given["produced_at_unix_ms"]),
        },
        "fact": {"subject": f"vm:{given['prefix']}", "predicate": "counted", "object_json": {"number": number}},
    }


def _post(folder: Path, address: str, token: str, body: str, until: float) -> Answers:
    """One request, sent again until it is answered or time is up: the same ids and bytes, so nothing is doubled."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    while True:
        try:
            context = trust(folder, address, 8443, until)
            door = http.client.HTTPSConnection(address, 8443, timeout=30, context=context)
            door.request("POST", _PATH, body, headers)
            answer = door.getresponse()
            said: Answers = json.loads(answer.read() or b"{}")
            door.close()
            if answer.status == 200:
                return said
            failed: Answers = {"status": answer.status, "said": said}
        except (OSError, http.client.HTTPException, ValueError) as error:
            failed = {"status": 0, "said": repr(error)}
        if time.monotonic() > until:
            return failed
        time.sleep(0.5)


async def read(folder: Path, name: str, address: str, origin: str, patience: float) -> list[str]:
    """The ids of all facts of an origin, ``""`` for the zone's own, in the order of each log."""
    import nats

    context = trust(folder, address, 4222, time.monotonic() + patience)
    client = await nats.connect(
        f"tls://{address}:4222",
        user_credentials=str(folder / f"{name}.creds"),
        tls=context,
        tls_hostname=address,
        allow_reconnect=False,
        connect_timeout=30,
    )
    js = client.jetstream(timeout=30)
    answer = await client.request("$JS.API.STREAM.NAMES", timeout=30)
    names = [text for text in json.loads(answer.data)["streams"] or [] if text.startswith("FACTS_")]
    found: list[str] = []
    for stream in sorted(text for text in names if (f"_FROM_{origin}_" in text if origin else "_FROM_" not in text)):
        reader = await js.pull_subscribe("facts.>", stream=stream)
        silent = 0
        while silent < _SILENT:
            try:
                page = await reader.fetch(500, timeout=3)
            except TimeoutError:  # the client has two of that name
                silent += 1
                continue
            found += [json.loads(message.data)["envelope"]["message_id"] for message in page]
            for message in page:
                await message.ack()
            if page[-1].metadata.num_pending == 0:
                break
    await client.close()
    return found


async def connects(address: str, ports: list[int]) -> dict[int, str]:
    """What becomes of a connection to each port: ``open``, ``refused``, or ``silent``."""
    free = asyncio.Semaphore(_AT_A_TIME)

    async def knock(port: int) -> str:
        async with free:
            try:
                _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), _KNOCK_S)
            except TimeoutError:
                return "silent"
            except OSError:
                return "refused"
            writer.close()
            return "open"

    return dict(zip(ports, await asyncio.gather(*map(knock, ports)), strict=True))


def main() -> None:
    """Run one command, with its arguments as JSON on standard input; what it found, as JSON on standard output."""
    command, folder, name, address = sys.argv[1:5]
    given = json.loads(sys.stdin.read() or "{}")
    result: object
    if command == "append":
        result = append(Path(folder), name, address, given)
    elif command == "read":
        result = asyncio.run(read(Path(folder), name, address, given["origin"], given["patience"]))
    else:
        result = asyncio.run(connects(address, given["ports"]))
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
