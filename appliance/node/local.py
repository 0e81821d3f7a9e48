# SPDX-License-Identifier: Apache-2.0
"""A zone's nats-facts from its local keys: the claims of :mod:`appliance.brokers.accounts`, signed by the operator."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from appliance.brokers.accounts import LocalRights, application_claims, facts_claims, system_claims
from appliance.brokers.config import MIB, Limits, Local, Plant, write_config
from appliance.brokers.facts import BrokerTrust, FactsBroker, connections_each
from appliance.keys.local.applications import APPLIANCE_USERS, Application
from appliance.keys.local.store import FACTS, SYSTEM, LocalKeys

BOX_LIMITS: Final = Limits(max_file_store=MIB)
"""What a box's trust is divided by: the connections. Its store is bounded in the configuration that includes it."""


def facts_broker(
    keys: LocalKeys, listen: Local | Plant, store: Path, limits: Limits, *, desk: bool = True
) -> FactsBroker:
    """The declaration of the zone's nats-facts, as the local keys are now.

    :raises RefusedError: ``bad_input``: more local applications than connections.
    """
    return FactsBroker(keys.applications().zone, listen, store, limits, broker_trust(keys, limits, desk=desk))


def broker_trust(keys: LocalKeys, limits: Limits, *, desk: bool = True) -> BrokerTrust:
    """Whom the broker lets in. An application without a good credential has no account there.

    :raises RefusedError: as :func:`facts_broker`.
    """
    now = keys.applications()
    agent, system = (now.entries[name] for name in APPLIANCE_USERS)
    facts = keys.account(FACTS)
    jwts = {
        facts.public: keys.account_jwt(FACTS, "facts", facts_claims(facts.signer.public, agent.revoked, desk=desk)),
        (at := keys.account(SYSTEM)).public: keys.account_jwt(
            SYSTEM, "system", system_claims(at.signer.public, system.revoked)
        ),
    }
    good = [(entry, reach) for entry in now.local() if (reach := keys.reach(entry)) is not None]
    connections = connections_each(limits, len(good))
    for entry, reach in good:
        claims = application_claims(
            facts.public, now.zone, rights_of(entry), reach.signer, connections, entry.revoked, desk=desk
        )
        jwts[reach.account] = keys.reach_jwt(reach, entry.name, claims)
    return BrokerTrust(keys.operator_jwt(), keys.account(SYSTEM).public, jwts)


def write_trust(keys: LocalKeys, limits: Limits = BOX_LIMITS) -> Path:
    """Write ``trust.conf`` beside the keys, for a broker's configuration that includes it; its path.

    :raises RefusedError: as :func:`facts_broker`.
    """
    path = keys.folder / "trust.conf"
    write_config(path, broker_trust(keys, limits).render())
    return path


def rights_of(entry: Application) -> LocalRights:
    """What the broker lets an application do."""
    return LocalRights(entry.name, entry.produces, entry.reads, entry.categories)
