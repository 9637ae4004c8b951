"""A real llama-server counts the tokens we count, and finds in its cache what the ids say.

Needs build/witness-llama (`make witness-llama`: 200 MB, some seconds); skipped where it is absent.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from llama import llama_server, needs_llama

from headway.errors import InputError
from headway.probe.bodies import Answer
from headway.probe.endpoint import discover
from headway.probe.prompts import Prompts, prompts
from headway.types import LlamaCppSettings, PrefixRuns, Requests

pytestmark = needs_llama

#: Row 1 goes on from row 0, row 2 from row 1 and its answer; 3 and 4 share nothing with anybody.
BLOCK = 16
REQUESTS = Requests(
    arrive_s=np.zeros(5),
    isl_tokens=np.array([40, 100, 150, 33, 70]),
    osl_tokens=np.array([4, 20, 4, 7, 4]),
    prefix=PrefixRuns(
        block_tokens=BLOCK,
        offsets=np.array([0, 1, 2, 3, 4, 4]),
        first_ids=np.array([0, 0, 0, 50]),
        counts=np.array([2, 7, 9, 2]),
    ),
    session_id=np.array([0, 1, 1, 2, 3]),
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """One slot, so that its cache holds the request before."""
    with llama_server(n_parallel=1, n_ctx=1024) as address:
        yield address


def sent(url: str, bodies: Prompts, row: int, answers: dict[int, Answer]) -> tuple[dict[str, Any], Answer]:
    body = json.loads(bodies.body(row, answers)) | {"stream": False}
    del body["stream_options"]
    asked = urllib.request.Request(url + bodies.path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked) as answer:
        said = json.load(answer)
    choice = said["choices"][0]
    return said["usage"], Answer(text=choice.get("text") or choice["message"]["content"])


def test_the_server_tells_what_it_is(url: str) -> None:
    found = discover(f"{url}/v1", overrides={"n_batch": "512"})
    assert (found.engine, found.url, found.tokenizer, found.metrics) == ("llama-cpp", url, "ids", True)
    assert found.settings is not None and found.settings.own == LlamaCppSettings()
    assert (found.settings.max_num_seqs, found.settings.max_model_len, found.num_gpu_blocks) == (1, 1024, 1024)
    assert (found.settings.max_num_batched_tokens, found.told["max_num_batched_tokens"]) == (512, "given")
    assert not found.settings.async_scheduling and found.settings.engine == "llama.cpp"


def test_a_model_it_does_not_serve_is_refused_with_the_nearest(url: str) -> None:
    served = discover(url).model
    with pytest.raises(InputError, match="did you mean"):
        discover(url, model=served[:-1])


def test_what_is_no_openai_server_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="no model at /v1/models"):
        discover(f"{url}/elsewhere")


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_lengths_are_exact_and_the_cache_holds_what_the_ids_say(url: str, api: Any) -> None:
    bodies = prompts(discover(url), REQUESTS, api=api, seed=3, salt=f"one {api}")
    assert bodies.exact and bodies.forced and not bodies.notes
    cached, answer = [], None
    for row in range(len(REQUESTS)):
        usage, answer = sent(url, bodies, row, {1: answer} if row == 2 and answer is not None else {})
        assert usage["prompt_tokens"] == REQUESTS.isl_tokens[row]
        assert usage["completion_tokens"] == REQUESTS.osl_tokens[row]
        cached.append(usage["prompt_tokens_details"]["cached_tokens"])
    head = bodies.frame.head_tokens
    if api == "completions":
        assert cached[1] == 2 * BLOCK and cached[3:] == [0, 0]
        # all of the prompt before; of its answer as much as the ids say, or less where its text has other tokens too
        assert REQUESTS.isl_tokens[1] <= cached[2] <= 7 * BLOCK
    else:  # the template's beginning is everybody's; a conversation goes on from all of an answer
        assert cached[1] == 2 * BLOCK and cached[3:] == [head, head]
        assert cached[2] > REQUESTS.isl_tokens[1]


def test_another_salt_finds_nothing_of_the_run_before(url: str) -> None:
    alone = replace(REQUESTS, prefix=None, session_id=None)
    for salt in ("a", "b"):
        bodies = prompts(discover(url), alone, salt=salt)
        usage, _ = sent(url, bodies, 4, {})
        assert usage["prompt_tokens_details"]["cached_tokens"] <= 1


def test_the_words_are_ordinary_tokens(url: str) -> None:
    words = prompts(discover(url), REQUESTS).words
    assert words.exact and len(words.ids) == len(words.words) > 1000
    assert all(word.startswith(" ") and word[1:].isalpha() and word.islower() for word in words.words)
