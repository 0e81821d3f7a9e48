# SPDX-License-Identifier: Apache-2.0
"""Status documents of services that are no node: a JSON object with who wrote it and when, replaced atomically.

They share one folder, in which every service writes under its own user: a document can be read by the folder's group,
and the name of the file that becomes it cannot be guessed, so nobody can put something in its way.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from appliance.boundary.errors import BsfgError
from appliance.keys.files import GROUP, replace_file
from appliance.node.status import SCHEMA, hint_of

_log: Final = logging.getLogger(__name__)


def write_status(folder: Path, name: str, values: Mapping[str, Any]) -> None:
    """Replace a service's document. A full disk stops the reports, not the work. Blocking."""
    document = {
        "schema": SCHEMA,
        "name": name,
        "pid": os.getpid(),
        "updated_at_unix_ms": time.time_ns() // 1_000_000,
        **values,
    }
    try:
        replace_file(folder / f"{name}.json", json.dumps(document, indent=1).encode() + b"\n", GROUP)
    except OSError as error:
        _log.warning("status document %s: %s", name, error)


def problem(reason: str, detail: str, where: str = "", hint: str = "") -> dict[str, str]:
    """An entry of a document's ``problems``: the reason code, what exactly, and what to do.

    :param hint: where more is known than the reason's own hint says.
    """
    return {"reason": reason, "detail": detail, "hint": hint or hint_of(reason), "where": where}


def problem_of(error: BsfgError, where: str = "") -> dict[str, str]:
    """The entry for an error."""
    return problem(error.reason, error.detail, where)
