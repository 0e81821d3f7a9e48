# SPDX-License-Identifier: Apache-2.0
"""Whether a folder is in memory is read from the kernel's table of mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.dev.folders import in_memory

TABLE = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /run rw,nosuid shared:2 - tmpfs tmpfs rw,size=10%
24 23 0:22 / /run/disk rw - ext4 /dev/vdb rw
25 22 0:23 / /a\\040b rw - tmpfs tmpfs rw
26 22 0:24 / /twice rw - tmpfs tmpfs rw
27 22 0:25 / /twice rw master:3 propagate_from:2 - ext4 /dev/vdc rw
"""


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/elsewhere/x", False),
        ("/run", True),
        ("/run/user/0/not/there", True),
        ("/runner", False),
        ("/run/disk/d", False),
        ("/a b/c", True),
        ("/twice/d", False),
    ],
)
def test_the_longest_and_latest_mount_decides(tmp_path: Path, folder: str, *, expected: bool) -> None:
    """Also for a folder that is not there yet, for names with blanks, and for a mount over a mount."""
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    assert in_memory(Path(folder), table) is expected


def test_this_machine() -> None:
    """``/proc`` is no memory for files, whatever else is."""
    assert not in_memory(Path("/proc/self"))
