# SPDX-License-Identifier: Apache-2.0
"""The command ``bsfg``: noun and verb, results on standard output, errors with reason and hint on standard error."""
