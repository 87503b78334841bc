"""Networks over points, graphs, tables and tokens that are routed, pruned: each does what the dense one does."""

import pytest
from stations import STATIONS, as_expected, go_through, loaded_in_a_fresh_process, pruned
from stranger_networks import SETS, Stranger


@pytest.mark.parametrize("station", STATIONS)
@pytest.mark.parametrize("stranger", SETS, ids=lambda stranger: stranger.name)
def test_it_does_what_the_dense_one_does(stranger: Stranger, station: str) -> None:
    answer = go_through(station, pruned(stranger))
    assert as_expected(station, stranger, answer), answer


def test_they_are_loaded_in_a_fresh_process() -> None:
    found = loaded_in_a_fresh_process(map(pruned, SETS))
    assert found == {stranger.name: "yes" for stranger in SETS}
