"""What is asked of a real vLLM: settings of the server and phases of requests.

An idle engine with two batches in flight schedules twice within a few milliseconds of waking, which are one moment on
the logical clock; so nobody comes within APART_S of a request that may have woken it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from environments import VLLM
from scenarios import Ask, Phase

APART_S = 0.1
#: Where vllm_model.py put them.
ADAPTERS = VLLM.folder / "model" / "adapters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One server's settings, as it is told them, and what it is asked."""

    name: str
    description: str
    arguments: tuple[str, ...]
    phases: tuple[Phase, ...]


def _arguments(**settings: object) -> tuple[str, ...]:
    return tuple(part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value)))


def _burst(seed: str, count: int, prompt: tuple[int, int], out: tuple[int, int], **fields: int) -> Phase:
    """One long prompt, and while it is computed, many requests at once."""
    chance = random.Random(seed)
    first = Ask(prompt=((f"{seed} first", 900),), out=4, fields=dict(fields))
    return (
        first,
        *(
            Ask(at_s=APART_S, prompt=((f"{seed} {i}", chance.randint(*prompt)),), out=chance.randint(*out))
            for i in range(count)
        ),
    )


def _shared() -> Phase:
    """Prompts that begin alike: with whole blocks, with parts of blocks, and altogether."""
    lead = Ask(prompt=(("system", 320),), out=3)
    alike = [(("system", 320), (f"user {i}", 20 + 9 * i)) for i in range(6)]
    cut = [(("system", 32 * i + i % 2),) for i in range(1, 6)]
    return (lead, *(Ask(at_s=APART_S, prompt=prompt, out=5 + i) for i, prompt in enumerate([*alike, *cut])))


def _poisson(seed: str, count: int, per_s: float) -> Phase:
    chance = random.Random(seed)
    at_s, asks = 0.0, []
    for i in range(count):
        at_s += max(0.03, chance.expovariate(per_s))
        asks.append(Ask(at_s=at_s, prompt=((f"{seed} {i % 9}", chance.randint(20, 400)),), out=chance.randint(1, 60)))
    return tuple(asks)


def _conversation(begin: int, turns: int) -> tuple[Phase, ...]:
    """Three people who go on talking; `begin` requests were asked before."""
    opening = tuple(
        Ask(at_s=APART_S * i, prompt=(("system", 200), (f"person {i}", 50 + 17 * i)), out=40) for i in range(3)
    )
    later = tuple(
        tuple(
            Ask(at_s=APART_S * i, prompt=((f"turn {t} {i}", 25),), out=30, after=begin + 3 * (t - 1) + i)
            for i in range(3)
        )
        for t in range(1, turns)
    )
    return (opening, *later)


def _ranked() -> Phase:
    """Those that matter least come first, so that one of them, short of a block, is thrown back by itself."""
    chance = random.Random("ranked")
    early = [
        Ask(at_s=APART_S * i, prompt=((f"early {i}", 90 + 11 * i),), out=200, fields={"priority": 3}) for i in range(4)
    ]
    return (
        *early,
        *(
            Ask(
                at_s=0.6 + 0.05 * i,
                prompt=((f"ranked {i}", chance.randint(40, 200)),),
                out=chance.randint(40, 120),
                fields={"priority": chance.randint(-2, 2)},
            )
            for i in range(16)
        ),
    )


def _adapted() -> Phase:
    """Four adapters and none where two may run at once; prompts that begin alike, which adapters do not share."""
    chance = random.Random("adapted")
    first = Ask(prompt=(("adapted first", 900),), out=4)
    return (
        first,
        *(
            Ask(
                at_s=APART_S + 0.02 * i,
                prompt=(("adapted", 64), (f"adapted {i}", chance.randint(10, 150))),
                out=chance.randint(3, 40),
                fields={"model": chance.choice(("witness", "a1", "a2", "a3", "a4"))},
            )
            for i in range(20)
        ),
    )


def _stopped() -> Phase:
    """Requests that a stop token ends: each thirtieth word is one, so that no length was known beforehand."""
    stops = {"stop_token_ids": list(range(0, 2048, 30))}
    chance = random.Random("stopped")
    return tuple(
        Ask(at_s=APART_S * i, prompt=((f"stopped {i}", chance.randint(20, 300)),), out=700, fields=stops)
        for i in range(20)
    )


_ROOMY = (_burst("burst", 14, (5, 500), (1, 40)), _shared(), _poisson("timed", 30, 8.0))
_ASKED = sum(map(len, _ROOMY))

SCENARIOS = (
    Scenario(
        name="roomy",
        description="chunked prefill under a budget, eight seats, shared prefixes, Poisson arrivals, conversations",
        arguments=_arguments(
            max_num_batched_tokens=256, max_num_seqs=8, max_model_len=1024, num_gpu_blocks_override=400
        ),
        phases=(*_ROOMY, *_conversation(_ASKED, 4)),
    ),
    Scenario(
        name="tight",
        description="39 blocks of 32 tokens: preemption, eviction from the prefix cache",
        arguments=_arguments(
            max_num_batched_tokens=512, max_num_seqs=16, max_model_len=1024, num_gpu_blocks_override=40
        ),
        phases=(_burst("tight", 16, (60, 250), (50, 130)), _shared(), *_conversation(17 + 12, 4)),
    ),
    Scenario(
        name="ranked",
        description="the priority policy where blocks are short",
        arguments=_arguments(
            scheduling_policy="priority",
            max_num_batched_tokens=256,
            max_num_seqs=12,
            max_model_len=1024,
            num_gpu_blocks_override=48,
        ),
        phases=(_ranked(),),
    ),
    Scenario(
        name="held_back",
        description="long prompts in small parts, fewer active than seats, a watermark; an interval that 0.32 ignores",
        arguments=_arguments(
            long_prefill_token_threshold=64,
            max_num_active_seqs=6,
            watermark=0.1,
            prefill_schedule_interval=3,
            max_num_batched_tokens=256,
            max_num_seqs=12,
            max_model_len=1024,
            num_gpu_blocks_override=56,
        ),
        phases=(_burst("held back", 16, (40, 400), (30, 90)), _shared()),
    ),
    Scenario(
        name="stopped",
        description="ends that nobody knew beforehand: with two batches in flight, a slot is spent on each",
        arguments=_arguments(
            max_num_batched_tokens=256, max_num_seqs=6, max_model_len=1024, num_gpu_blocks_override=120
        ),
        phases=(_stopped(),),
    ),
    Scenario(
        name="adapted",
        description="two LoRA adapters at once: requests of others are passed over",
        arguments=(
            *_arguments(max_num_batched_tokens=256, max_num_seqs=6, max_model_len=1024, num_gpu_blocks_override=120),
            *("--enable-lora", "--max-loras", "2"),
            *("--lora-modules", *(f"a{i}={ADAPTERS / f'a{i}'}" for i in range(1, 5))),
        ),
        phases=(_adapted(),),
    ),
)
