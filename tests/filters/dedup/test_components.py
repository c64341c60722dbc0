"""Forests against a plain union-find."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.dedup import components

EDGES = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), max_size=40)


def find_roots_plainly(edges):
    """{id: smallest id of its component}, for ids with an edge to another one; one edge at a time."""
    root = {}
    for edge in edges:
        for node in edge:
            root.setdefault(node, node)
        a, b = root[edge[0]], root[edge[1]]
        root = {node: min(a, b) if r in (a, b) else r for node, r in root.items()}
    members = list(root.values())
    return {node: r for node, r in root.items() if members.count(r) > 1}


def pairs(edges):
    table = np.array(edges, dtype=np.uint64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def as_dict(ids, roots):
    return dict(zip(ids.tolist(), roots.tolist(), strict=True))


@given(EDGES)
def test_components_are_those_of_plain_union_find(edges):
    ids, roots = components.list_members(*pairs(edges))
    assert as_dict(ids, roots) == find_roots_plainly(edges)
    assert (np.diff(ids.astype(np.int64)) > 0).all()


@given(EDGES, st.randoms(use_true_random=False))
def test_forest_does_not_depend_on_order_or_direction(edges, chance):
    turned = [edge if chance.random() < 0.5 else edge[::-1] for edge in edges]
    chance.shuffle(turned)
    forest, turned_forest = components.build_forest(*pairs(edges)), components.build_forest(*pairs(turned))
    assert np.array_equal(forest, turned_forest)


@given(EDGES)
def test_forest_is_canonical_and_minimal(edges):
    a, b = components.build_forest(*pairs(edges))
    expected = find_roots_plainly(edges)
    assert as_dict(b, a) == {node: r for node, r in expected.items() if node != r}
    assert np.array_equal(components.build_forest(a, b), (a, b))


@given(st.lists(EDGES, max_size=6), st.integers(0, 5), st.booleans())
def test_merges_in_any_shape_give_the_same_forest(blocks, cut, lazy):
    whole = components.build_forest(*pairs([edge for block in blocks for edge in block]))
    forests = [components.Forest().add(*pairs(block)) for block in blocks]
    if not lazy:
        for forest in forests:
            forest.reduce()
    nested = components.merge_forests([components.merge_forests(forests[:cut]), *reversed(forests[cut:])])
    assert np.array_equal(nested.reduce(), whole)
    assert np.array_equal(pickle.loads(pickle.dumps(nested)).reduce(), whole)


def test_merge_leaves_its_inputs_alone():
    forest = components.Forest().add(*pairs([(1, 2)]))
    merged = components.merge_forests([forest])
    merged.add(*pairs([(2, 3)]))
    merged.reduce()
    assert [side.tolist() for side in forest.reduce()] == [[1], [2]]


def test_accumulator_of_a_clique_stays_a_forest(monkeypatch):
    monkeypatch.setattr(components, "PENDING_PAIRS", 1000)
    forest = components.Forest()
    ids = np.arange(300, dtype=np.uint64) + np.uint64(2**63)
    for i in range(299):
        forest.add(np.full(299 - i, ids[i]), ids[i + 1 :])
        assert len(forest.a) <= 299 and forest.waiting <= 1000
    a, b = forest.reduce()
    assert (a == ids[0]).all() and np.array_equal(b, ids[1:])


def test_a_chain_is_one_component_whatever_the_order():
    links = [(i, i + 1) for i in range(5000)]
    links = [links[i] for i in np.random.default_rng(0).permutation(5000)]
    ids, roots = components.list_members(*pairs(links))
    assert len(ids) == 5001 and not roots.any()
    assert components.count_sizes(roots) == {5001: 1}


@given(EDGES, EDGES)
def test_joined_pairs_are_those_of_one_component(edges, asked):
    root = find_roots_plainly(edges)
    connected = components.are_connected(*pairs(asked), components.build_forest(*pairs(edges)))
    assert connected.tolist() == [root.get(a, a) == root.get(b, b) for a, b in asked]


def test_packing_is_16_little_endian_bytes_a_pair():
    a, b = pairs([(1, 2**64 - 1), (258, 3)])
    block = components.pack(a, b)
    assert len(block) == 32 and block[16:18] == b"\x02\x01"
    assert np.array_equal(components.unpack(block), (a, b))
    assert [len(side) for side in components.unpack(b"")] == [0, 0]
    with pytest.raises(ValueError):
        components.unpack(b"123")


#: Members of groups: (group, first criterion, second criterion).
MEMBERS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from([0.0, 0.04, 0.08, 0.12, 0.12 + 1e-9, float("nan"), float("-inf"), float("inf")]),
        st.integers(0, 2),
    ),
    max_size=20,
)


def survivors_by_key(rows, order, tolerances):
    """key -> key of the survivor, with the members given in an order."""
    ids = np.array(order, dtype=np.uint64) + np.uint64(7)
    roots = np.array([rows[i][0] for i in order], dtype=np.uint64)
    ranks = [[rows[i][column] for i in order] for column in (1, 2)]
    kept = components.choose_survivors(ids, roots, ranks, tolerances, [f"k{i:02}" for i in order])
    return {f"k{i:02}": f"k{int(survivor) - 7:02}" for i, survivor in zip(order, kept, strict=True)}


@given(MEMBERS, st.sampled_from([0.0, 0.04, 0.05]), st.sampled_from([0.0, 1.0]), st.randoms(use_true_random=False))
def test_survivor_is_about_as_good_as_the_best_then_the_smallest_key(rows, first, second, chance):
    """Brute force, one group and one criterion after the other; and the order of members changes nothing."""
    order = list(range(len(rows)))
    chance.shuffle(order)
    kept = survivors_by_key(rows, order, [first, second])
    assert kept == survivors_by_key(rows, sorted(order), [first, second])
    for group in {row[0] for row in rows}:
        members = [i for i in range(len(rows)) if rows[i][0] == group]
        left = members
        for column, tolerance in ((1, first), (2, second)):
            values = {i: -math.inf if math.isnan(rows[i][column]) else round(rows[i][column], 6) for i in left}
            best = max(values.values())
            left = [i for i in left if values[i] == best or best - values[i] <= tolerance + 1e-7]
        assert {kept[f"k{i:02}"] for i in members} == {f"k{min(left):02}"}
