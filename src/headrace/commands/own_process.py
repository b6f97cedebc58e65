"""Whether this process is the command alone, and not a program of somebody else that calls it."""

from __future__ import annotations

_claimed = False


def claim() -> None:
    """Say so, where the process begins."""
    global _claimed
    _claimed = True


def is_ours() -> bool:
    """Whether process-wide choices may be made."""
    return _claimed
