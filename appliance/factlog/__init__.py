# SPDX-License-Identifier: Apache-2.0
"""The ports' substrate: JetStream pages over a trio wire client, intake for producers, the SQLite ledger."""
