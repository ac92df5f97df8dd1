"""Laws of mechanisms with a window, token by token: a state of fixed size continues the causal form."""

from __future__ import annotations

import pytest
import torch
from stepping import (
    a_selected_state_continues_the_selected_rows,
    a_state_may_be_stepped_from_twice,
    bytes_of_states,
    steps_continue_the_causal_form,
)
from test_mechanisms import WIDTH, Forms, build, ids

from baselines.attention._ring import kept, slot
from baselines.attention.longformer import Longformer
from baselines.attention.poolingformer import Poolingformer
from effbench import Unsupported

FORMS: Forms = [
    (Longformer, {"window": 4, "global_tokens": 0}),
    (Longformer, {"window": 1, "global_tokens": 1}),
    (Longformer, {"window": 9, "global_tokens": 3}),
    (Longformer, {"window": 70, "global_tokens": 40}),
    (Longformer, {"window": 4, "implementation": "dense"}),
    (Poolingformer, {"window": 4, "pool_window": 18}),
    (Poolingformer, {"window": 1, "pool_window": 4}),
    (Poolingformer, {"window": 9, "pool_window": 7, "kernel": 8, "stride": 5, "pooling": "max"}),
    (Poolingformer, {"window": 2, "pool_window": 30, "kernel": 7, "stride": 3, "pooling": "max"}),
    (Poolingformer, {"window": 3, "pool_window": 11, "kernel": 2, "stride": 6}),
    (Poolingformer, {"window": 3, "pool_window": 5, "kernel": 1, "stride": 1}),
]
every_form = pytest.mark.parametrize(
    ("kind", "options"), [(kind, {**options, "causal": True}) for kind, options in FORMS], ids=ids(FORMS)
)


@every_form
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("first", "steps"), [(0, 90), (1, 89), (33, 60), (130, 40)])
def test_steps_continue_the_causal_form(kind, options, first, steps, masked):
    steps_continue_the_causal_form(kind, options, first, steps, masked=masked)


@every_form
def test_a_selected_state_continues_the_selected_rows(kind, options):
    a_selected_state_continues_the_selected_rows(kind, options, 33, 12)


@every_form
def test_a_state_may_be_stepped_from_twice(kind, options):
    a_state_may_be_stepped_from_twice(kind, options, 33, 30)


@every_form
def test_the_state_does_not_grow(kind, options):
    assert len(set(bytes_of_states(kind, options, (0, 1, 40, 257)))) == 1


@pytest.mark.parametrize("kind", [Longformer, Poolingformer])
def test_only_the_causal_form_has_steps(kind):
    with pytest.raises(Unsupported, match="only its causal form has a step form"):
        build(kind, {}).prefill(torch.zeros(1, 2, WIDTH, dtype=torch.float64))


@pytest.mark.parametrize(("first", "slots"), [(0, 1), (0, 5), (3, 4), (3, 8), (3, 3)])
def test_a_ring_holds_the_first_rows_and_the_last_in_slots_of_their_own(first, slots):
    for n in range(20):
        rows = kept(n, first, slots)
        last = [i for i in range(first, n) if i >= n - (slots - first)]
        assert rows == [*range(min(first, n)), *last]
        places = [slot(i, first, slots) for i in rows]
        assert len(set(places)) == len(places) <= slots
        assert all(place < slots for place in places)
