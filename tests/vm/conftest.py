# SPDX-License-Identifier: Apache-2.0
"""What tests of the image share: the image, a golden box and hub, and copies of them to be hurt."""
