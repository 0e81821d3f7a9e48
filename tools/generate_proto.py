# SPDX-License-Identifier: Apache-2.0
"""Generate the protobuf code from the contract: the one recipe, used by ``make proto`` and by the test that compares.

``python tools/generate_proto.py [DIRECTORY]`` writes ``bsfg/v1/bsfg_pb2.py`` and its type stub below the directory;
without one, beside their source, where they are committed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"
SOURCE = Path(__file__).resolve().parent.parent / "appliance/boundary/proto"
LICENCE = "# SPDX-License-Identifier: Apache-2.0\n"


def generate(destination: Path) -> None:
    """Generate the code of every ``.proto`` file below ``destination``.

    :raises SystemExit: protoc refused a file; it has said why on standard error.
    """
    protos = sorted(str(proto.relative_to(SOURCE)) for proto in SOURCE.rglob("*.proto"))
    outputs = [f"--{kind}_out={destination}" for kind in ("python", "pyi")]
    code = protoc.main(["protoc", f"-I{SOURCE}", f"-I{WELL_KNOWN}", *outputs, *protos])
    if code:
        raise SystemExit(code)
    for proto in protos:
        for suffix in ("_pb2.py", "_pb2.pyi"):
            generated = destination / proto.replace(".proto", suffix)
            generated.write_text(LICENCE + generated.read_text(encoding="utf-8"), encoding="utf-8")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCE)
