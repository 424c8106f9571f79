"""Lists of images that are not open, and subsets that are even over the classes."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stochcon.data.images import Source, Sources, chained, stratified_subset


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(0, 70), st.integers(0, 70))
def test_a_subset_has_as_many_of_every_class(labels: list[int], count: int, other: int) -> None:
    chosen = stratified_subset(labels, count)
    assert chosen == sorted(set(chosen)) and len(chosen) == min(count, len(labels))
    drawn, there = Counter(labels[i] for i in chosen), Counter(labels)
    most = max(drawn.values(), default=0)
    assert all(drawn[c] >= min(there[c], most - 1) for c in there)
    assert set(stratified_subset(labels, min(count, other))) <= set(chosen)


def test_lists_of_sources() -> None:
    sources = [Source(str(i), i, lambda: Image.new("L", (1, 1))) for i in range(6)]
    taken = Sources(sources.__getitem__, np.array([4, 1, 5]))
    assert [source.id for source in taken] == ["4", "1", "5"]
    assert [source.id for source in chained(sources[:2], taken[1:])[1:]] == ["1", "1", "5"]
