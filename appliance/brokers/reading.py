# SPDX-License-Identifier: Apache-2.0
"""What a reader may ask of JetStream through the readers' desk: the rules, without any connection.

A consumer's deliver subject is free text inside the request, so no permission of the broker can bound it. A push
consumer that is updated, or that is there when the broker restarts, delivers into a stream that listens on that subject
(tried on nats-server 2.15.1: facts stood in another category's log, past the intake). So the request is read, checked
and written anew here; what is not understood does not pass, since the broker may read it differently (it takes field
names in any case, and of a repeated one the last).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason

DESK: Final = "desk."
"""What stands in the agent's account in place of ``$JS.API.`` for what the desk answers."""
NAMES: Final = "STREAM.NAMES"
AT_THE_DESK: Final = ("CONSUMER.CREATE.>", "CONSUMER.DURABLE.CREATE.*.*", NAMES)
"""The requests of JetStream's API that readers send to the desk, without knowing it."""
MAX_REQUEST_BYTES: Final = 64 * 1024

_REQUEST_FIELDS: Final = frozenset({"stream_name", "config", "action", "pedantic"})
_CONFIG_FIELDS: Final = frozenset(
    {
        "ack_policy", "ack_wait", "backoff", "deliver_group", "deliver_policy", "deliver_subject", "description",
        "durable_name", "filter_subject", "filter_subjects", "flow_control", "headers_only", "idle_heartbeat",
        "inactive_threshold", "max_ack_pending", "max_batch", "max_bytes", "max_deliver", "max_expires", "max_waiting",
        "mem_storage", "metadata", "name", "num_replicas", "opt_start_seq", "opt_start_time", "pause_until",
        "priority_groups", "priority_policy", "priority_timeout", "rate_limit_bps", "replay_policy", "sample_freq",
    }
)  # fmt: skip
_INBOX = re.compile(r"_INBOX(?:\.[A-Za-z0-9_-]{1,64}){1,4}")


def consumer_request(payload: bytes) -> bytes:
    """A request to create or update a consumer, checked and written anew.

    :raises RefusedError: ``too_large``, ``malformed_json``, ``unknown_field``, ``wrong_type``, ``bad_request`` (it
        wants to deliver to something that is not an inbox).
    """
    request = _object(payload)
    config = request.get("config")
    if not isinstance(config, dict):
        raise RefusedError(Reason.WRONG_TYPE, "config is not an object")
    _only(request, _REQUEST_FIELDS)
    _only(config, _CONFIG_FIELDS)
    deliver = config.get("deliver_subject")
    if deliver not in (None, "") and not (isinstance(deliver, str) and _INBOX.fullmatch(deliver)):
        raise RefusedError(Reason.BAD_REQUEST, "a consumer delivers to _INBOX.<token> only")
    return json.dumps(request, separators=(",", ":")).encode()


def wanted_subject(payload: bytes) -> str | None:
    """The subject that a request for stream names asks for, if any. :raises RefusedError: as above."""
    if not payload:
        return None
    subject = _object(payload).get("subject")
    if subject is not None and not isinstance(subject, str):
        raise RefusedError(Reason.WRONG_TYPE, "subject is not a text")
    return subject or None


def streams_with(subject: str, streams: Iterable[tuple[str, Iterable[str]]]) -> list[str]:
    """The streams in which messages of a subject may stand, sorted by name.

    :param streams: each stream's name with what it listens on. Ours listen on ``log.…facts.…`` and keep ``facts.…``, so
        a reader's ``facts.operational.>`` would find none by the broker's own rule.
    """
    return sorted(
        name for name, subjects in streams if any(collide(subject, kept) for kept in map(_kept, subjects) if kept)
    )


def collide(one: str, other: str) -> bool:
    """Whether two subjects, with or without wildcards, have a subject in common."""
    left, right = one.split("."), other.split(".")
    for a, b in zip(left, right, strict=False):
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return len(left) == len(right)


def _kept(subject: str) -> str | None:
    """The subject under which a stream keeps what it hears on ``subject``; none for what is not facts."""
    tokens = subject.split(".")
    return ".".join(tokens[tokens.index("facts") :]) if "facts" in tokens else None


def _object(payload: bytes) -> dict[str, Any]:
    if len(payload) > MAX_REQUEST_BYTES:
        raise RefusedError(Reason.TOO_LARGE, f"a request may have {MAX_REQUEST_BYTES} bytes")
    try:
        request = json.loads(payload, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RefusedError(Reason.MALFORMED_JSON, str(error)) from error
    if not isinstance(request, dict):
        raise RefusedError(Reason.WRONG_TYPE, "the request is not an object")
    return request


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a field stands twice")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _only(values: dict[str, Any], allowed: frozenset[str]) -> None:
    for name in values:
        if name not in allowed:
            raise RefusedError(Reason.UNKNOWN_FIELD, name[:64])
