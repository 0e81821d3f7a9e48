# SPDX-License-Identifier: Apache-2.0
"""The page of the image's figures: what is measured is what is meant, and the page that is kept has all its parts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from tools.image.contents import Node
from tools.image.gates import Gate
from tools.image.report.offline import EXPOSURE, Offline, parse_exposures, too_exposed, writable_by_all
from tools.image.report.page import HEAD, MEMORY_KIB, NOT_MEASURED, Figures, page
from tools.image.report.run import PAGE, machine_name
from tools.image.report.running import address, measured

ANSWER = {
    "processes": {
        "1": ["init", 7000],
        "20": ["nats-server", 16000],
        "30": ["qemu-ga", 2000],
        "31": ["nats-server", 9000],
    },
    "listening": [["tcp", "0100007F:1092", "nats-server"], ["tcp", "0100007F:1092", "nats-server"]],
    "memory": {"MemTotal": 950000, "MemAvailable": 600000},
    "scrub_s": 2.5,
    "scrub_bytes": 98000000,
}
TIMES = {"status page": 50.0, "speaking": 80.0}
RUNNING = measured(
    ANSWER, accelerator="tcg", memory_mib=1024, first=TIMES, later=TIMES, plain={"first": 40.0, "later": 30.0}
)
NODES = (
    Node("/usr", 0o040755),
    Node.of_bytes("/usr/bin/tool", 0o100755, b"12345"),
    Node("/usr/bin/link", 0o120777, target="tool"),
    Node.of_bytes("/usr/bin/data", 0o100644, b"1"),
    Node.of_bytes("/usr/lib/python3/x.py", 0o100755, b"123"),
    Node("/sticky", 0o041777),
)
IMAGE = Offline("cloud", "1.2.3", "ab", NODES, 7, (Gate("kernel image", 30_000_000, 40_000_000),), 9, 3)


def test_addresses() -> None:
    """Of ``/proc/net``, whose words are in the machine's order."""
    assert address("0100007F:1092") == "127.0.0.1:4242"
    assert address("00000000:0044") == "0.0.0.0:68"
    assert address("00000000000000000000000001000000:0035") == "[::1]:53"
    assert address("B80D0120000000000000000001000000:0001") == "[2001:db8::1]:1"


def test_what_is_only_in_the_test_image_is_not_counted() -> None:
    """Processes stand by size, each for itself; a socket that two processes hold stands once."""
    assert RUNNING.pss == (("nats-server", 16000), ("nats-server", 9000), ("init", 7000))
    assert RUNNING.listening == (("tcp", "127.0.0.1:4242", "nats-server"),)


def test_programs_and_modes() -> None:
    """What is executable and in the path, links too; setuid, setgid and what everybody may write."""
    assert IMAGE.programs() == ["/usr/bin/link", "/usr/bin/tool"]
    assert IMAGE.special() == {"setuid": [], "setgid": [], "world-writable": []}
    bad = [
        Node.of_bytes("/usr/bin/su", 0o104755, b""),
        Node.of_bytes("/usr/bin/wall", 0o102755, b""),
        Node.of_bytes("/etc/open", 0o100666, b""),
        Node("/var/open", 0o040777),
    ]
    assert replace(IMAGE, nodes=(*NODES, *bad)).special() == {
        "setuid": ["/usr/bin/su"],
        "setgid": ["/usr/bin/wall"],
        "world-writable": ["/etc/open", "/var/open"],
    }
    assert [writable_by_all(node) for node in NODES] == [False] * len(NODES)


def test_sizes_by_folder() -> None:
    """Below ``/usr/lib`` one folder deeper."""
    assert IMAGE.by_folder() == [("/usr/bin", 2, 6), ("/usr/lib/python3", 1, 3)]
    assert [node.path for node in IMAGE.largest()] == ["/usr/bin/tool", "/usr/lib/python3/x.py", "/usr/bin/data"]


def test_exposures() -> None:
    """As systemd-analyze says them; what is over the limit is named."""
    said = "→ Overall exposure level for {}\n"
    text = "  NAME ...\n" + said.format("a.service: 1.1 OK :-)") + said.format("b@x.service: 9.6 UNSAFE")
    found = parse_exposures(text)
    assert found == {"a.service": 1.1, "b@x.service": 9.6}
    assert too_exposed(found.items()) == ["b@x.service"]
    assert too_exposed([("c", EXPOSURE)]) == []


def test_the_page() -> None:
    """Every figure is on it, with the machine; without a virtual machine it says what was not measured."""
    figures = Figures("some processor, 2 cores", "2026-01-02", [IMAGE], {"a.service": 1.1}, RUNNING)
    text = page(figures)
    assert text.startswith(HEAD)
    for words in (
        "Machine: some processor, 2 cores",
        "| cloud | kernel image | 30.0 MB | 40.0 MB | 75 % |",
        "| cloud 1.2.3 | 3 | 0.0 MB | 7 | 9 | 3 |",
        "| `a.service` | 1.1 |",
        "| setuid | 0 |",
        "31.2 MiB in all",
        "| tcp | `127.0.0.1:4242` | nats-server |",
        "2.5 s for 98.0 MB",
        "| appliance: speaking | 80.0 | 80.0 |",
        "| plain Debian: login prompt | 40.0 | 30.0 |",
        "lockdown",
    ):
        assert words in text, words
    assert NOT_MEASURED in page(replace(figures, running=None))


def test_the_page_that_is_kept(root: Path) -> None:
    """It was measured, on a machine that it names; no figure on it is over its limit. Figures are not compared."""
    text = (root / PAGE).read_text("utf-8")
    assert text.startswith(HEAD)
    assert re.search(
        r"^Measured on \d{4}-\d\d-\d\d\. Machine: .+, \d+ cores, \d+ GiB of memory, .+\. How", text, re.MULTILINE
    )
    complete = NOT_MEASURED not in text  # in a virtual machine, too; what is not says so
    example = page(Figures("m", "d", [IMAGE], {}, RUNNING if complete else None))
    assert re.findall(r"^#+ .+$", text, re.MULTILINE) == re.findall(r"^#+ .+$", example, re.MULTILINE)
    shares = [
        int(share)
        for share in re.findall(r"^\| \w+ \| [\w' ]+ \| [\d.]+ MB \| [\d.]+ MB \| (\d+) % \|$", text, re.MULTILINE)
    ]
    assert shares
    assert max(shares) <= 100
    exposures = dict(re.findall(r"^\| `([\w@.-]+\.service)` \| ([\d.]+) \|$", text, re.MULTILINE))
    assert exposures
    assert too_exposed((unit, float(value)) for unit, value in exposures.items()) == []
    for mode in ("setuid", "setgid", "world-writable"):
        assert f"| {mode} | 0 |  |" in text
    if not complete:
        return
    total = re.search(r"Proportional set sizes \(PSS\), ([\d.]+) MiB in all", text)
    assert total
    assert float(total[1]) <= MEMORY_KIB / 1024


def test_the_machine_is_named() -> None:
    """Processor, cores, memory and system."""
    assert re.fullmatch(r".+, \d+ cores, \d+ GiB of memory, .+", machine_name())
