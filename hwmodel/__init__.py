"""Crossbar hardware: geometry, ADC resolutions and costs of ReRAM accelerators.

What is re-exported here needs no torch. `hwmodel.mapping`, `hwmodel.certificate` and
`hwmodel.simulator` work on tensors and are imported by name, so that counting and pricing stay
quick to load.
"""

from hwmodel.accelerator import POLICIES, PROVISIONINGS, CostModel
from hwmodel.adc import ADC_LAWS, AdcCost, AdcLaw, LinearLaw, Pow2Law, SarSplitLaw, adc_law
from hwmodel.components import Component, Preset, load_preset, preset_names
from hwmodel.cost_report import (
    CostNode,
    CostReport,
    CostTotals,
    LayerCost,
    NameplateLevel,
    PeakReport,
    ratio,
)
from hwmodel.crossbar import (
    CrossbarPlan,
    CrossbarSpec,
    SignEncoding,
    largest_lossless_count,
    lossless_adc_bits,
    worst_level_sum,
)
from hwmodel.errors import (
    CertificateError,
    CheckpointError,
    ConfigError,
    ConstraintError,
    CrossfrontError,
    DataError,
    DivergedError,
    MappingError,
    OutOfRangeError,
    SpecError,
    StudyError,
    TrackingError,
)
from hwmodel.geometry import (
    LayerShape,
    MappedLayer,
    crossbar_count,
    plan_layer,
    tile_count,
    unit_line_bits,
    whole_crossbars,
)

__all__ = [
    "ADC_LAWS",
    "POLICIES",
    "PROVISIONINGS",
    "AdcCost",
    "AdcLaw",
    "CertificateError",
    "CheckpointError",
    "Component",
    "ConfigError",
    "ConstraintError",
    "CostModel",
    "CostNode",
    "CostReport",
    "CostTotals",
    "CrossbarPlan",
    "CrossbarSpec",
    "CrossfrontError",
    "DataError",
    "DivergedError",
    "LayerCost",
    "LayerShape",
    "LinearLaw",
    "MappedLayer",
    "MappingError",
    "NameplateLevel",
    "OutOfRangeError",
    "PeakReport",
    "Pow2Law",
    "Preset",
    "SarSplitLaw",
    "SignEncoding",
    "SpecError",
    "StudyError",
    "TrackingError",
    "adc_law",
    "crossbar_count",
    "largest_lossless_count",
    "load_preset",
    "lossless_adc_bits",
    "plan_layer",
    "preset_names",
    "ratio",
    "tile_count",
    "unit_line_bits",
    "whole_crossbars",
    "worst_level_sum",
]
