"""The union-find: an equivalence relation with one class that absorbs."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from secateur.graph.labels import Reason, UnionFind, Value, expand_left, permute

MET, NORM = Reason("met"), Reason("normalised")
SIZE = 12
index = st.integers(0, SIZE - 1)
pairs = st.lists(st.tuples(index, index), max_size=20)


def components(links: list[tuple[int, int]]) -> list[set[int]]:
    classes = [{i} for i in range(SIZE)]
    for a, b in links:
        merged = next(c for c in classes if a in c) | next(c for c in classes if b in c)
        classes = [c for c in classes if not c & merged] + [merged]
    return classes


@given(pairs, st.lists(index, max_size=4), st.booleans())
def test_unions_and_freezes_are_an_equivalence_with_one_absorbing_class(
    links: list[tuple[int, int]], cold: list[int], freeze_first: bool
) -> None:
    sets = UnionFind()
    labels = sets.fresh(SIZE)

    def freeze() -> None:
        for i in cold:
            sets.freeze(labels[i : i + 1], NORM)

    if freeze_first:
        freeze()
    for a, b in links:
        sets.union(labels[a : a + 1], labels[b : b + 1], MET)
    if not freeze_first:
        freeze()
    found = sets.find(labels)
    for members in components(links):
        frozen = bool(members & set(cold))
        roots = {int(found[i]) for i in members}
        assert len(roots) == 1
        assert (roots == {0}) == frozen
        for i in members:
            assert sets.reason(int(labels[i])) == (NORM if frozen else None)
    live = {int(r) for r in found if r}
    assert len(live) == sum(not c & set(cold) for c in components(links))


@given(pairs)
def test_order_of_unions_does_not_matter(links: list[tuple[int, int]]) -> None:
    partitions = []
    for order in (links, links[::-1]):
        sets = UnionFind()
        labels = sets.fresh(SIZE)
        for a, b in order:
            sets.union(labels[[a]], labels[[b]], MET)
        partitions.append(sets.find(labels).tolist())
    assert partitions[0] == partitions[1]


def test_union_with_plain_zero_freezes_with_the_reason_that_is_given() -> None:
    sets = UnionFind()
    labels = sets.fresh(3)
    sets.union(labels, np.array([0, labels[1], labels[1]]), MET)
    assert sets.find(labels).tolist() == [0, labels[1], labels[1]]
    assert sets.reason(int(labels[0])) == MET
    sets.union(labels[:1], labels[1:2], NORM)
    assert sets.reason(int(labels[2])) == MET, "the first reason is the root cause"


def test_union_broadcasts() -> None:
    sets = UnionFind()
    heads, channels = sets.fresh(2), sets.fresh(6)
    sets.union(heads[:, None], channels.reshape(2, 3), MET)
    assert sets.find(channels).tolist() == [heads[0]] * 3 + [heads[1]] * 3


def test_values_move_their_fields_with_them() -> None:
    value = Value((4, 3), (np.arange(1, 4).reshape(1, 3),))
    assert expand_left(value, 3).fields[0].shape == (1, 1, 3)
    moved = permute(value, [1, 0])
    assert moved.shape == (3, 4)
    assert moved.fields[0].shape == (3, 1)
