# SPDX-License-Identifier: Apache-2.0
"""Budgets of addresses: a burst, then a rate; bounded in number."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from appliance.peer.rates import AddressRates, network_of


async def test_a_burst_and_then_a_rate(autojump_clock: trio.testing.MockClock) -> None:
    """One address does not spend what another has."""
    rates = AddressRates(5, 2)
    assert [rates.spend("a") for _ in range(7)] == [True] * 5 + [False] * 2
    assert rates.spend("b")
    await trio.sleep(1)
    assert [rates.spend("a") for _ in range(3)] == [True, True, False]
    await trio.sleep(1000)
    assert [rates.spend("a") for _ in range(7)] == [True] * 5 + [False] * 2


async def test_the_number_of_addresses_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    """Who asked longest ago is forgotten; who goes on asking is not."""
    rates = AddressRates(1, 0.001, addresses=10)
    assert rates.spend("greedy")
    for number in range(1000):
        rates.spend(f"other {number}")
        assert not rates.spend("greedy")
        assert len(rates._budgets) <= 10


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::"),
        ("::1", "::"),
    ],
)
def test_what_counts_as_one_address(address: str, network: str) -> None:
    """With IPv6 a whole network."""
    assert network_of(address) == network
