# SPDX-License-Identifier: Apache-2.0
"""The thread that owns the TPM, with something in the TPM's place that can hang, vanish and come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import trio

from appliance.boundary.errors import DeniedError, IntegrityError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.keys.keeper.worker import LEFT_BEHIND, Worker

DEADLINE_S = 0.15
"""For tests in which it runs out."""
PATIENT_S = 10.0


class Tpm:
    """What is opened; how often, and what it does, the test says."""

    def __init__(self) -> None:
        self.opened = 0
        self.closed = 0
        self.absent = False
        self.hangs = threading.Event()
        self.hangs.set()
        self.threads: set[int] = set()

    def open(self, still_wanted: Callable[[], None]) -> Tpm:
        """As the worker wants it."""
        if self.absent:
            raise UnavailableError(Reason.TPM_ABSENT, "unplugged")
        self.hangs.wait()
        still_wanted()
        self.opened += 1
        return self

    def close(self) -> None:
        """Count."""
        self.closed += 1

    def work(self) -> int:
        """One command."""
        self.threads.add(threading.get_ident())
        self.hangs.wait()
        return 42


@pytest.fixture
def tpm() -> Iterator[Tpm]:
    """Whatever the test did to it, no thread stays behind."""
    tpm = Tpm()
    yield tpm
    tpm.hangs.set()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it."""
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - threads end without an event
            await trio.sleep(0.01)


async def test_all_jobs_run_in_one_thread_one_after_the_other(tpm: Tpm) -> None:
    """It is opened when first needed, and closed at the end."""
    worker = Worker(tpm.open, PATIENT_S)
    under_way: list[int] = []

    def alone(resource: Tpm) -> int:
        under_way.append(1)
        time.sleep(0.002)
        assert len(under_way) == 1
        under_way.pop()
        return resource.work()

    results: list[int] = []

    async def ask() -> None:
        results.append(await worker.run(alone))

    assert not worker.connected
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
    assert results == [42] * 20
    assert (tpm.opened, len(tpm.threads), worker.connected) == (1, 1, True)
    await worker.close()
    assert tpm.closed == 1


async def test_an_error_of_the_job_is_the_callers_and_the_connection_stays(tpm: Tpm) -> None:
    """What was refused is not tried again."""
    worker = Worker(tpm.open, PATIENT_S)
    calls = []

    def refused(_: Tpm) -> None:
        calls.append(1)
        raise DeniedError(Reason.TPM_REFUSED, "policy")

    for _ in range(3):
        with pytest.raises(DeniedError, match="tpm_refused"):
            await worker.run(refused)
    assert (len(calls), tpm.opened) == (3, 1)
    await worker.close()


async def test_a_lost_connection_is_opened_again_once(tpm: Tpm) -> None:
    """As after a reset; a job that loses it again has failed."""
    worker = Worker(tpm.open, PATIENT_S)
    await worker.run(Tpm.work)
    lose = [IntegrityError(Reason.TPM_FAULT, "session unknown")]

    def job(resource: Tpm) -> int:
        if lose:
            raise lose.pop()
        return resource.work()

    assert await worker.run(job) == 42
    assert (tpm.opened, tpm.closed) == (2, 1)
    lose = [IntegrityError(Reason.TPM_FAULT, "1"), IntegrityError(Reason.TPM_FAULT, "2")]
    with pytest.raises(IntegrityError):
        await worker.run(job)
    assert await worker.run(job) == 42
    await worker.close()
    assert tpm.opened == tpm.closed


async def test_an_absent_tpm_is_not_tried_all_the_time(tpm: Tpm) -> None:
    """Calls fail at once between attempts, and work again when it is back."""
    worker = Worker(tpm.open, PATIENT_S)
    tpm.absent = True
    for _ in range(50):
        with pytest.raises(UnavailableError, match=r"tpm_absent.*unplugged"):
            await worker.run(Tpm.work)
    tpm.absent = False
    with pytest.raises(UnavailableError, match="unplugged"):
        await worker.run(Tpm.work)
    await trio.sleep(0.25)
    assert await worker.run(Tpm.work) == 42
    await worker.close()


async def test_a_tpm_that_hangs_hangs_nobody(tpm: Tpm) -> None:
    """Each call ends in its time; a few threads wait, no more; they go when the TPM answers at last."""
    worker = Worker(tpm.open, DEADLINE_S)
    await worker.run(Tpm.work)
    tpm.hangs.clear()
    before = threading.active_count()
    with trio.fail_after(10):
        for _ in range(3 * LEFT_BEHIND):
            started = trio.current_time()
            with pytest.raises(UnavailableError, match="tpm_absent"):
                await worker.run(Tpm.work)
            assert trio.current_time() - started < 2
            await trio.sleep(0.3)
    assert threading.active_count() - before < LEFT_BEHIND
    assert not worker.connected
    tpm.hangs.set()
    await until(lambda: threading.active_count() < before)
    assert (tpm.opened, tpm.closed) == (1, 1)
    with trio.fail_after(10):
        while True:
            try:
                assert await worker.run(Tpm.work) == 42
                break
            except UnavailableError:
                await trio.sleep(0.1)
    await worker.close()


async def test_others_do_not_wait_for_ever_behind_a_slow_call(tpm: Tpm) -> None:
    """They hear that the TPM is busy; the slow call has the time it was given."""
    worker = Worker(tpm.open, DEADLINE_S)
    outcomes: list[object] = []

    def slowly(resource: Tpm) -> int:
        time.sleep(0.4)
        return resource.work()

    async def slow() -> None:
        outcomes.append(await worker.run(slowly, deadline_s=2))

    async def quick() -> None:
        await trio.sleep(0.02)
        with pytest.raises(UnavailableError, match="tpm_busy"):
            await worker.run(Tpm.work)
        outcomes.append("busy")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow)
        nursery.start_soon(quick)
    assert outcomes == ["busy", 42]
    await worker.close()


async def test_a_caller_that_leaves_does_not_leave_its_command_behind(tpm: Tpm) -> None:
    """The next caller gets the answer to its own, on a connection of its own."""
    worker = Worker(tpm.open, PATIENT_S)
    await worker.run(Tpm.work)
    with trio.move_on_after(0.01) as scope:
        await worker.run(lambda _: time.sleep(0.1))
    assert scope.cancel_called
    assert await worker.run(Tpm.work) == 42
    await worker.close()
    assert (tpm.opened, tpm.closed) == (2, 2)
