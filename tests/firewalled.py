# SPDX-License-Identifier: Apache-2.0
"""A box between two networks, in network namespaces of this kernel: an uplink with a hub, a plant with two machines.

What happens in them is done by small programs (:data:`ACTOR`) that run in one of the namespaces as one of the box's
users. Needs root, for several users take part.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

AGENT: Final = 954
CONTROL: Final = 952
FACTS: Final = 951
ENROL: Final = 957
NAMES: Final = 958
ROOT: Final = 0
# Users that only their name is known of before there is a box; tests give them numbers.
NETWORKD: Final = 9901
CHRONY: Final = 9902

HUB4, HUB6 = "10.77.0.1", "fd77::1"
UPLINK4, UPLINK6 = "10.77.0.2", "fd77::2"
PLANT4, PLANT6 = "10.88.0.2", "fd88::2"
MACHINE, OTHER_MACHINE = "10.88.0.5", "10.88.0.6"
PLANT_SIDE: Final = (f"{MACHINE}/24", f"{OTHER_MACHINE}/24", "fd88::5/64")
RPC_PORT, NATS_PORT, DNS_PORT, NTP_PORT = 7422, 4222, 53, 123

ACTOR: Final = r"""
import json, select, socket, struct, sys, time

def family(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET

def connect(host, port, source=None):
    with socket.create_connection((host, port), timeout=1.0, source_address=(source, 0) if source else None) as link:
        link.sendall(b"ping")
        return link.recv(4).decode()

def talk(host, port, pause):
    # Two exchanges on one connection; a line on standard input between them says when the second is due.
    with socket.create_connection((host, port), timeout=1.5) as link:
        link.sendall(b"ping")
        print(json.dumps(link.recv(4).decode()), flush=True)
        sys.stdin.readline()
        link.sendall(b"ping")
        return link.recv(4).decode()

def datagram(host, port, source=0, answer=True):
    with socket.socket(family(host), socket.SOCK_DGRAM) as link:
        link.settimeout(1.0)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if source:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            link.bind(("", source))
        link.sendto(b"ping", (host, port))
        return link.recv(4).decode() if answer else "sent"

def burst(host, port, number):
    # How many of so many datagrams, sent at once, are let through.
    sent = 0
    with socket.socket(family(host), socket.SOCK_DGRAM) as link:
        for _ in range(number):
            try:
                link.sendto(b"ping", (host, port))
                sent += 1
            except PermissionError:
                pass
    return sent

def flood(host, port, number, source):
    links, opened = [], 0
    for _ in range(number):
        link = socket.socket()
        link.setblocking(False)
        link.bind((source, 0))
        link.connect_ex((host, port))
        links.append(link)
    time.sleep(0.5)
    _, writable, _ = select.select([], links[:1000], [], 0)
    return len(writable)

def frame(device, text, mark=0):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as link:
        link.bind((device, 0))
        if mark:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        try:
            return link.send(bytes.fromhex(text))
        except OSError as error:
            return "refused by the kernel: " + error.strerror

def raw(host, protocol, text):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol) as link:
        if protocol == socket.IPPROTO_RAW:
            link.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        return link.sendto(bytes.fromhex(text), (host, 0))

def listen(device, seconds):
    # Every frame that comes in on a device, until the time is over.
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as link:
        link.bind((device, 3))
        print(json.dumps("ready"), flush=True)
        end, found = time.monotonic() + seconds, []
        while (left := end - time.monotonic()) > 0:
            if select.select([link], [], [], left)[0]:
                data, address = link.recvfrom(2000)
                if address[2] != socket.PACKET_OUTGOING:
                    found.append(data.hex())
        return found

def serve(tcp, udp):
    listeners = []
    for host, port in tcp:
        link = socket.create_server((host, port), family=family(host), backlog=2000)
        listeners.append(link)
    datagrams = []
    for host, port in udp:
        link = socket.socket(family(host), socket.SOCK_DGRAM)
        link.bind((host, port))
        datagrams.append(link)
    links = []
    print(json.dumps("ready"), flush=True)
    while True:
        for link in select.select(listeners + datagrams + links, [], [])[0]:
            try:
                if link in listeners:
                    links.append(link.accept()[0])
                elif link in datagrams:
                    data, sender = link.recvfrom(100)
                    link.sendto(data, sender)
                elif data := link.recv(100):
                    link.sendall(data)
                else:
                    links.remove(link)
                    link.close()
            except OSError:
                if link in links:
                    links.remove(link)
                    link.close()

try:
    print(json.dumps(globals()[sys.argv[1]](*json.loads(sys.argv[2]))), flush=True)
except (TimeoutError, ConnectionError, PermissionError) as error:
    print(json.dumps(None), flush=True)
