# SPDX-License-Identifier: Apache-2.0
"""Streams on a real broker: made once, limits kept up to date, epochs in their metadata, closed to everybody else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.boundary.errors import UnavailableError
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.policy import CategoryPolicy, WhenFull
from appliance.boundary.reasons import Reason
from appliance.boundary.records import LogId, Record
from appliance.brokers.config import MIB, Limits
from appliance.factlog.natsproto import publish
from appliance.factlog.streams import new_epoch, store_config
from tests.wires import PLANT, Log, island_to, real_logs, wire_to

HUB, OTHER = ZoneId("enterprise"), ZoneId("plant-b")
AUDIT, TELEMETRY = Category("audit"), Category("telemetry")
SMALL = CategoryPolicy(max_bytes=4 * MIB)
POLICIES = {AUDIT: SMALL, TELEMETRY: CategoryPolicy(WhenFull.DROP_OLDEST, max_bytes=8 * MIB, max_age_s=3600)}

FACT = Record(b"{}", {"Bsfg-Id": "a"}, subject="facts.audit.plant-a.all.press-4.x")


async def config_of(log: Log, name: str) -> dict[str, Any]:
    """A stream's configuration in the broker's own words."""
    answer = await log.wire.request_json(f"$JS.API.STREAM.INFO.{name}")
    config = answer["config"]
    assert isinstance(config, dict)
    return config


async def test_a_stream_is_as_the_decisions_want_it(tmp_path: Path) -> None:
    """Every setting that exactly-once rests on, as the broker has it."""
    async with real_logs(tmp_path, POLICIES) as log:
        await log.logs.open_store(AUDIT)
        await log.logs.open_store(TELEMETRY)
        audit, telemetry = await config_of(log, "FACTS_AUDIT"), await config_of(log, "FACTS_TELEMETRY")
        for config in (audit, telemetry):
            assert config["storage"] == "file"
            assert config["retention"] == "limits"
            assert config["deny_delete"]
            assert config["allow_atomic"]
            assert config["allow_msg_ttl"]
            assert config["allow_rollup_hdrs"]
        assert audit["subjects"] == ["log.facts.audit.plant-a.>"]
        assert audit["subject_transform"] == {"src": "log.facts.>", "dest": "facts.>"}
        assert (audit["discard"], audit["max_bytes"], audit["max_age"]) == ("new", 4 * MIB, 0)
        assert (telemetry["discard"], telemetry["max_bytes"]) == ("old", 8 * MIB)
        assert telemetry["max_age"] == 3600 * 10**9


async def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    """The epoch is the log's, not the opener's."""
    async with real_logs(tmp_path, POLICIES) as log:
        first = await log.logs.open_store(AUDIT)
        await first.append([FACT], 0)
        before = await config_of(log, "FACTS_AUDIT")
        again = await log.logs.open_store(AUDIT)
        assert again.epoch == first.epoch
        assert len(again.epoch) == 16
        assert (await again.state()).last == 1
        assert await config_of(log, "FACTS_AUDIT") == before


async def test_limits_follow_the_policy(tmp_path: Path) -> None:
    """Up and down, with the facts and the epoch kept."""
    async with real_logs(tmp_path, POLICIES) as log:
        first = await log.logs.open_store(AUDIT)
        await first.append([FACT], 0)
        for policy in (
            CategoryPolicy(max_bytes=6 * MIB),
            CategoryPolicy(WhenFull.DROP_OLDEST, max_bytes=6 * MIB),
            CategoryPolicy(WhenFull.REJECT, max_bytes=2 * MIB, max_age_s=60),
            SMALL,
        ):
            again = await log.reopened({AUDIT: policy}).open_store(AUDIT)
            config = await config_of(log, "FACTS_AUDIT")
            assert config["max_bytes"] == policy.max_bytes
            assert config["max_age"] == policy.max_age_s * 10**9
            assert config["discard"] == ("new" if policy.when_full is WhenFull.REJECT else "old")
            assert again.epoch == first.epoch
            assert (await again.state()).last == 1


async def test_what_the_broker_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    """Not 'unavailable': trying again would not help."""
    async with real_logs(tmp_path, {AUDIT: CategoryPolicy(max_bytes=64 * MIB)}, Limits(max_file_store=MIB)) as log:
        with pytest.raises(UnavailableError) as refused:
            await log.logs.open_store(AUDIT)
        assert refused.value.reason is Reason.BROKER_REFUSED
        assert "insufficient storage" in refused.value.detail


async def test_epochs_roll_for_one_reader_or_for_all(tmp_path: Path) -> None:
    """Durably: a restarted broker and a new opener see the same."""
    async with real_logs(tmp_path, POLICIES) as log:
        store = await log.logs.open_store(AUDIT)
        base = store.epoch
        assert store.epoch_for(HUB) == store.epoch_for(OTHER) == base
        own = await store.roll_epoch(HUB)
        assert own != base
        assert (store.epoch, store.epoch_for(HUB), store.epoch_for(OTHER)) == (base, own, base)
        await log.broker.kill()
        await log.broker.start()
        with trio.fail_after(5):
            await log.wire.wait_connected()
        again = await log.logs.open_store(AUDIT)
        assert (again.epoch, again.epoch_for(HUB), again.epoch_for(OTHER)) == (base, own, base)
        second = await again.roll_epoch(HUB)
        assert again.epoch_for(HUB) == second != own
        fresh = await again.roll_epoch(None)
        assert fresh not in (base, own, second)
        last = await log.logs.open_store(AUDIT)
        assert (last.epoch, last.epoch_for(HUB), last.epoch_for(OTHER)) == (fresh, fresh, fresh)


async def test_metadata_is_set_and_removed(tmp_path: Path) -> None:
    """What the broker adds of its own is not ours to show."""
    async with real_logs(tmp_path, POLICIES) as log:
        epoch = new_epoch()
        config = store_config(AUDIT, PLANT, SMALL, epoch)
        assert await log.admin.ensure(config) == {"bsfg-epoch": epoch.hex()}
        assert await log.admin.put_metadata("FACTS_AUDIT", {"a": "1", "b": "2"}) == {
            "bsfg-epoch": epoch.hex(),
            "a": "1",
            "b": "2",
        }
        assert await log.admin.put_metadata("FACTS_AUDIT", {"a": None, "c": None}) == {
            "bsfg-epoch": epoch.hex(),
            "b": "2",
        }
        with pytest.raises(UnavailableError) as refused:
            await log.admin.put_metadata("NONE", {"a": "1"})
        assert refused.value.reason is Reason.BROKER_REFUSED


async def test_forward_epochs_come_oldest_first(tmp_path: Path) -> None:
    """By when their streams were made, whatever their random ids are; those of other logs are not among them."""
    async with real_logs(tmp_path, POLICIES) as log:
        epochs = [bytes([number]) * 16 for number in (9, 3, 7, 1, 5)]
        for epoch in epochs:
            await log.logs.open_forward(LogId(HUB, AUDIT, epoch))
        await log.logs.open_forward(LogId(OTHER, AUDIT, b"2" * 16))
        await log.logs.open_forward(LogId(HUB, TELEMETRY, b"4" * 16))
        await log.logs.open_store(AUDIT)
        assert await log.logs.forward_epochs(HUB, AUDIT) == epochs
        assert await log.logs.forward_epochs(OTHER, AUDIT) == [b"2" * 16]
        assert await log.logs.forward_epochs(OTHER, TELEMETRY) == []


async def test_forward_epochs_are_found_among_many_streams(tmp_path: Path) -> None:
    """The broker lists streams in pages."""
    async with real_logs(tmp_path, POLICIES) as log:

        async def make(number: int) -> None:
            name = f"A{number}"
            config = {"name": name, "subjects": [f"other.{number}"], "storage": "memory"}
            answer = await log.wire.request_json(f"$JS.API.STREAM.CREATE.{name}", config)
            assert "error" not in answer

        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(make, number)
        await log.logs.open_forward(LogId(HUB, AUDIT, b"1" * 16))
        assert await log.logs.forward_epochs(HUB, AUDIT) == [b"1" * 16]


async def test_nothing_reaches_a_log_but_through_its_writer(tmp_path: Path) -> None:
    """Consumers see ``facts.``, the streams listen elsewhere; what is published on ``facts.>`` is for the intake."""
    async with real_logs(tmp_path, POLICIES) as log:
        store = await log.logs.open_store(AUDIT)
        forward = await log.logs.open_forward(LogId(HUB, AUDIT, b"1" * 16))
        await store.append([FACT], 0)
        await forward.append([replace(FACT, subject="facts.audit.enterprise.plant-a.erp")], 0)
        async with wire_to(log.listen) as stranger:
            for subject in (FACT.subject, "facts.audit.enterprise.plant-a.erp"):
                stranger.send(publish(subject, b"forged"))
                with pytest.raises(UnavailableError, match="nobody answers"):
                    await stranger.request(subject, b"forged")
        assert [r.subject for r in await store.read(0, 10, MIB)] == [FACT.subject]
        assert [r.subject for r in await forward.read(0, 10, MIB)] == ["facts.audit.enterprise.plant-a.erp"]


async def test_what_is_stored_stays_as_it_is(tmp_path: Path) -> None:
    """Not even the agent's own user can take a single fact out of a log."""
    async with real_logs(tmp_path, POLICIES) as log:
        store = await log.logs.open_store(AUDIT)
        await store.append([FACT], 0)
        answer = await log.wire.request_json("$JS.API.STREAM.MSG.DELETE.FACTS_AUDIT", {"seq": 1})
        assert "delete" in answer["error"]["description"]
        config = await config_of(log, "FACTS_AUDIT")
        answer = await log.wire.request_json("$JS.API.STREAM.UPDATE.FACTS_AUDIT", {**config, "deny_delete": False})
        assert "error" in answer
        assert (await store.state()).last == 1


async def test_without_a_broker_the_admin_says_so(tmp_path: Path) -> None:
    """And works again when it is back."""
    async with real_logs(tmp_path, POLICIES) as log:
        await log.broker.kill()
        with island_to(log.listen), pytest.raises(UnavailableError) as failed:
            await log.logs.forward_epochs(HUB, AUDIT)
        assert failed.value.reason is Reason.BROKER_UNAVAILABLE
        await log.broker.start()
        assert await log.logs.forward_epochs(HUB, AUDIT) == []
