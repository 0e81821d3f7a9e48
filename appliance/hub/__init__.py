# SPDX-License-Identifier: Apache-2.0
"""The hub of the enterprise zone: the same runtime, and the server that peers dial."""
