"""ADC laws: what a converter of so many bits costs, under each published opinion.

One law a file. Adding one takes a class with the `AdcLaw` interface and a line in `ADC_LAWS`.
"""

from hwmodel.adc.base import AdcCost, AdcLaw
from hwmodel.adc.linear import LinearLaw
from hwmodel.adc.pow2 import Pow2Law
from hwmodel.adc.sar_split import SarSplitLaw
from hwmodel.errors import ConfigError

__all__ = ["ADC_LAWS", "AdcCost", "AdcLaw", "LinearLaw", "Pow2Law", "SarSplitLaw", "adc_law"]

ADC_LAWS: dict[str, AdcLaw] = {
    "linear": LinearLaw(),
    "pow2": Pow2Law(),
    "sar_split": SarSplitLaw(),
}
"""Every law by its name; `sar_split` is the default of the project."""


def adc_law(name: str) -> AdcLaw:
    """The law called `name`.

    Raises:
        ConfigError: no such law; the message names those that exist.
    """
    try:
        return ADC_LAWS[name]
    except KeyError:
        raise ConfigError(f"ADC law is {name!r}; allowed: {', '.join(sorted(ADC_LAWS))}") from None
