"""Crossbar hardware: geometry, ADC resolutions and costs of ReRAM accelerators.

What is re-exported here needs no torch. `hwmodel.mapping`, `hwmodel.certificate` and
`hwmodel.simulator` work on tensors, `hwmodel.batch` on arrays; they are imported by name, so that
counting and pricing stay quick to load.
"""

from hwmodel.accelerator import POLICIES, PROVISIONINGS, CostModel
from hwmodel.adc import ADC_LAWS, AdcCost, AdcLaw, LinearLaw, Pow2Law, SarSplitLaw, adc_law
from hwmodel.compare import dominant, under_laws, under_policies
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
from hwmodel.node_scaling import NodeTable, at_node, load_node_table, node_table_names
from hwmodel.pipeline import balance_pipeline
from hwmodel.policies import AdcPolicy, read_policy

__all__ = [
    "ADC_LAWS",
    "POLICIES",
    "PROVISIONINGS",
    "AdcCost",
    "AdcLaw",
    "AdcPolicy",
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
    "NodeTable",
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
    "at_node",
    "balance_pipeline",
    "crossbar_count",
    "dominant",
    "largest_lossless_count",
    "load_node_table",
    "load_preset",
    "lossless_adc_bits",
    "node_table_names",
    "plan_layer",
    "preset_names",
    "ratio",
    "read_policy",
    "tile_count",
    "under_laws",
    "under_policies",
    "unit_line_bits",
    "whole_crossbars",
    "worst_level_sum",
]
