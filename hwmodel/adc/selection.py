"""From a text to an ADC law.

    sar_split                     a law of `ADC_LAWS`
    table:path/to.csv             the user's own converters
    survey+extrapolate+monotone   a law with options

Options follow the law, each after a `+`, in any order. `sense_amp` goes with every law;
`extrapolate` and `monotone` go with `survey`. The name of the law found selects it again.
"""

from dataclasses import replace
from pathlib import Path

from hwmodel.adc.base import AdcLaw
from hwmodel.adc.imc_cap import ImcCapLaw
from hwmodel.adc.linear import LinearLaw
from hwmodel.adc.pow2 import Pow2Law
from hwmodel.adc.saberi import SaberiLaw
from hwmodel.adc.sar_split import SarSplitLaw
from hwmodel.adc.sense_amp import SenseAmpLaw
from hwmodel.adc.survey import SurveyLaw
from hwmodel.adc.table import read_table
from hwmodel.errors import ConfigError

__all__ = ["ADC_LAWS", "adc_law"]

ADC_LAWS: dict[str, AdcLaw] = {
    "imc_cap": ImcCapLaw(),
    "linear": LinearLaw(),
    "pow2": Pow2Law(),
    "saberi": SaberiLaw(),
    "sar_split": SarSplitLaw(),
    "survey": SurveyLaw(),
}
"""Every law that needs no file by its name; `sar_split` is the default of the project."""

_TABLE = "table:"
_SENSE_AMP = "sense_amp"
_SURVEY_OPTIONS = ("extrapolate", "monotone")


def adc_law(name: str) -> AdcLaw:
    """The law that `name` selects, options included.

    Raises:
        ConfigError: no such law or option, an option given twice, or a table that cannot be read;
            the message names what exists.
    """
    base, options = _split(name)
    law = read_table(Path(base.removeprefix(_TABLE))) if base.startswith(_TABLE) else _named(base)
    allowed = (*(_SURVEY_OPTIONS if isinstance(law, SurveyLaw) else ()), _SENSE_AMP)
    known = ", ".join(allowed)
    for option in options:
        if option not in allowed:
            raise ConfigError(f"option of ADC law {base} is {option!r}; allowed: {known}")
        if options.count(option) > 1:
            raise ConfigError(f"option {option!r} of ADC law {base} is given twice; allowed: once")
    if isinstance(law, SurveyLaw):
        law = replace(law, extrapolate="extrapolate" in options, monotone="monotone" in options)
    return SenseAmpLaw(law=law) if _SENSE_AMP in options else law


def _named(base: str) -> AdcLaw:
    """A law that needs no file."""
    if base not in ADC_LAWS:
        known = ", ".join(sorted(ADC_LAWS))
        raise ConfigError(f"ADC law is {base!r}; allowed: {known}, {_TABLE}FILE.csv")
    return ADC_LAWS[base]


def _split(name: str) -> tuple[str, list[str]]:
    """The law and its options."""
    if not name.startswith(_TABLE):
        base, *options = name.split("+")
        return base, options
    # A path may hold a '+' of its own, and takes one option only.
    base = name.removesuffix(f"+{_SENSE_AMP}")
    return base, [_SENSE_AMP] if base != name else []
