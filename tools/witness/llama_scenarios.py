"""What is asked of a real llama-server: settings and phases of requests."""

from __future__ import annotations

import random
from dataclasses import dataclass

from scenarios import Ask, Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One server's settings, in the words of llama.cpp, and what it is asked."""

    name: str
    description: str
    settings: dict[str, int]
    phases: tuple[Phase, ...]


def _burst(seed: str, count: int, longest: int) -> Phase:
    """One prompt of several batches, and while its first is computed, more requests than there are slots."""
    chance = random.Random(seed)
    return (
        Ask(prompt=((f"{seed} first", 100),), out=3),
        *(
            Ask(
                at_s=0.1 + 0.01 * i,
                prompt=((f"{seed} {i}", chance.randint(5, longest)),),
                out=chance.choice((1, 1, 2, 3, 3, 5, 8)),
            )
            for i in range(count)
        ),
    )


def _poisson(seed: str, count: int, per_s: float) -> Phase:
    chance = random.Random(seed)
    at_s, asks = 0.0, []
    for i in range(count):
        at_s += chance.expovariate(per_s)
        asks.append(Ask(at_s=at_s, prompt=((f"{seed} {i % 4}", chance.randint(5, 40)),), out=chance.randint(1, 10)))
    return tuple(asks)


def _likeness() -> tuple[Phase, ...]:
    """One after the other: what each slot holds decides who gets it.

    A whole prompt again; a tenth in common, which is not enough; a little more, which is; and nothing.
    """
    asked: list[tuple[tuple[str, int], ...]] = [
        (("a", 40),),
        (("b", 40),),
        (("c", 40),),
        (("a", 40),),
        (("b", 4), ("d", 36)),
        (("c", 5), ("e", 40)),
        (("f", 30),),
        (("a", 20), ("g", 10)),
        (("a", 30),),
    ]
    return tuple((Ask(prompt=prompt, out=2),) for prompt in asked)


def _conversation(begin: int) -> tuple[Phase, ...]:
    """Two people who go on talking, a third who comes between them; `begin` requests were asked before."""
    return (
        (Ask(prompt=(("one", 40),), out=6), Ask(at_s=0.02, prompt=(("two", 30),), out=8)),
        (Ask(prompt=(("one again", 12),), out=5, after=begin), Ask(at_s=0.02, prompt=(("three", 25),), out=4)),
        (
            Ask(prompt=(("two again", 10),), out=5, after=begin + 1),
            Ask(at_s=0.02, prompt=(("one at last", 9),), out=5, after=begin + 2),
        ),
    )


#: A prompt that ends close below the end of its slot's context.
_TO_THE_END: Phase = (Ask(prompt=(("long", 248),), out=20), Ask(at_s=0.05, prompt=(("short", 12),), out=14))

_BURST = _burst("burst", 9, 32)
_LIKE = _likeness()


def mixed(seed: int) -> Scenario:
    """A scenario by chance: slots, batch, prompts that begin alike or go on from others, few outputs or more."""
    chance = random.Random(seed)
    slots, n_batch = chance.choice((1, 2, 3, 5)), chance.choice((16, 24, 64, 512))
    phases: list[Phase] = []
    for _ in range(chance.randint(2, 4)):
        asked, at_s, asks = sum(map(len, phases)), 0.0, list[Ask]()
        for _ in range(chance.randint(2, 8)):
            at_s += chance.choice((0.0, 0.01, 0.05, 0.3))
            alike = (f"alike {chance.randint(0, 3)}", chance.randint(1, 50))
            own = (f"own {asked + len(asks)}", chance.randint(1, 40))
            prompt = (alike, own) if chance.random() < 0.5 else (alike,)
            after = chance.randrange(asked) if asked and chance.random() < 0.25 else None
            asks.append(Ask(at_s=at_s, prompt=prompt, out=chance.choice((1, 1, 2, 3, 5, 9)), after=after))
        phases.append(tuple(asks))
    return Scenario(
        name=f"mixed_{seed}",
        description=f"{slots} slots, {n_batch} tokens in a batch, {sum(map(len, phases))} requests by chance",
        settings={"n_parallel": slots, "n_ctx": 256 * slots, "n_batch": n_batch, "n_ubatch": n_batch},
        phases=tuple(phases),
    )


SCENARIOS = (
    Scenario(
        name="slots",
        description="more requests than slots, prompts in parts, a slot's own cache, the end of the context",
        settings={"n_parallel": 3, "n_ctx": 768, "n_batch": 48, "n_ubatch": 48},
        phases=(*_LIKE, _BURST, *_conversation(len(_LIKE) + len(_BURST)), _TO_THE_END),
    ),
    Scenario(
        name="timed",
        description="Poisson arrivals at four slots",
        settings={"n_parallel": 4, "n_ctx": 1024, "n_batch": 32, "n_ubatch": 32},
        phases=(_poisson("timed", 18, 4.0),),
    ),
)