"""


def run(*command: str | Path, given: str | None = None) -> str:
    """Run a command that must succeed; what it prints."""
    outcome = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert not outcome.returncode, f"{' '.join(map(str, command))}: {outcome.stderr}"
    return outcome.stdout


@dataclass(slots=True)
class Space:
    """A network namespace."""

    name: str

    def within(self, *command: str | Path, user: int = ROOT, privileges: str = "") -> list[str | Path]:
        """A command line that runs in it, as a user; with a user other than root only the named privileges."""
        become: list[str | Path] = []
        if user != ROOT:
            held = [f"+{name}" for name in privileges.split()]
            become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
            become += [f"--inh-caps={','.join(held)}", f"--ambient-caps={','.join(held)}"] if held else []
        return ["ip", "netns", "exec", self.name, *become, *command]

    def act(self, what: str, *values: object, user: int = ROOT, privileges: str = "") -> object:
        """Do one thing of :data:`ACTOR` in it; ``None``: it was not let through."""
        command = (python(), "-I", "-c", ACTOR, what, json.dumps(values))
        outcome = subprocess.run(
            self.within(*command, user=user, privileges=privileges),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert outcome.stdout, outcome.stderr
        return json.loads(outcome.stdout.splitlines()[-1])

    @contextmanager
    def doing(self, what: str, *values: object, user: int = ROOT) -> Iterator[Doing]:
        """The same in the background, from its first line on."""
        command = (python(), "-I", "-c", ACTOR, what, json.dumps(values))
        with subprocess.Popen(
            self.within(*command, user=user), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                doing = Doing(process)
                doing.first = doing.line()
                yield doing
            finally:
                process.kill()

    def nft(self, text: str) -> str:
        """Load rules, or ask for them."""
        return run(*self.within("nft", "-f", "-"), given=text + "\n")

    def ip(self, words: str) -> None:
        """``ip WORDS`` in it."""
        run(*self.within("ip", *words.split()))

    def setting(self, name: str, value: str) -> None:
        """A kernel setting of it."""
        script = 'printf %s "$1" > "$0"'  # a minimal Debian has no sysctl
        run(*self.within("sh", "-c", script, f"/proc/sys/{name.replace('.', '/')}", value))


@dataclass(slots=True)
class Doing:
    """Something that goes on."""

    process: subprocess.Popen[str]
    first: object = None

    def line(self) -> object:
        """The next thing it says."""
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        assert text, "it ended"
        return json.loads(text)

    def go_on(self) -> object:
        """Let it go on; what it says then."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.line()


def python() -> str:
    """The Python that every user may run."""
    return os.path.realpath(sys.executable)


@dataclass(slots=True)
class World:
    """The three places. Each has a neighbour by a pair of virtual cables."""

    mark: str
    box: Space = field(init=False)
    hub: Space = field(init=False)
    plant: Space = field(init=False)

    def __post_init__(self) -> None:
        self.box, self.hub, self.plant = (Space(f"bsfg-{self.mark}-{name}") for name in ("box", "hub", "plant"))

    @property
    def spaces(self) -> Sequence[Space]:
        """All three."""
        return (self.box, self.hub, self.plant)

    def build(self) -> None:
        """Make namespaces, cables and addresses."""
        for space in self.spaces:
            run("ip", "netns", "add", space.name)
            space.ip("link set lo up")
            space.setting("net.ipv6.conf.default.accept_dad", "0")
            space.setting("net.ipv4.conf.all.rp_filter", "0")
            space.setting("net.ipv4.conf.default.rp_filter", "0")
        self.plug_uplink()
        self._plug("plant0", (f"{PLANT4}/24", f"{PLANT6}/64"), self.plant, "lan", PLANT_SIDE)
        self.plant.ip(f"route add default via {PLANT4}")

    def plug_uplink(self) -> None:
        """Put the uplink's port in, with its cable to the hub, its addresses and its routes."""
        self._plug("uplink0", (f"{UPLINK4}/24", f"{UPLINK6}/64"), self.hub, "wan", (f"{HUB4}/24", f"{HUB6}/64"))
        self.box.ip(f"route add default via {HUB4}")
        self.hub.ip(f"route add 10.88.0.0/24 via {UPLINK4}")

    def _plug(self, near: str, ours: Sequence[str], other: Space, far: str, theirs: Sequence[str]) -> None:
        self.box.ip(f"link add {near} type veth peer name {far} netns {other.name}")
        for space, device, addresses in ((self.box, near, ours), (other, far, theirs)):
            for address in addresses:
                space.ip(f"address add {address} dev {device}" + (" nodad" if ":" in address else ""))
            space.ip(f"link set {device} up")

    def remove(self) -> None:
        """Take everything away."""
        for space in self.spaces:
            subprocess.run(["ip", "netns", "delete", space.name], check=False, capture_output=True)


def numbered(rules: str) -> str:
    """The firewall's rules with numbers in place of the names of users that only a box has."""
    return rules.replace('"systemd-network"', str(NETWORKD)).replace('"_chrony"', str(CHRONY))
