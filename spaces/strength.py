"""How strongly a candidate prunes, as numbers that compare across layers, methods and crossbars."""

import math
from collections.abc import Mapping
from functools import cache

from hwmodel.crossbar import CrossbarSpec, lossless_adc_bits, worst_level_sum
from hwmodel.geometry import LayerShape
from spaces.candidate import Candidate, LayerSetting
from trainers.methods import ALL_SETTINGS

__all__ = ["BY_SEGMENT", "KINDS", "dense_adc_bits", "log_strengths"]

KINDS = ALL_SETTINGS
"""Everything that can be asked of one layer."""

BY_SEGMENT = ("nonzeros", "adc_bits", "kept_shapes")
"""Of these, what means more or less on a taller crossbar."""


def log_strengths(
    candidate: Candidate, shapes: Mapping[str, LayerShape]
) -> dict[tuple[str, str], float]:
    """The binary logarithm of what each layer keeps, by layer and kind; 0 where all is kept.

    Non-zeros count against the rows of a segment, levels against the largest integer weight, ADC
    bits against those of a dense segment, circulant blocks against the weights that they replace.
    """
    found: dict[tuple[str, str], float] = {}
    for name, shape in shapes.items():
        setting = candidate.layers.get(name, LayerSetting())
        spec = candidate.plan[name]
        segment = min(spec.wordlines, shape.rows)
        kept = {
            "nonzeros": _share(setting.nonzeros, segment),
            "adc_bits": 0.0
            if setting.adc_bits is None
            else float(min(0, setting.adc_bits - dense_adc_bits(spec, segment))),
            "kept_weights": _share(setting.kept_weights, 1),
            "weight_levels": _share(setting.weight_levels, spec.weight_limit),
            "block_size": _share(1, setting.block_size or 1),
            "kept_shapes": _share(setting.kept_shapes, 1),
            "kept_filters": _share(setting.kept_filters, 1),
        }
        found |= {(name, kind): kept[kind] for kind in KINDS}
    return found


@cache
def dense_adc_bits(spec: CrossbarSpec, rows: int) -> int:
    """ADC bits of a segment in which every weight is as large as it can be."""
    sums = [worst_level_sum(spec, index, rows, rows) for index in range(spec.slice_count)]
    return lossless_adc_bits(max(sums), spec.dac_bits)


def _share(kept: float | None, of: float) -> float:
    return 0.0 if kept is None else min(0.0, math.log2(kept / of))
