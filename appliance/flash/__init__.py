# SPDX-License-Identifier: Apache-2.0
"""Release images: checking them, and writing them to a disk, guarded."""
