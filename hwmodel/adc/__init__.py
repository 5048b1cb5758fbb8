"""ADC laws: what a converter of so many bits costs, under each published opinion.

One law a file. Adding one takes a class with the `AdcLaw` interface and a line in `ADC_LAWS`.
`bound` is the floor that all of them are checked against.
"""

from hwmodel.adc.base import AdcCost, AdcLaw
from hwmodel.adc.bound import BoundLaw, FloorCheck, check_floor
from hwmodel.adc.imc_cap import ImcCapLaw
from hwmodel.adc.linear import LinearLaw
from hwmodel.adc.pow2 import Pow2Law
from hwmodel.adc.saberi import SaberiLaw
from hwmodel.adc.sar_split import SarSplitLaw
from hwmodel.adc.selection import ADC_LAWS, adc_law
from hwmodel.adc.sense_amp import SenseAmpLaw
from hwmodel.adc.survey import SurveyLaw
from hwmodel.adc.table import TableLaw, read_table

__all__ = [
    "ADC_LAWS",
    "AdcCost",
    "AdcLaw",
    "BoundLaw",
    "FloorCheck",
    "ImcCapLaw",
    "LinearLaw",
    "Pow2Law",
    "SaberiLaw",
    "SarSplitLaw",
    "SenseAmpLaw",
    "SurveyLaw",
    "TableLaw",
    "adc_law",
    "check_floor",
    "read_table",
]
