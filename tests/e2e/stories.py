"""A few stories told by a server through a proxy that misbehaves, and what came of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import faults
import numpy as np
from faults import Fault

from headway.probe.client import send
from headway.probe.keys import Key
from headway.probe.limits import Limits
from headway.probe.nouns import Endpoint, Load, Sent
from headway.types import Requests

OSL_TOKENS = 6
SECRET = "sk-a-key-that-nobody-may-see"
PATIENT = Limits(request_timeout_s=20, stall_timeout_s=5)
IMPATIENT = Limits(request_timeout_s=1.5, stall_timeout_s=0.7)


@dataclass(frozen=True, slots=True)
class Stories:
    """Bodies of text completions, all different."""

    path: str = "/v1/completions"
    forced: bool = True

    def body(self, row: int, answers: object) -> bytes:
        asked = {"prompt": f"Story number {row} begins", "max_tokens": OSL_TOKENS, "ignore_eos": True}
        return json.dumps(asked | {"stream": True, "stream_options": {"include_usage": True}}).encode()


def load(count: int, concurrency: int | None = None) -> Load:
    requests = Requests(
        arrive_s=np.arange(count) * (0.0 if concurrency else 0.15),
        isl_tokens=np.full(count, 5),
        osl_tokens=np.full(count, OSL_TOKENS),
    )
    return Load(name="a few", requests=requests, concurrency=concurrency)


def sent(
    endpoint: Endpoint,
    script: Mapping[int | str, Fault],
    count: int = 3,
    limits: Limits = PATIENT,
    *,
    concurrency: int | None = None,
    key: Key | None = None,
    tls: tuple[Path, Path] | None = None,
) -> Sent:
    with faults.proxy(endpoint.url, script, tls) as between:
        whom = replace(endpoint, url=between.url)
        return send(load(count, concurrency), whom, Stories(), limits, key=key)


def codes(done: Sent) -> list[str]:
    assert done.trace.measured is not None and done.trace.measured.error is not None
    names = done.trace.names["error"]
    return [names[code] for code in done.trace.measured.error.tolist()]


def explained(done: Sent) -> str:
    return " ".join(done.client.warnings)
