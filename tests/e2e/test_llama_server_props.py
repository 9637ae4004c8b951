"""What llama-server tells of its slots at /slots, /props tells as well: discovery asks the second alone."""

from __future__ import annotations

import json
import urllib.request

import pytest
from llama import llama_server, needs_llama

from headway.probe.endpoint import discover

pytestmark = needs_llama


@pytest.mark.parametrize(
    ("given", "slots", "slot_tokens"),
    [
        ({"endpoint_props": False}, 4, 1024),
        ({"n_parallel": 3, "n_ctx": 1000}, 3, 512),  # rounded up to a multiple of 256 for each
        ({"kv_unified": True}, 4, 4096),
    ],
)
def test_slots_say_nothing_that_props_does_not(given: dict[str, object], slots: int, slot_tokens: int) -> None:
    with llama_server(**given) as url:
        with urllib.request.urlopen(f"{url}/slots", timeout=10) as answer:
            told = json.load(answer)
        found = discover(url)
    assert found.settings is not None
    assert (found.settings.max_num_seqs, found.settings.max_model_len) == (slots, slot_tokens)
    assert [one["n_ctx"] for one in told] == [slot_tokens] * slots
    assert {found.told["max_num_seqs"], found.told["max_model_len"]} == {"/props"}
    # a slot that never had a request tells no more than this; that it speculates, no setting here can say
    assert set().union(*told) - {"params"} == {"id", "n_ctx", "speculative", "is_processing"}
