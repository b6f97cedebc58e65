"""Token ids of the tokenizers that code patches.

    [0, codes)          a patch's code (one per stage, all stages in one range)
    codes               FRAME    a video frame begins
    codes + 1           NODATA   a patch without a valid pixel
    codes + 2           PARTIAL  a patch's mask follows
    codes + 3 …         integers: heights, widths, time stamps, scales, and the digits of masks
"""

from __future__ import annotations

from headrace.tokenizers.integers import IntegerIds
from headrace.tokenizers.patch_masks import MaskIds


class PatchIds:
    """The layout for a number of codes."""

    def __init__(self, codes: int) -> None:
        self.codes = codes
        self.frame = codes
        self.integers = IntegerIds(codes + 3)
        self.masks = MaskIds(codes + 1, codes + 2, codes + 3)
        self.size = codes + 3 + self.integers.size
