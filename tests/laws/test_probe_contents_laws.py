"""Laws of what prompts consist of: they share what their ids say, and nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headway.probe.contents import Contents, spliced
from headway.types import PrefixRuns, Requests
from headway.workload.prefixes import encode_ids

WORDS = 997
#: a request: the path of choices from the root of a tree of blocks, and how long its prompt is beyond or below it
PATHS = st.lists(st.tuples(st.lists(st.integers(0, 2), max_size=5), st.integers(1, 60)), min_size=2, max_size=12)


def requests_of(paths: list[tuple[list[int], int]], block: int) -> tuple[Requests, list[list[int]]]:
    """Number the blocks of a tree by first appearance, as chained ids."""
    names: dict[tuple[int, ...], int] = {}
    ids = [[names.setdefault(tuple(path[: k + 1]), len(names)) for k in range(len(path))] for path, _ in paths]
    offsets = np.concatenate(([0], np.cumsum([len(each) for each in ids]))).astype(np.int64)
    flat = np.array([one for each in ids for one in each], np.int64)
    isl = np.array([length for _, length in paths], np.int64)
    prefix = encode_ids(flat, offsets, block)
    return Requests(arrive_s=np.zeros(len(isl)), isl_tokens=isl, osl_tokens=np.ones_like(isl), prefix=prefix), ids


def common(one: list, other: list) -> int:
    differ = [i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b]
    return differ[0] if differ else min(len(one), len(other))


@given(paths=PATHS, block=st.integers(1, 16), seed=st.integers(0, 2**32))
def test_prompts_share_exactly_the_blocks_their_ids_share(
    paths: list[tuple[list[int], int]], block: int, seed: int
) -> None:
    requests, ids = requests_of(paths, block)
    contents = Contents(requests, WORDS, (seed, 0))
    texts = [contents.numbers(row).tolist() for row in range(len(paths))]
    for row, (text, (_, isl)) in enumerate(zip(texts, paths, strict=True)):
        assert len(text) == isl
        assert all(0 <= each < WORDS for each in text)
        for other in range(row):
            shared = min(common(ids[row], ids[other]) * block, isl, len(texts[other]))
            assert common(text, texts[other]) == shared


@given(rows=st.integers(1, 400), size=st.integers(20, 60), seed=st.integers(0, 99))
def test_more_requests_than_words_share_one_token_at_most(rows: int, size: int, seed: int) -> None:
    isl = np.full(rows, 4, np.int64)
    contents = Contents(Requests(arrive_s=np.zeros(rows), isl_tokens=isl, osl_tokens=isl), size, (seed, 0))
    firsts = [tuple(contents.numbers(row)[:2].tolist()) for row in range(rows)]
    assert len(set(firsts)) == rows
    assert len({first for first, _ in firsts}) == min(rows, size)


@given(paths=PATHS, seed=st.integers(0, 99))
def test_the_same_seed_makes_the_same_prompts_and_another_salt_others(
    paths: list[tuple[list[int], int]], seed: int
) -> None:
    requests, _ = requests_of([(path, isl + 20) for path, isl in paths], 4)
    one, again, salted = (Contents(requests, WORDS, (seed, salt)) for salt in (1, 1, 2))
    for row in range(len(requests)):
        assert one.numbers(row).tolist() == again.numbers(row).tolist()
        assert common(one.numbers(row).tolist(), salted.numbers(row).tolist()) < 8


@given(start=st.integers(0, 30), shared=st.integers(0, 60), answer=st.lists(st.integers(5000, 6000), max_size=30))
def test_answers_stand_where_the_prompt_repeats_them(start: int, shared: int, answer: list[int]) -> None:
    prompt = np.arange(40)
    found = spliced(prompt, {0: (start, shared, answer)}).tolist()
    end = max(min(shared, start + len(answer), 40), start)
    assert found[start:end] == answer[: end - start]
    assert found[:start] == list(range(start)) and found[end:] == list(range(end, 40))
    assert prompt.tolist() == list(range(40))


def test_ids_beyond_the_prompt_name_outputs() -> None:
    prefix = PrefixRuns(
        block_tokens=4,
        offsets=np.array([0, 1, 2]),
        first_ids=np.array([0, 0]),
        counts=np.array([5, 4]),
    )
    isl = np.array([9, 30])
    contents = Contents(Requests(arrive_s=np.zeros(2), isl_tokens=isl, osl_tokens=isl, prefix=prefix), WORDS, (0, 0))
    first, second = (contents.numbers(row).tolist() for row in range(2))
    assert second[:9] == first
    assert contents.common_blocks(1, 0, prefix) == 4
