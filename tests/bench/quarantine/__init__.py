# SPDX-License-Identifier: Apache-2.0
"""How long a box that is tampered with goes on speaking: from the tampering to the last frame on its uplink."""
