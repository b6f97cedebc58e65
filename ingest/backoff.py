"""How long to wait before a source is tried again."""

from __future__ import annotations

import random

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
BUDGET_S = 15 * 60.0  #: of trying in vain; beyond it the source counts as parked, and is tried now and then


def pause_s(attempt: int, dice: random.Random) -> float:
    """Full jitter: anything up to 0.5 s x 2^attempt, at most 60 s.

    Source: Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """
    return dice.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempt, 16)))
