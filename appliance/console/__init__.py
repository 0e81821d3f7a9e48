# SPDX-License-Identifier: Apache-2.0
"""What a person in front of a box sees on its screen and serial line."""
