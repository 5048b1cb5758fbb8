import os
from pathlib import Path

import pytest

from hwmodel.adc import ADC_LAWS, SarSplitLaw, SenseAmpLaw, SurveyLaw, TableLaw, adc_law
from hwmodel.errors import ConfigError


@pytest.mark.parametrize("name", sorted(ADC_LAWS))
def test_plain_names_select_the_listed_laws(name: str) -> None:
    assert adc_law(name) == ADC_LAWS[name]
    assert adc_law(name).name == name


@pytest.mark.parametrize(
    ("text", "law"),
    [
        ("survey+monotone", SurveyLaw(monotone=True)),
        ("survey+monotone+extrapolate", SurveyLaw(monotone=True, extrapolate=True)),
        ("sar_split+sense_amp", SenseAmpLaw(law=SarSplitLaw())),
        ("survey+sense_amp+extrapolate", SenseAmpLaw(law=SurveyLaw(extrapolate=True))),
    ],
)
def test_options_are_taken_in_any_order(text: str, law: object) -> None:
    found = adc_law(text)
    assert found == law
    assert adc_law(found.name) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flash", r"'flash'; allowed: imc_cap, .*linear, .*survey, table:FILE\.csv"),
        ("", "ADC law is ''; allowed"),
        ("bound", "'bound'; allowed"),
        ("sar_split+monotone", "option of ADC law sar_split is 'monotone'; allowed: sense_amp"),
        ("survey+flash", "'flash'; allowed: extrapolate, monotone, sense_amp"),
        ("survey+", "option of ADC law survey is ''; allowed"),
        ("survey+monotone+monotone", "'monotone' of ADC law survey is given twice"),
        ("table:none.csv", r"ADC table none\.csv"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        adc_law(text)


@pytest.mark.parametrize("file", ["mine.csv", "a+b.csv", os.path.join("with", "folder.csv")])
def test_tables_are_read_from_any_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).write_text("bits,energy_j,area_m2\n1,1e-12,1e-9\n", encoding="utf-8")
    law = adc_law(f"table:{file}")
    assert isinstance(law, TableLaw)
    assert adc_law(law.name) == law
    amplified = adc_law(f"table:{file}+sense_amp")
    assert amplified == SenseAmpLaw(law=law)
    assert amplified.cost(1, 1e9, 32e-9).area_m2 == 1e-12
