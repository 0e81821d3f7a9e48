# SPDX-License-Identifier: Apache-2.0
"""The tools: a minimal Debian 13 root, so that a build is the same on Debian 12 and 13, and needs nothing installed.

Programs run in it behind ``pivot_root``, not ``chroot``: mkosi's sandbox makes user namespaces, which the kernel
refuses in a chroot.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tools.image.errors import BuildError
from tools.image.mirror import SUITE, Mirror, apt_settings
from tools.image.places import Places

PACKAGES: Final = (
    "apt",
    "bubblewrap",
    "ca-certificates",
    "cpio",
    "cryptsetup-bin",
    "debian-archive-keyring",
    "diffoscope-minimal",
    "dosfstools",
    "e2fsprogs",
    "erofs-utils",
    "faketime",
    "fdisk",
    "gcc",
    "gpgv",
    "jq",
    "kmod",
    "libc6-dev",
    "libtss2-dev",
    "mkosi",
    "mtools",
    "openssl",
    "pkg-config",
    "python3-cryptography",
    "python3-dev",
    "python3-pefile",
    "python3-pip",
    "python3-venv",
    "sbsigntool",
    "sqv",
    "systemd",
    "systemd-boot",
    "systemd-boot-efi",
    "systemd-boot-tools",
    "systemd-container",
    "systemd-cryptsetup",
    "systemd-repart",
    "systemd-ukify",
    "uidmap",
    "zstd",
)
_MARK: Final = "etc/bsfg-tools"
_ENTER: Final = Path(__file__).with_name("enter.sh")
_PASSED_ON: Final = ("PIP_", "SSL_CERT", "REQUESTS_CA", "http", "HTTP", "no_proxy", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class ToolsTree:
    """The tools of one checkout. :param binds: folders of the machine that are seen in it, at the same path."""

    root: Path
    binds: tuple[Path, ...] = field(default=())

    @classmethod
    def ready(cls, places: Places, mirror: Mirror) -> ToolsTree:
        """The tools, made if they are not there yet (half a minute). :raises BuildError: they cannot be made."""
        key = hashlib.sha256(repr((PACKAGES, SUITE)).encode()).hexdigest()
        mark = places.tools / _MARK
        if not mark.is_file() or mark.read_text("utf-8") != key:
            _make(places, mirror)
            mark.write_text(key, "utf-8")
        return cls(places.tools, places.seen)

    def run(
        self, argv: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str] | None = None, log: Path | None = None
    ) -> None:
        """Run a program in the tree as root of it. :raises BuildError: it failed; its last lines are in the message."""
        outcome = subprocess.run(
            self.command(argv, cwd),
            env=self._environment(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if log is not None:
            log.write_bytes(outcome.stdout)
        if outcome.returncode:
            last = outcome.stdout.decode("utf-8", "replace").splitlines()[-30:]
            raise BuildError(f"{Path(argv[0]).name} failed ({outcome.returncode}):\n" + "\n".join(last))

    def output(self, argv: Sequence[str | Path], *, cwd: Path) -> str:
        """What a program prints. :raises BuildError: it failed."""
        outcome = subprocess.run(self.command(argv, cwd), env=self._environment(None), capture_output=True, check=False)
        if outcome.returncode:
            raise BuildError(f"{Path(argv[0]).name} failed: {outcome.stderr.decode('utf-8', 'replace')}")
        return outcome.stdout.decode("utf-8")

    def command(self, argv: Sequence[str | Path], cwd: Path) -> list[str]:
        """The command that runs ``argv`` in the tree."""
        binds = [part for path in self.binds for part in ("--bind", str(path))]
        user = [] if os.geteuid() == 0 else ["--user", "--map-auto", "--map-root-user"]
        enter = [
            "unshare",
            *user,
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "bash",
            str(_ENTER),
            str(self.root),
            *binds,
        ]
        return [*enter, "--chdir", str(cwd), "--", *map(str, argv)]

    @staticmethod
    def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
        """Nothing of the machine's but how packages are reached."""
        passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {**passed, "PATH": path, "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb", **(extra or {})}


def _make(places: Places, mirror: Mirror) -> None:
    if shutil.which("mmdebstrap") is None:
        raise BuildError("mmdebstrap is missing", "run 'tools/image/setup.sh', which installs it")
    shutil.rmtree(places.tools, ignore_errors=True)
    places.build.mkdir(parents=True, exist_ok=True)
    sources = places.build / "tools.sources.list"
    sources.write_text(mirror.lines(), "utf-8")
    options = [f"--aptopt={line}" for line in apt_settings().splitlines() if line]
    mode = "root" if os.geteuid() == 0 else "unshare"
    command = ["mmdebstrap", "--quiet", "--variant=apt", f"--mode={mode}", *options, f"--include={','.join(PACKAGES)}"]
    outcome = subprocess.run(
        [*command, SUITE, str(places.tools), str(sources)], capture_output=True, text=True, check=False
    )
    if outcome.returncode:
        raise BuildError(f"the tools could not be installed:\n{outcome.stderr[-3000:]}", "see whether apt works here")
    _take_certificates(places.tools)


def _take_certificates(root: Path) -> None:
    """The machine's own certificate authorities and pip settings: package indexes are reached as from outside."""
    for name in ("etc/ssl/certs/ca-certificates.crt", "etc/pip.conf", "etc/resolv.conf"):
        if (Path("/") / name).is_file():
            shutil.copyfile(Path("/") / name, root / name)
