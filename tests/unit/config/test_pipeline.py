"""Layers on stages: whatever is accepted adds up, and says why it refuses otherwise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.config.pipeline import chunk_layers
from megatron_dream.config.schema import ParallelConfig
from megatron_dream.errors import LayoutError


def parallel(pp, vp=None, first=None, last=None, embedding=False, loss=False):
    return ParallelConfig(
        pipeline_model_parallel_size=pp,
        virtual_pipeline_model_parallel_size=vp,
        num_layers_in_first_pipeline_stage=first,
        num_layers_in_last_pipeline_stage=last,
        account_for_embedding_in_pipeline_split=embedding,
        account_for_loss_in_pipeline_split=loss,
    )


DIVIDED = {
    "even": (parallel(4), 28, ((7,), (7,), (7,), (7,))),
    "few in the last": (parallel(4, last=4), 28, ((8,), (8,), (8,), (4,))),
    "both ends, two stages": (parallel(2, first=3, last=5), 8, ((3,), (5,))),
    "interleaved": (parallel(2, vp=2), 8, ((2, 2), (2, 2))),
    "interleaved, few in the last": (parallel(3, vp=2, last=2), 10, ((2, 2), (2, 2), (1, 1))),
    "head counted": (parallel(2, loss=True), 3, ((2,), (1,))),
    "405B": (parallel(8, vp=8, embedding=True, loss=True), 126, None),
    "alone": (parallel(1), 5, ((5,),)),
}


@pytest.mark.parametrize("name", DIVIDED)
def test_known_divisions(name):
    config, layers, expected = DIVIDED[name]
    found = chunk_layers(config, layers)
    assert sum(map(sum, found)) == layers
    if expected is None:  # Megatron-Bridge's split of Llama 3.1 405B
        assert found[0] == (1, *[2] * 7) and found[-1] == (*[2] * 7, 1)
        assert set(found[1:-1]) == {(2,) * 8}
    else:
        assert found == expected


REFUSED = {
    "uneven": (parallel(4), 30, "not divisible by PP 4"),
    "head makes it uneven": (parallel(4, loss=True), 28, r"28 \+ 1 for embedding or head"),
    "rest": (parallel(4, last=3), 28, "leaves 25 for 3 stages"),
    "none left": (parallel(3, first=4, last=4), 8, "leaves 0 for 1 stages"),
    "too many": (parallel(2, first=9), 8, "leaves -1"),
    "chunks": (parallel(2, vp=2, first=3, last=5), 8, "VP 2 does not divide"),
    "both ways": (parallel(2, first=3, loss=True), 8, "leave one out"),
    "no pipeline": (parallel(1, last=3), 8, "without a pipeline"),
    "no pipeline, counted": (parallel(1, loss=True), 8, "without a pipeline"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    config, layers, match = REFUSED[name]
    with pytest.raises(LayoutError, match=match):
        chunk_layers(config, layers)


@given(
    pp=st.integers(1, 8),
    vp=st.one_of(st.none(), st.integers(2, 4)),
    first=st.one_of(st.none(), st.integers(1, 12)),
    last=st.one_of(st.none(), st.integers(1, 12)),
    embedding=st.booleans(),
    loss=st.booleans(),
    layers=st.integers(1, 64),
)
def test_what_is_accepted_adds_up(pp, vp, first, last, embedding, loss, layers):
    config = parallel(pp, vp if pp > 1 else None, first, last, embedding, loss)
    try:
        found = chunk_layers(config, layers)
    except LayoutError as error:
        assert not str(error).endswith(".")  # layout.py adds the equation
        return
    assert len(found) == pp and {len(chunks) for chunks in found} == {vp if vp and pp > 1 else 1}
    assert sum(map(sum, found)) == layers
    assert min(map(min, found)) >= 0
    assert first is None or sum(found[0]) == first
    assert last is None or sum(found[-1]) == last
