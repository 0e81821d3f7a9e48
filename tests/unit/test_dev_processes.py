# SPDX-License-Identifier: Apache-2.0
"""What an environment runs, in which order, and how it sees that a process is ready."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from appliance.boundary.names import ZoneId
from appliance.brokers.binary import BrokerBinary, Version
from appliance.dev.child import ChildSpec
from appliance.dev.environment import Environment
from appliance.dev.layout import (
    CONTROL_BROKER,
    ENROL,
    ENTERPRISE,
    KEEPER,
    NODE,
    PLANT,
    TPM,
    ZONES,
    KeysChoice,
    Layout,
    process_names,
)
from appliance.dev.processes import child_specs
from appliance.node.status import BoundaryStatus, BrokerStatus, StatusDocument

BROKER = BrokerBinary(Path("nats-server"), Version(2, 15, 1))


def specs(folder: Path, keys: KeysChoice) -> dict[str, ChildSpec]:
    """By name."""
    return {spec.name: spec for spec in child_specs(Environment.generate(Layout.at(folder), keys), BROKER)}


@pytest.mark.parametrize("keys", KeysChoice)
def test_every_process_has_its_place(tmp_path: Path, keys: KeysChoice) -> None:
    """All of the environment's processes, and what is done once; what each waits for is there."""
    found = specs(tmp_path, keys)
    steps = set(ENROL.values()) if keys is KeysChoice.SWTPM else set()
    assert set(found) == {*process_names(keys), *steps}
    assert {name for name, spec in found.items() if spec.once} == steps
    for spec in found.values():
        assert set(spec.after) <= set(found)


def test_local_work_waits_for_no_key(tmp_path: Path) -> None:
    """Agent and hub are started behind their brokers alone; only what proves itself waits for what proves it."""
    found = specs(tmp_path, KeysChoice.SWTPM)

    def behind(name: str) -> set[str]:
        return {name}.union(*(behind(other) for other in found[name].after))

    for zone in ZONES:
        assert not behind(NODE[zone]) & {*TPM.values(), *KEEPER.values(), *ENROL.values()}
        session = found[CONTROL_BROKER[zone]].follows
        assert [path.name for path in session] == ["control.pem"]
        assert TPM[zone] in behind(KEEPER[zone])
    assert NODE[ENTERPRISE] in behind(ENROL[PLANT])
    assert NODE[ENTERPRISE] not in behind(ENROL[ENTERPRISE])
    assert [path.name for path in found[CONTROL_BROKER[ENTERPRISE]].needs] == ["authorities.pem"]


@pytest.mark.parametrize(
    ("ready", "pid", "state", "durable", "expected"),
    [
        (True, 7, "ready", True, True),
        (False, 7, "ready", True, False),
        (True, 8, "ready", True, False),  # another process wrote it
        (False, 7, "latched", True, True),  # nothing can be served, local work can
        (False, 7, "latched", False, False),
        (False, 8, "latched", True, False),
    ],
)
async def test_a_node_is_ready(
    tmp_path: Path, *, ready: bool, pid: int, state: str, durable: bool, expected: bool
) -> None:
    """By its own word, and by nobody else's."""
    spec = specs(tmp_path, KeysChoice.SWTPM)[NODE[ENTERPRISE]]
    folder = spec.volatile[0].parent
    folder.mkdir(parents=True)
    assert not await spec.ready(7)
    document = StatusDocument("hub", ZoneId("enterprise"), "1", pid, ready, "normal", 0, 0, 0, "swtpm")
    boundary, broker = BoundaryStatus(state=state), BrokerStatus(connected=True, durable=durable)
    replace(document, boundary=boundary, broker=broker).write(folder)
    assert await spec.ready(7) is expected
