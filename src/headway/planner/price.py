"""What a fleet costs, per hour, per token, per request.

The fleet is bought for the design rate and its failures; its cost is shared among the traffic of the base rate. Input
and output tokens share it by the step time each takes at the margin (`input_share`):

    prompt token  = mixed_ps[B] / B + prefill_ps_per_pair · mean ISL      in a full prefill step of B tokens
    output token  = (decode_ps[n] + context_ps_per_token · n · context) / n    at the mean batch n
    share of input = ISL · prompt token / (ISL · prompt token + OSL · output token)
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from headway.errors import InputError, nearest
from headway.types import Cost

if TYPE_CHECKING:
    from headway.scenario import Scenario
    from headway.types import Accelerator, Deployment, Outcome, Price, StepTable


def choose_price(scenario: Scenario, accelerator: Accelerator) -> Price | None:
    """Return the cheapest allowed price of one accelerator, a user's own before the shipped ones; None without any."""
    terms = scenario.prices
    known = scenario.catalog.prices(accelerator, region=terms.region, terms=terms.terms, provider=terms.provider)
    return known[0] if known else None


def choose_prices(scenario: Scenario) -> dict[str, Price]:
    """Return the cheapest allowed price by accelerator; those without one are left out.

    Raises:
        InputError: none of the allowed accelerators has a price; the nearest region that has one is offered.
    """
    found = {a.name: price for a in scenario.allow.accelerators if (price := choose_price(scenario, a))}
    if not found:
        _refuse(scenario)
    return found


def _refuse(scenario: Scenario) -> None:
    terms = scenario.prices
    names = ", ".join(a.name for a in scenario.allow.accelerators)
    anywhere = [p for a in scenario.allow.accelerators for p in scenario.catalog.prices(a, provider=terms.provider)]
    regions = sorted({p.region for p in anywhere if p.term in terms.terms and p.region})
    hint = nearest(terms.region or "", regions) if regions else f"terms known: {_terms(anywhere)}"
    place = f"{terms.provider or 'any provider'}, {terms.region or 'any region'}, {' or '.join(terms.terms)}"
    raise InputError(f"no price is known for {names} ({place})", file=scenario.file, place="prices", hint=hint)


def _terms(prices: list[Price]) -> str:
    return ", ".join(sorted({price.term for price in prices})) or "none"


def input_share(step: StepTable, *, isl_tokens: float, osl_tokens: float, batch: float) -> float:
    """Return the share of the cost that input tokens bear; the module's docstring has the formula.

    Args:
        step: times of one replica.
        isl_tokens: mean prompt computed (what a prefix cache holds left out).
        osl_tokens: mean output.
        batch: mean sequences decoding at once on one replica.
    """
    full = len(step.mixed_ps) - 1
    n = min(max(round(batch), 1), len(step.decode_ps) - 1)
    context = isl_tokens + osl_tokens / 2
    window = step.window_ps_per_token * min(context, step.window_tokens)
    prompt_ps = float(step.mixed_ps[full]) / full + step.prefill_ps_per_pair * isl_tokens
    output_ps = float(step.decode_ps[n]) / n + step.context_ps_per_token * context + window
    both = isl_tokens * prompt_ps + osl_tokens * output_ps
    return isl_tokens * prompt_ps / both if both > 0 else 0.5


def price(
    deployment: Deployment, at: Price, *, everyday: Outcome, input_share_frac: float, busy_frac: float = math.nan
) -> Cost:
    """Price a deployment for the traffic it carries.

    Args:
        deployment: all its GPUs are paid for, spares too.
        at: the price of one GPU-hour.
        everyday: the outcome of the whole deployment at the base rate.
        input_share_frac: from `input_share`.
        busy_frac: mean share of time the replicas step.
    """
    usd_per_hour = deployment.gpus * at.usd_per_gpu_hour
    usd_per_s = usd_per_hour / 3600.0
    return Cost(
        price=at,
        gpus=deployment.gpus,
        usd_per_hour=usd_per_hour,
        usd_per_m_input_tokens=_per(usd_per_s * input_share_frac * 1e6, everyday.input_tokens_per_s),
        usd_per_m_output_tokens=_per(usd_per_s * (1.0 - input_share_frac) * 1e6, everyday.output_tokens_per_s),
        usd_per_request=_per(usd_per_s, everyday.requests_per_s),
        usd_per_good_request=_per(usd_per_s, everyday.goodput_per_s),
        idle_gpu_hours_per_hour=deployment.gpus * (1.0 - busy_frac),
    )


def repriced(cost: Cost, at: Price) -> Cost:
    """Return the same fleet's cost at another price of a GPU-hour."""
    ratio = at.usd_per_gpu_hour / cost.price.usd_per_gpu_hour
    scaled = {name: getattr(cost, name) * ratio for name in Cost.__dataclass_fields__ if name.startswith("usd_")}
    return replace(cost, price=at, **scaled)


def _per(usd_per_s: float, per_s: float) -> float:
    return usd_per_s / per_s if per_s > 0 else math.inf
