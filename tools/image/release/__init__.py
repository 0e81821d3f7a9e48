# SPDX-License-Identifier: Apache-2.0
"""Release files: what a technician downloads, made from what mkosi left.

:func:`assemble` writes into a new folder::

    bsfg-appliance_<version>_x86-64[-<profile>].raw.zst    the image, zstandard
    bsfg-appliance_<version>_x86-64[-<profile>].bmap       which blocks of it must be written, with checksums
    bsfg-appliance_<version>_x86-64[-<profile>].spdx.json  bill of materials, SPDX 2.3
    bsfg-appliance_<version>_x86-64[-<profile>].cdx.json   bill of materials, CycloneDX 1.6
    manifest.json                                          an entry in Raspberry Pi Imager's field names
    SHA256SUMS, SHA256SUMS.sig                             checksums of all that, signed

Equal inputs give equal bytes, but for the signature.
"""

from tools.image.release.assemble import assemble
from tools.image.release.inputs import ReleaseInputs

__all__ = ["ReleaseInputs", "assemble"]
