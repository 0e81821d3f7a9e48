# SPDX-License-Identifier: Apache-2.0
"""The linters are tests: one command, one report."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests import processes

LIMIT_S: Final = 540.0
"""For one linter. mypy with an empty cache takes half a minute of a processor, which on a busy machine is minutes."""
pytestmark = pytest.mark.time_limit(LIMIT_S)

FindTool = Callable[[str], str]


def run(root: Path, *command: str | Path) -> None:
    """Run a linter at the top of the checkout; what it prints is the failure's text."""
    outcome = processes.run(command, cwd=root, limit_s=LIMIT_S - 20)
    if outcome.returncode:
        pytest.fail(f"{Path(command[0]).name} found something:\n{outcome.stdout}{outcome.stderr}", pytrace=False)


def test_python_is_formatted(root: Path, find_tool: FindTool) -> None:
    """``ruff format`` mends it."""
    run(root, find_tool("ruff"), "format", "--check", "--output-format", "concise", ".")


def test_python_is_clean(root: Path, find_tool: FindTool) -> None:
    """``ruff check --fix`` mends part of it."""
    run(root, find_tool("ruff"), "check", "--quiet", "--output-format", "concise", ".")


@pytest.mark.parametrize("version", ["3.11", "3.13"])
def test_types_agree(version: str, root: Path, find_tool: FindTool) -> None:
    """With the oldest and the newest Python that a supported Debian has."""
    run(root, find_tool("mypy"), "--python-version", version)


def test_words_are_spelled_right(root: Path, repository_files: list[Path], find_tool: FindTool) -> None:
    """Names that look like mistakes are listed in pyproject.toml."""
    run(root, find_tool("codespell"), *repository_files)


def test_shell_scripts_are_clean(root: Path, repository_files: list[Path], find_tool: FindTool) -> None:
    """Whatever starts as a shell script is one, whatever its name."""
    scripts = [
        path for path in repository_files if path.read_bytes().startswith((b"#!/usr/bin/env bash", b"#!/bin/sh"))
    ]
    assert root / ".ci/run" in scripts
    run(root, find_tool("shellcheck"), "--external-sources", *scripts)


def test_locked_packages_fit_together(root: Path) -> None:
    """They are installed one by one as locked, so that pip itself never asks."""
    run(root, sys.executable, "-m", "pip", "--disable-pip-version-check", "check")


def test_contract_is_clean(root: Path, find_tool: FindTool) -> None:
    """The protobuf contract keeps buf's standard rules."""
    run(root, find_tool("buf"), "lint")


def test_generated_code_is_current(root: Path, tmp_path: Path, find_tool: FindTool) -> None:
    """``make proto`` mends it."""
    find_tool("python-grpc-tools-protoc")
    run(root, sys.executable, root / "tools/generate_proto.py", tmp_path)
    fresh = sorted(tmp_path.rglob("*_pb2.*"))
    assert fresh
    for generated in fresh:
        committed = root / "appliance/boundary/proto" / generated.relative_to(tmp_path)
        assert committed.read_bytes() == generated.read_bytes(), f"{committed} is not what its source says: make proto"
