"""Both engines and the slow reference agree on random walks over the whole API."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

import fastonline as fo
from fastonline.testing.geometries import SMALL_64, SMALL_64K, SMALL_BORDERS, SMALL_BORDERS_PAE, SMALL_ORDER_7, SMALL_PAE
from fastonline.testing.walk import Walk

# 2.6.25 with memory blocks of several sections, which came with 2.6.39: what is known of a block there is its own state only.
UNAWARE = replace(fo.LINUX_2_6_25, large_blocks=True)

WALKS = [
    (SMALL_64, fo.LINUX_6_12, 1, 80),
    (SMALL_64, fo.LINUX_6_12, 2, 40),
    (SMALL_64, fo.LINUX_6_12, 4, 40),
    (SMALL_64, fo.LINUX_6_1, 1, 40),
    (SMALL_64, fo.LINUX_2_6_25, 1, 60),
    (SMALL_64, UNAWARE, 2, 30),
    (SMALL_PAE, fo.LINUX_2_6_25, 1, 60),
    (SMALL_PAE, fo.LINUX_6_1, 2, 30),
    (SMALL_ORDER_7, fo.LINUX_6_12, 1, 60),
    (SMALL_ORDER_7, fo.LINUX_2_6_25, 1, 30),
    (SMALL_64K, fo.LINUX_6_12, 1, 6),
    (SMALL_BORDERS, fo.LINUX_6_12, 1, 40),
    (SMALL_BORDERS, fo.LINUX_2_6_25, 1, 30),
    (SMALL_BORDERS_PAE, fo.LINUX_2_6_25, 1, 40),
    (SMALL_BORDERS_PAE, fo.LINUX_6_1, 2, 20),
]


@pytest.mark.parametrize("geometry, rules, sections, examples", WALKS, ids=[f"{g.name}-{r.name}-{n}" for g, r, n, _ in WALKS])
def test_engines_and_reference_agree(geometry, rules, sections, examples):
    """sections: of a memory block."""
    walk = type(f"{geometry.name}_{rules.name}_{sections}", (Walk,), {
        "geometry": geometry, "kernel": rules, "sections_per_block": sections})
    run_state_machine_as_test(walk, settings=settings(max_examples=examples, stateful_step_count=30))
