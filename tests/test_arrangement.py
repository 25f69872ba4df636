"""How tests are dealt to processes."""

import os

import pytest


@pytest.mark.usefixtures("cluster")
def test_a_test_that_needs_a_ray_is_marked_and_dealt_out_with_those_that_need_the_same(
    request: pytest.FixtureRequest,
) -> None:
    assert request.node.get_closest_marker("cluster") is not None
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("in one process nothing is dealt out")
    # Where xdist saw the group, which is where it is dealt out by it.
    assert request.node.nodeid.endswith("@cluster")
