# SPDX-License-Identifier: Apache-2.0
"""The probes: small modules, each looks at one thing and says what it saw; none decides."""
