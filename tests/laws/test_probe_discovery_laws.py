"""Whatever a server says of itself: it is understood, ignored or refused in words, and never more."""

from __future__ import annotations

import io
import json
import urllib.error
from dataclasses import fields
from email.message import Message
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.errors import InputError
from headway.probe import asking
from headway.probe.endpoint import discover
from headway.probe.settings import DEFAULTS

if TYPE_CHECKING:
    import urllib.request

    from headway.probe.nouns import Endpoint

URL = "http://127.0.0.1:9"
ROUTES = ("/v1/models", "/props", "/info", "/version", "/server_info", "/get_server_info", "/get_model_info")
DEVELOPER = "/server_info?config_format=json"
WORDS = sorted(
    {
        *("data", "id", "owned_by", "max_model_len", "vllm_config", "scheduler_config", "internal_states", "version"),
        *("default_generation_settings", "n_ctx", "total_slots", "max_total_num_tokens", "max_batch_total_tokens"),
        *("disable_radix_cache", "max_prefill_tokens", "chunked_prefill_size", "waiting_served_ratio", "max_num_seqs"),
        *(word for defaults in DEFAULTS.values() for word in defaults.words),
    }
)
CACHE = "vllm:cache_config_info{"

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("vllm")
anything = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), inner),
    max_leaves=12,
)
told = st.dictionaries(st.sampled_from(WORDS), anything, max_size=6)
models = st.fixed_dictionaries({"data": st.just([{"id": "m"}]) | st.lists(told, max_size=2) | anything})
pages = st.fixed_dictionaries(
    {"/v1/models": models | anything},
    optional=dict.fromkeys((*ROUTES[1:], DEVELOPER), told | anything),
)
labels = st.builds('block_size="{}",num_gpu_blocks="{}"'.format, st.text(max_size=4), st.integers())
expositions = st.just("") | st.text(max_size=20) | st.builds("{}{}{}".format, st.just(CACHE), st.text() | labels, plain)
expositions |= labels.map(lambda said: f"{CACHE}{said}}} 1\n")


def discovered(said: dict[str, Any], exposition: str = "", engine: str | None = None, code: int = 404) -> Endpoint:
    """Discover a server with these pages; of others it says the code."""

    def opened(request: urllib.request.Request, _key: object, _patience_s: float) -> bytes:
        route = request.full_url.removeprefix(URL)
        if route == "/metrics":
            return exposition.encode("utf-8", errors="replace")
        if route not in said:
            raise urllib.error.HTTPError(request.full_url, code, "", Message(), io.BytesIO())
        return json.dumps(said[route]).encode()

    with patch.object(asking, "opened", opened):
        return discover(URL, engine=engine)


@given(pages, expositions, st.none() | st.sampled_from(sorted(DEFAULTS)))
def test_a_server_is_understood_or_refused(said: dict[str, Any], exposition: str, engine: str | None) -> None:
    try:
        found = discovered(said, exposition, engine)
    except InputError:
        return
    assert found.num_gpu_blocks >= 0
    if found.settings is None:
        return
    for noun in filter(None, (found.settings, found.settings.own)):
        for field in fields(noun):
            kind = {"int": int, "float": (int, float), "bool": bool, "str": str}.get(str(field.type))
            assert kind is None or isinstance(getattr(noun, field.name), kind), field.name
            assert kind is not int or not isinstance(getattr(noun, field.name), bool), field.name
    assert found.settings.max_num_seqs > 0 and found.settings.max_model_len > 0


@pytest.mark.parametrize("said", [5, None, "x", {"data": 5}, {"data": [5]}, {"data": {"id": "m"}}, {"data": []}])
def test_what_lists_no_models_is_refused(said: object) -> None:
    with pytest.raises(InputError, match="no model at /v1/models"):
        discovered({"/v1/models": said})


@pytest.mark.parametrize(("code", "words"), [(503, r"answers 503 \(still loading\?\)"), (500, "answers 500")])
def test_a_server_that_cannot_answer_yet_is_no_server_without_models(code: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        discovered({}, code=code)


ONE = {"/v1/models": {"data": [{"id": "m", "max_model_len": 64}]}}


def test_what_has_another_shape_is_as_if_it_were_not_said() -> None:
    bad = {DEVELOPER: {"vllm_config": {"scheduler_config": [1], "x": 2}}}
    found = discovered(ONE | bad, CACHE + 'block_size="x",num_gpu_blocks="None"} 1\n', "vllm")
    assert found.settings is not None and "max_num_seqs" in found.assumed and "block_size" not in found.told
    found = discovered(ONE | {"/server_info": {"internal_states": 7, "max_running_requests": 33}}, "", "sglang")
    assert found.settings is not None and found.settings.max_num_seqs == 33
    found = discovered(ONE | {"/props": {"total_slots": 4, "default_generation_settings": [9]}}, "", "llama-cpp")
    assert found.settings is not None and found.settings.max_num_seqs == 4
    assert found.num_gpu_blocks == 0


def test_a_page_nested_without_end_says_nothing() -> None:
    assert asking._object("[" * 100_000) == {}
