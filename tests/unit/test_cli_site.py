# SPDX-License-Identifier: Apache-2.0
"""``bsfg site``: from nothing to a configuration in force, as a newcomer does it, and what is refused on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from appliance.cli.main import cli
from appliance.site.describe import flat
from appliance.site.reading import read_site
from tests import sites

PASSPHRASE = "correct horse battery"


def run(*arguments: object, fails: int = 0) -> str:
    """Run ``bsfg``. :returns: what it printed, errors included."""
    result = CliRunner().invoke(cli, [str(each) for each in arguments])
    assert result.exit_code == fails, result.output
    return result.output


def run_json(*arguments: object) -> dict[str, Any]:
    """Run ``bsfg`` for a program."""
    found = json.loads(run(*arguments, "--output", "json"))
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An operator's folder: keys, the hub's CA, a passphrase in a file."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "pass").write_text(f"{PASSPHRASE}\n")
    for name in ("signer", "stranger", "one", "two"):
        run("operator", "keys", "new", folder / name, "--passphrase-file", folder / "pass")
    (folder / "hub-ca.pem").write_text(sites.authority("hub"))
    (folder / "site-ca.pem").write_text(sites.authority("site"))
    return folder


def new(desk: Path, out: Path, *more: object) -> Path:
    """A document to start with."""
    trust = ("--hub-ca", desk / "hub-ca.pem", "--operator", desk / "one.pub", "--operator", desk / "two.pub")
    run("site", "new", "--out", out, *trust, *more)
    return out


def signed(desk: Path, file: Path, by: str = "signer") -> Path:
    """Sign a document."""
    out = file.with_suffix(f".{by}.toml")
    run("site", "sign", file, "--key", desk / by, "--passphrase-file", desk / "pass", "--out", out)
    return out


START = ("--zone", "plant-a", "--hub", "enterprise", "--host", "Hub.example.com", "--mac", "00-00-5E-00-53-01")


def test_a_newcomer_comes_to_a_configuration_in_force(desk: Path, tmp_path: Path) -> None:
    """new, check, sign, import, show, change, import again."""
    file = new(desk, tmp_path / "site.toml", *START, "--dns", "192.0.2.53")
    assert "# Check it with" in file.read_text()
    assert "site_unsigned" in run("site", "check", file)
    ready = signed(desk, file)
    checked = run_json("site", "check", ready)
    assert checked["state"]["signature"].startswith("good, by key ")
    assert checked["values"]["hub.host"] == "hub.example.com"
    assert [each["port"] for each in checked["egress"] if each["purpose"] == "hub"] == [8443, 8444, 7422]

    state = tmp_path / "state"
    assert "dry run" in run("site", "import", ready, "--state", state, "--dry-run")
    assert not state.exists()
    assert run_json("site", "import", ready, "--state", state)["outcome"] == "first"
    assert run_json("site", "import", ready, "--state", state)["outcome"] == "same"
    assert "hub.example.com" in run("site", "show", "--state", state)

    file.write_text(file.read_text().replace("version = 1 ", "version = 2 ").replace("# mtu = 1500", "mtu = 1400"))
    newer = signed(desk, file)
    planned = run_json("site", "import", newer, "--state", state, "--dry-run")
    assert planned["changes"] == [
        {"field": "site.version", "old": "1", "new": "2"},
        {"field": "interfaces.uplink.mtu", "old": "-", "new": "1400"},
    ]
    assert planned["trial"]
    assert "on trial: without contact" in run("site", "import", newer, "--state", state)
    assert 0 < float(run_json("site", "show", "--state", state)["state"]["on trial, seconds left"]) <= 600


def test_what_is_refused(desk: Path, tmp_path: Path) -> None:
    """With exit code and reason; the state says it to whoever looks later."""
    state = tmp_path / "state"
    file = new(desk, tmp_path / "site.toml", *START, "--dns", "192.0.2.53")
    assert "has no site configuration" in run("site", "show", "--state", state, fails=2)
    assert "site_unsigned" in run("site", "import", file, "--state", state, fails=4)
    first = signed(desk, file)
    old = first.read_bytes()
    run("site", "import", first, "--state", state)
    file.write_text(file.read_text().replace("version = 1 ", "version = 2 "))
    assert "site_foreign" in run("site", "import", signed(desk, file, "stranger"), "--state", state, fails=4)
    assert "site_foreign" in run("site", "show", "--state", state)
    run("site", "import", signed(desk, file), "--state", state)
    (tmp_path / "old.toml").write_bytes(old)
    assert "site_rollback" in run("site", "import", tmp_path / "old.toml", "--state", state, fails=4)

    file.write_text(file.read_text().replace('"dhcp"', '"dhpc"'))
    said = run("site", "check", file, fails=1)
    line = next(number for number, text in enumerate(file.read_text().split("\n"), 1) if "dhpc" in text)
    assert f"site.toml:{line}: [interfaces.uplink.ipv4] mode 'dhpc' is not one of them; allowed:" in said
    arguments = ("--key", desk / "signer", "--passphrase-file", desk / "pass", "--out", tmp_path / "x.toml")
    assert "bad_site" in run("site", "sign", file, *arguments, fails=1)
    assert not (tmp_path / "x.toml").exists()


def test_wrong_answers(desk: Path, tmp_path: Path) -> None:
    """Options that make no document, and a file that is never overwritten."""
    file = new(desk, tmp_path / "site.toml", *START)
    for options, says in (
        (("--zone", "a", "--hub", "b"), "--host is missing"),
        (("--zone", "A", "--hub", "b", "--host", "c"), "bad_name"),
        (("--zone", "a", "--hub", "b", "--host", "c:1"), "no scheme and no port"),
        (("--zone", "a", "--hub", "b", "--host", "c", "--mac", "x"), "not six bytes in hex"),
        (("--zone", "a", "--hub", "b", "--host", "c", "--hub-ca", desk / "hub-ca.pem"), "@OPERATOR_1@"),
        ((*START, "--hub-ca", desk / "one.pub"), "for @HUB_CA@"),
        (("--from", tmp_path / "none"), "No such file"),
    ):
        out = tmp_path / "wrong.toml"
        result = CliRunner().invoke(cli, ["site", "new", "--out", str(out), *map(str, options)])
        assert result.exit_code != 0
        assert says in result.output
        assert not out.exists()
    assert "File exists" in run("site", "new", *START, "--out", file, fails=2)


@pytest.mark.parametrize("name", sites.NAMES)
def test_examples_are_filled_as_they_say(desk: Path, tmp_path: Path, name: str) -> None:
    """By the command in their heads; what comes out is valid, and has no marker left."""
    example = sites.EXAMPLES / f"{name}.toml"
    command = next(line for line in example.read_text("utf-8").splitlines() if "bsfg site new" in line)
    ca = ("--site-ca", desk / "site-ca.pem") if "--site-ca" in command else ()
    assert ("@SITE_CA@" in example.read_text("utf-8")) == bool(ca)
    out = new(desk, tmp_path / "mine.toml", "--from", example, *ca)
    filled = read_site(out.read_bytes(), name)
    same = {field: value for field, value in flat(filled).items() if not field.startswith("trust.")}
    assert same == {k: v for k, v in flat(sites.config(name)).items() if not k.startswith("trust.")}
    run("site", "check", out)


def test_a_template_without_keys_says_what_is_missing(tmp_path: Path) -> None:
    """It can be written without any file; the check names the line of the first marker."""
    run("site", "new", *START, "--out", tmp_path / "site.toml")
    assert "hub_ca '@HUB_CA@': not one PEM certificate" in run("site", "check", tmp_path / "site.toml", fails=1)
