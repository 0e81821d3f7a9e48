# SPDX-License-Identifier: Apache-2.0
"""Prove that a broker writes to disk before it acknowledges, by asking the broker itself.

A user of the system account sends :data:`REQUEST` with no body and hands the answer to :func:`parse_jsz`; which client
carries the request does not matter. What the broker runs with is proven so, not what its configuration file says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.brokers.binary import MINIMUM, Version

REQUEST: Final = "$SYS.REQ.SERVER.PING.JSZ"
"""The subject to ask on, as a user of the system account."""
_NANOSECONDS: Final = 1e9


@dataclass(frozen=True, slots=True)
class BrokerReport:
    """What a broker says about itself: identity, version, JetStream on or off, when it writes to disk, its bounds."""

    server_id: str
    server_name: str
    version: str
    jetstream: bool
    sync_always: bool
    sync_interval_s: float
    store_dir: str
    max_file_store: int
    max_memory_store: int
    domain: str


def parse_jsz(answer: bytes) -> BrokerReport:
    """Read the broker's answer to :data:`REQUEST`.

    nats-server leaves out what is false or zero; so ``sync_always`` that is not there is off, never assumed.

    :raises UnavailableError: ``broker_not_durable``: the answer is an error or not of the expected form.
    """
    try:
        document = json.loads(answer)
        server, data = _table(document, "server"), _table(document, "data")
        config = _table(data, "config")
        return BrokerReport(
            server_id=_text(server, "id"),
            server_name=_text(server, "name"),
            version=_text(server, "ver"),
            jetstream=data.get("disabled") is not True and bool(config.get("store_dir")),
            sync_always=config.get("sync_always") is True,
            sync_interval_s=_number(config, "sync_interval") / _NANOSECONDS,
            store_dir=str(config.get("store_dir", "")),
            max_file_store=_number(config, "max_storage"),
            max_memory_store=_number(config, "max_memory"),
            domain=str(config.get("domain", "")),
        )
    except ValueError as error:
        text = answer[:200].decode(errors="replace")
        raise UnavailableError(Reason.BROKER_NOT_DURABLE, f"it did not tell ({error}): {text}") from error


def require_durable(report: BrokerReport) -> None:
    """Refuse a broker that is too old or acknowledges before it has written.

    :raises UnavailableError: ``broker_too_old``, ``broker_not_durable``.
    """
    version = Version.parse(report.version)
    if version is None or version < MINIMUM:
        raise UnavailableError(
            Reason.BROKER_TOO_OLD, f"{report.server_name} runs {report.version}, at least {MINIMUM} is needed"
        )
    if not report.jetstream:
        raise UnavailableError(Reason.BROKER_NOT_DURABLE, f"{report.server_name} runs without JetStream")
    if not report.sync_always:
        raise UnavailableError(
            Reason.BROKER_NOT_DURABLE, f"{report.server_name} writes to disk every {report.sync_interval_s:g} s only"
        )


def _table(table: Any, name: str) -> dict[str, Any]:
    value = table.get(name) if isinstance(table, dict) else None
    if not isinstance(value, dict):
        raise ValueError(f"no {name}")
    return value


def _text(table: dict[str, Any], name: str) -> str:
    value = table.get(name)
    if not isinstance(value, str):
        raise ValueError(f"no {name}")
    return value


def _number(table: dict[str, Any], name: str) -> int:
    value = table.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name} is no number")
    return value
