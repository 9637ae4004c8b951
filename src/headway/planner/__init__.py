"""What to buy: from a scenario to the cheapest fleet that meets its SLO, and everything that answer rests on.

    found = plan(read_scenario("chat.yaml"))     # -> Plan

1. `space` walks every deployment the scenario allows; what cannot run, does not fit or has no price is counted.
2. `demand` and `floors` prove lower bounds: an objective that is missed even when idle, the fewest replicas that could
   carry the traffic. `estimates` guesses the replicas of all options at once, to know where to begin.
3. `search` is branch and bound on simulated fleets (`fleet`): the fewest replicas that meet the SLO at the design rate.
4. `price` says what it costs; `front` what else is worth having; `levers` what one change would save; `stress` what
   breaks first as traffic grows; `heuristic` what the spreadsheet method says; `premises` what all this rests on.
5. `safety` holds predictions to tighter limits, so that the truth holds those given; `certainty` says what that costs.
6. `relax` answers where nothing meets the SLO: what binds, and the nearest change that holds.

`study` is the problem under way that all of them share, `nouns` the result, `planning` the order above.
"""

from headway.planner.nouns import (
    Breaking,
    Certainty,
    FrontPoint,
    Lever,
    Plan,
    Refusal,
    SearchFigures,
    Step,
    Stress,
)
from headway.planner.planning import plan

__all__ = [
    "Breaking",
    "Certainty",
    "FrontPoint",
    "Lever",
    "Plan",
    "Refusal",
    "SearchFigures",
    "Step",
    "Stress",
    "plan",
]
