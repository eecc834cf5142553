"""Tables of costs: every constant says where it comes from."""

import pytest

from fastonline.cost.costs import FREE, LARGE_GUESTS, NAMES, PUBLISHED, TABLES, costs_of
from fastonline.cost.strategies import STRATEGIES
from fastonline.drivers.account import CALLS
from fastonline.drivers.hypervisor import Host


def all_prices(costs):
    yield from ((f"{mechanism}.{call}", price) for mechanism, calls in costs.host.items() for call, price in calls.items())
    yield from ((f"guest.{what}", price) for what, price in costs.guest.items())


@pytest.mark.parametrize("costs", [PUBLISHED, LARGE_GUESTS], ids=lambda costs: costs.name)
def test_every_constant_has_a_source_and_assumptions_say_so(costs):
    for name, price in all_prices(costs):
        assert price.free or price.source, name
        assert price.assumed == price.source.startswith("assumption"), name


def test_seconds_of_18_gib_come_back():
    """The table has ns a page; times 18 GiB they are the published medians, in s."""
    def seconds(mechanism, call):
        price = PUBLISHED.host[mechanism][call]
        return price.frame * (18 << 18) / 1e9, (price.frame + price.touched) * (18 << 18) / 1e9

    for mechanism, call, untouched, touched in [
        ("balloon", "discard", 11.97, 20.99), ("balloon", "host_message", 8.54, 8.54), ("balloon", "touch", 17.80, 17.80),
        ("balloon-huge", "discard", 0.0695, 0.148), ("balloon-huge", "host_message", 0.0614, 0.0614),
        ("balloon-huge", "touch", 3.31, 3.31), ("shared", "discard", 0.0040, 0.0574),
        ("shared", "host_message", 0.0023, 0.0023),
        ("shared", "touch", 3.45, 3.45), ("virtio-mem", "touch", 3.44, 3.44),
    ]:
        assert seconds(mechanism, call) == pytest.approx((untouched, touched), rel=0.025), (mechanism, call)
    assert PUBLISHED.guest["alloc_page"].frame == 146


def test_nothing_costs_anything_in_the_free_table():
    assert all(price.free for _, price in all_prices(FREE))


@pytest.mark.parametrize("costs", TABLES.values(), ids=lambda costs: costs.name)
def test_every_strategy_has_prices_that_a_host_takes(costs):
    for strategy in STRATEGIES.values():
        prices = costs.prices(strategy.mechanism)
        assert set(prices) <= set(CALLS)
        assert Host("1M", call_ns=prices).prices.keys() == set(CALLS)
        assert costs.guest_prices(strategy.mechanism).keys() == PUBLISHED.guest.keys()


def test_a_figure_from_end_to_end_is_not_paid_twice():
    assert all(price.free for price in PUBLISHED.guest_prices("balloon").values())
    assert not any(price.free for price in PUBLISHED.guest_prices("xen").values())


def test_a_scenario_changes_constants_by_name():
    costs = costs_of("published", {"touch": 7, "uevent": [1, 2]})
    assert all(prices["touch"].call == 7 and not prices["touch"].assumed for prices in costs.host.values() if "touch" in prices)
    assert (costs.guest["uevent"].call, costs.guest["uevent"].frame) == (1, 2)
    assert costs.host["xen"] == PUBLISHED.host["xen"] and "touch" in NAMES
