import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from hwmodel.adc import ADC_LAWS
from hwmodel.components import preset_names
from search.cli import app, main, options
from search.cli.messages import print_json
from search.cli.output import StudyDisplay
from search.config import load_config, read_config
from search.study import Study
from tests.search.fakes import done, failed, new_study, try_one
from trainers.data import dataset_names
from trainers.methods import METHODS
from trainers.networks import NETWORKS

COMMANDS = [
    command.name or command.callback.__name__
    for command in app.registered_commands
    if command.callback is not None
]
TOTALS = {
    "adc_area_m2",
    "adc_power_w",
    "area_m2",
    "power_w",
    "energy_j",
    "latency_s",
    "ops_per_s",
    "ops_per_s_per_w",
    "ops_per_s_per_m2",
    "crossbars",
    "effective_ops_per_s",
    "effective_ops_per_s_per_w",
    "effective_ops_per_s_per_m2",
}


ADC = {"law", "bits", "rate_hz", "node_nm", "energy_j", "area_m2", "extrapolated", "source"}


class Answer(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as strict JSON: nothing before, nothing after."""

        def refuse(word: str) -> None:
            raise AssertionError(f"{word} is no JSON")

        return json.loads(self.out, parse_constant=refuse)


Run = Callable[..., Answer]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs `crossfront` with arguments, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["crossfront", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Answer(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A study below `studies` with a front of two."""
    made = new_study(tmp_path / "studies", constraints=["accuracy >= 0.2"])
    for evaluation in (done(0.85, 0.5), done(0.7, 0.25), done(0.6, 0.6), failed(), done(0.1, 0.1)):
        try_one(made, evaluation)
    return made


def one_line(answer: Answer) -> str:
    """The message of a user's mistake, which is all that the command says."""
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith("crossfront: ")
    assert answer.err.count("\n") == 1
    assert answer.err.endswith("\n")
    return answer.err


# Help.


def test_version_is_the_installed_one(run: Run) -> None:
    assert run("--version").out.startswith("crossfront 0.")


def test_doctor_ends_badly_where_something_is_broken(run: Run, tmp_path: Path) -> None:
    found = run("doctor", "--storage", tmp_path / "studies")
    assert (found.code, found.err) == (0, "")
    assert "ok       Python" in found.out
    (tmp_path / "file").touch()
    broken = run("doctor", "--storage", tmp_path / "file", "--json")
    assert broken.code == 1
    assert {"name", "verdict", "found", "mend"} == set(broken.json[0])


@pytest.mark.parametrize("command", ["list", "adc", "compress", "verify", "search", "export"])
def test_command_that_lacks_everything_shows_its_help(run: Run, command: str) -> None:
    answer = run(command)
    assert "--json" in answer.out + answer.err  # all of its options
    assert "Missing" not in answer.out + answer.err


@pytest.mark.parametrize("line", ["list presets", "list laws --json", "adc --bits 4", "--help"])
def test_what_needs_no_torch_does_not_wait_for_it(line: str) -> None:
    code = (
        "import sys; from search.cli import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'ray', 'optuna', 'mlflow'} & set(sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", code, *line.split()], capture_output=True)
    assert (finished.returncode, finished.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("list pre", {"presets"}),
        ("cost --preset isa", {"isaac"}),
        ("cost --law sar", {"sar_split"}),
        ("pareto ti", {"tiny"}),
        ("pareto --storage other ne", {"nearby"}),
        ("pareto tiny --under po", {"pow2"}),
        ("search a.toml --warm-start ti", {"tiny"}),
        ("search a.toml --address lo", {"local"}),
        ("export tiny --select kn", {"knee"}),
        ("cost --network res", {"resnet18", "resnet20", "resnet32"}),
        ("cost --policy chip", {"chip_max"}),
        ("adc --law bo", {"bound"}),
    ],
)
def test_shell_completes_names_without_torch(tmp_path: Path, line: str, offered: set[str]) -> None:
    new_study(tmp_path / "studies")
    new_study(tmp_path / "other", name="nearby")
    words = f"crossfront {line}"
    code = (
        "import atexit, sys; from search.cli import app\n"
        "atexit.register(lambda: print(*{'torch', 'ray', 'mlflow'} & set(sys.modules)))\n"
        "app(prog_name='crossfront')"
    )
    environment = {"_CROSSFRONT_COMPLETE": "complete_bash", "COMP_WORDS": words}
    environment |= {"COMP_CWORD": str(len(words.split()) - 1), "PYTHONPATH": os.getcwd()}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert offered <= set(found.stdout.split())
    assert not {"torch", "ray", "mlflow"} & set(found.stdout.split())


def test_offered_names_are_all_there_are() -> None:
    assert tuple(NETWORKS) == options.NETWORKS


def test_help_lists_every_command(run: Run) -> None:
    answer = run("--help")
    assert answer.code == 0
    assert COMMANDS
    for name in COMMANDS:
        assert f" {name} " in answer.out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_contains_an_example(run: Run, name: str) -> None:
    answer = run(name, "--help")
    assert answer.code == 0
    assert f"crossfront {name}" in " ".join(answer.out.split("Usage:")[1].split("\n", 1)[1].split())


@pytest.mark.parametrize(
    "arguments", [["nope"], ["adc", "--json"], ["adc", "--bits", "x"], ["cost", "--no"]]
)
def test_wrong_usage_is_a_mistake_without_a_traceback(run: Run, arguments: list[str]) -> None:
    answer = run(*arguments)
    assert answer.code == 2
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert "Usage:" in answer.err


# list, adc, cost.


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("networks", NETWORKS),
        ("datasets", dataset_names()),
        ("methods", METHODS),
        ("presets", preset_names()),
        ("laws", ADC_LAWS),
        ("encodings", ["differential", "offset", "flipped"]),
    ],
)
def test_list_prints_names_line_by_line_or_as_json(run: Run, what: str, names: Any) -> None:
    assert run("list", what).out.split("\n") == [*names, ""]
    assert run("list", what, "--json").json == list(names)


def test_list_of_something_else_names_what_there_is(run: Run) -> None:
    assert "'shoes'; allowed: networks, datasets" in one_line(run("list", "shoes"))


@pytest.mark.parametrize("law", ADC_LAWS)
def test_adc_json_has_exactly_the_documented_keys(run: Run, law: str) -> None:
    found = run("adc", "--law", law, "--bits", 6, "--json").json
    assert set(found) == ADC
    expected = ADC_LAWS[law].cost(6, 1.28e9, 32e-9)
    assert (found["law"], found["bits"], found["node_nm"]) == (law, 6, 32.0)
    assert (found["energy_j"], found["area_m2"]) == (expected.energy_j, expected.area_m2)


def test_adc_says_when_it_extrapolates(run: Run) -> None:
    assert run("adc", "--bits", 2, "--json").json["extrapolated"] is True
    assert "(extrapolated)" in run("adc", "--bits", 2).out
    assert "(extrapolated)" not in run("adc", "--bits", 8).out


def test_adc_says_where_a_law_is_valid(run: Run) -> None:
    assert "valid for 4-10 bits" in run("adc", "--bits", 8).out


def test_adc_puts_all_laws_side_by_side(run: Run) -> None:
    answer = run("adc", "--law", "all", "--bits", "1..10")
    for name in (*ADC_LAWS, "bound"):
        assert f" {name} " in answer.out
        assert f"\n{name}: " in answer.out
    rows = [line.split("│")[1:-1] for line in answer.out.split("\n") if line.startswith("│")]
    energies, areas = rows[:10], rows[10:]
    assert [row[0].strip() for row in energies] == [str(bits) for bits in range(1, 11)]
    columns = [*ADC_LAWS, "bound"]
    cell = dict(zip(columns, energies[0][1:], strict=True))
    assert cell["sar_split"].strip() == "0.1957*"
    assert cell["survey"].strip() == "-"
    assert dict(zip(columns, energies[9][1:], strict=True))["imc_cap"].strip() == "1.659!"
    assert dict(zip(columns[:-1], areas[7][1:], strict=True))["survey"].strip() == "6469.3"


def test_adc_json_of_several_is_a_list_without_what_is_refused(run: Run) -> None:
    answer = run("adc", "--law", "all", "--bits", "3..4", "--json")
    assert all(set(found) == ADC for found in answer.json)
    priced = [(found["law"], found["bits"]) for found in answer.json]
    pairs = {(law, bits) for law in (*ADC_LAWS, "bound") for bits in (3, 4)}
    assert set(priced) == pairs - {("survey", 3)}
    assert len(priced) == len(set(priced))
    assert answer.err.startswith("left out: ADC law survey asked for 3 bits")


def test_adc_json_of_a_range_is_a_list_even_of_one_answer(run: Run) -> None:
    assert [x["bits"] for x in run("adc", "--law", "survey", "--bits", "3..4", "--json").json] == [
        4
    ]


def test_adc_refused_altogether_is_one_line(run: Run) -> None:
    assert "law survey asked for 2 bits" in one_line(
        run("adc", "--law", "survey", "--bits", "2..3")
    )
    assert "ADC bits is 0" in one_line(run("adc", "--law", "all", "--bits", "0"))
    assert "ADC rate_hz is" in one_line(run("adc", "--law", "all", "--bits", "8", "--rate", "-1"))


def test_adc_takes_options_the_floor_and_a_table(run: Run) -> None:
    law = "survey+sense_amp+extrapolate"
    found = run("adc", "--law", law, "--bits", 1, "--json").json
    assert (found["law"], found["energy_j"]) == ("survey+extrapolate+sense_amp", 1.6e-15)
    assert run("adc", "--law", "bound", "--bits", 8, "--json").json["area_m2"] == 0
    assert "um2 per converter" not in run("adc", "--law", "bound", "--bits", "1..2").out
    Path("mine.csv").write_text("bits,energy_j,area_m2\n4,2e-12,1e-9\n6,1e-12,1e-9\n")
    answer = run("adc", "--law", "table:mine.csv", "--bits", 4, "--json")
    assert answer.json["energy_j"] == 2e-12
    assert "warning: ADC table mine.csv: not monotone: energy_j falls" in answer.err
    assert "(line 3)" in answer.err


@pytest.mark.parametrize("bits", ["4..", "..4", "5..2", "0..4", "1..33", "1...4", "4.5"])
def test_adc_refuses_ranges_that_are_none(run: Run, bits: str) -> None:
    answer = run("adc", "--bits", bits)
    assert (answer.code, answer.out) == (2, "")
    assert "an integer, or a range" in answer.err


def test_adc_plots(run: Run) -> None:
    answer = run("adc", "--law", "all", "--bits", "1..4", "--plot", "laws.svg", "--json")
    assert answer.json
    assert "wrote laws.svg" in answer.err
    assert Path("laws.svg").read_text().startswith("<?xml")
    assert "laws.txt" in one_line(run("adc", "--bits", 4, "--plot", "laws.txt"))


def test_cost_draws_pictures(run: Run) -> None:
    answer = run("cost", "--nonzeros", 5, "--plot", "parts.svg", "--plot-bits", "bits.png")
    assert "wrote parts.svg" in answer.err
    assert Path("parts.svg").read_text().startswith("<?xml")
    assert Path("bits.png").read_bytes().startswith(b"\x89PNG")


def test_cost_stands_where_only_dense_has_no_price(run: Run) -> None:
    Path("mine.csv").write_text("bits,energy_j,area_m2\n3,4e-13,3e-10\n4,6e-13,4e-10\n")
    asked = ("cost", "--nonzeros", 2, "--law", "table:mine.csv", "--plot", "parts.svg")
    found = run(*asked, "--json").json
    assert found["totals"]["adc_area_m2"] > 0
    assert (found["dense"], found["ratio"]) == (None, None)
    assert "asked for 7 bits; allowed: 3, 4" in found["dense_refused"]
    assert "no price for the dense network's worst case on the same" in run(*asked).out


def test_band_goes_on_where_the_chosen_law_refuses(run: Run) -> None:
    found = run("cost", "--nonzeros", 2, "--law", "survey", "--band", "--json").json
    assert "asked for 3 bits" in found["refused"]
    assert "totals" not in found
    assert set(found["band"]["laws"]) >= {"sar_split", "pow2"}
    assert "survey refused" in run("cost", "--nonzeros", 2, "--law", "survey", "--band").out


def test_cost_json_has_exactly_the_documented_keys(run: Run) -> None:
    found = run("cost", "--network", "lenet5", "--nonzeros", 5, "--json").json
    assert set(found) == {
        "network",
        "preset",
        "law",
        "policy",
        "extrapolated",
        "layers",
        "digital",
        "totals",
        "tree",
        "dense",
        "ratio",
        "ratio_to",
    }
    for layer in found["layers"]:
        assert set(layer) == {
            "name",
            "crossbars",
            "wordlines",
            "bitlines",
            "adc_bits",
            "adc_bits_per_slice",
            "conversions",
            "replication",
            "utilisation",
        }
        assert max(layer["adc_bits_per_slice"]) == layer["adc_bits"] == 4
    assert set(found["totals"]) == set(found["dense"]) == TOTALS
    assert set(found["ratio"]) == {"adc_area", "adc_power", "area", "power", "energy"}


def leaves(node: dict[str, Any]) -> list[dict[str, Any]]:
    if not node["children"]:
        return [node]
    return [leaf for child in node["children"] for leaf in leaves(child)]


def test_cost_totals_are_sums_and_ratios_quotients(run: Run) -> None:
    found = run("cost", "--network", "mlp", "--nonzeros", 5, "--json").json
    totals, dense = found["totals"], found["dense"]
    for key in ("area_m2", "power_w", "energy_j"):
        assert sum(leaf[key] for leaf in leaves(found["tree"])) == pytest.approx(totals[key])
    assert sum(layer["crossbars"] for layer in found["layers"]) == totals["crossbars"]
    for name, key in (
        ("adc_area", "adc_area_m2"),
        ("adc_power", "adc_power_w"),
        ("area", "area_m2"),
        ("power", "power_w"),
        ("energy", "energy_j"),
    ):
        assert found["ratio"][name] == pytest.approx(dense[key] / totals[key])
        assert found["ratio"][name] > 1
    unpruned = run("cost", "--network", "mlp", "--json").json
    assert set(unpruned["ratio"].values()) == {1.0}
    assert unpruned["totals"] == dense


def test_cost_takes_sizes_law_and_policy(run: Run) -> None:
    arguments = ["--wordlines", 64, "--bitlines", 256, "--law", "pow2", "--policy", "chip_max"]
    found = run("cost", "--network", "mlp", "--image", "3x8X8", *arguments, "--json").json
    assert (found["law"], found["policy"]) == ("pow2", "chip_max")
    assert {(layer["wordlines"], layer["bitlines"]) for layer in found["layers"]} == {(64, 256)}


def test_policies_are_reported_side_by_side(run: Run) -> None:
    found = run("cost", "--network", "mlp", "--nonzeros", 5, "--policy", "all", "--json").json
    totals = found["policies"]["totals"]
    assert set(totals) == {"layer", "chip_max", "tile_types:2", "slice", "early_stop"}
    assert found["policies"]["refused"] == {}
    assert found["policy"] == "layer"
    assert totals["layer"] == found["totals"]
    one = run("cost", "--network", "mlp", "--nonzeros", 5, "--policy", "slice", "--json").json
    assert totals["slice"] == one["totals"]
    shown = run("cost", "--network", "mlp", "--policy", "all").out
    assert all(name in shown for name in totals)


def test_band_gives_every_law_and_what_dominates(run: Run) -> None:
    found = run("cost", "--network", "mlp", "--nonzeros", 5, "--band", "--json").json
    band = found["band"]
    assert set(band["laws"]) | set(band["refused"]) == set(ADC_LAWS)
    assert band["laws"][found["law"]]["totals"] == found["totals"]
    for key, span in band["range"].items():
        assert span["low"] <= found["totals"][key] <= span["high"]
    for entry in band["laws"].values():
        assert set(entry["dominant"]) == {"area_m2", "energy_j", "power_w"}
    assert "largest component" in run("cost", "--network", "mlp", "--band").out


def test_a_smaller_node_costs_less(run: Run) -> None:
    plain = run("cost", "--network", "mlp", "--json").json["totals"]
    small = run("cost", "--network", "mlp", "--node", 16, "--json").json["totals"]
    assert run("cost", "--network", "mlp", "--node", 32, "--json").json["totals"] == plain
    for key in ("area_m2", "energy_j", "adc_area_m2"):
        assert small[key] < plain[key]


def test_peak_of_isaac_is_its_nameplate(run: Run) -> None:
    """ISAAC-CE, ISCA 2016, Table I: 330 mW and 0.372 mm2 a tile, 65.8 W and 85.4 mm2 a chip."""
    found = run("cost", "--preset", "isaac", "--peak", "--json").json
    published = {
        "ima": (0.0241, 0.0131e-6),
        "tile": (0.330, 0.372e-6),
        "tiles": (55.4, 62.5e-6),
        "chip": (65.8, 85.4e-6),
    }
    for level, (power_w, area_m2) in published.items():
        assert set(found[level]) == {"power_w", "area_m2"}
        assert found[level]["power_w"] == pytest.approx(power_w, rel=2e-3)
        assert found[level]["area_m2"] == pytest.approx(area_m2, rel=2e-3)


def test_nameplate_comes_before_the_network(run: Run) -> None:
    lines = run("cost", "--preset", "isaac", "--peak").out.splitlines()
    assert lines[0] == "nameplate of preset isaac, ADC law sar_split, all busy"
    assert [line.split()[0] for line in lines[1:6]] == ["ima", "tile", "tiles", "chip", "lenet5"]


def test_peak_adds_to_the_json_of_cost(run: Run) -> None:
    """The design: `cost --preset isaac --peak` adds "ima", "tile", "tiles", "chip"."""
    plain = run("cost", "--preset", "isaac", "--json").json
    assert set(plain) <= set(run("cost", "--preset", "isaac", "--peak", "--json").json)


@pytest.mark.parametrize("arguments", [[], ["--peak"], ["--peak", "--adc-bits", 5]])
def test_cost_is_printed_for_people(run: Run, arguments: list[object]) -> None:
    answer = run("cost", *arguments)
    assert answer.code == 0
    assert "{" not in answer.out
    assert answer.err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adc", "--bits", 0], "ADC bits is 0"),
        (["adc", "--bits", 99], "ADC bits is 99"),
        (["adc", "--bits", 4, "--law", "x"], "ADC law is 'x'; allowed: "),
        (["adc", "--bits", 4, "--rate", -1], "rate_hz is -1.0"),
        (["adc", "--bits", 4, "--node", 0], "node_m is 0.0"),
        (["cost", "--network", "nope"], "unknown network 'nope'; allowed: "),
        (["cost", "--network", "nomodule:f"], "cannot be imported"),
        (["cost", "--image", "28x28"], "--image is '28x28'; allowed: channels x height x width"),
        (["cost", "--image", "1x0x28"], "--image is '1x0x28'"),
        (["cost", "--nonzeros", 0], "nonzeros is 0"),
        (["cost", "--nonzeros", 200], "nonzeros is 200; allowed: 1 to 128"),
        (["cost", "--wordlines", 0], "wordlines is 0"),
        (["cost", "--bitlines", 2], "bitlines is 2; one output needs 8"),
        (["cost", "--preset", "nope"], "preset is 'nope'; allowed: forms-like, isaac"),
        (["cost", "--policy", "x"], "ADC policy is 'x'; allowed: layer, chip_max"),
        (["cost", "--policy", "tile_types:0"], "allowed after 'tile_types:': a whole number, 1 up"),
        (["cost", "--node", 22], "node is 22 nm; allowed by table 'stillmaker-baas': 130, 90"),
        (["cost", "--node-table", "x"], "node table is 'x'; allowed: stillmaker-baas"),
        (["cost", "--provisioning", "x"], "provisioning is 'x'"),
        (["cost", "--peak", "--adc-bits", 99], "ADC bits is 99"),
        (["cost", "nofolder"], "nofolder"),
        (["verify", "nofolder"], "nofolder"),
        (["verify", "x", "--faults", 1.5], "fault rate is 1.5; allowed: 0 to 1"),
        (["verify", "x", "--faults", "nan"], "fault rate is nan; allowed: 0 to 1"),
        (["verify", "x", "--variation", -1], "variation is -1.0; allowed: a finite number"),
        (["verify", "x", "--read-noise", "inf"], "read_noise is inf; allowed: a finite number"),
        (["compress", "no.toml", "--to", "out"], "config 'no.toml' cannot be read"),
        (["search", "no.toml"], "config 'no.toml' cannot be read"),
        (["resume", "x"], "no study 'x' in 'studies'; studies there: none"),
        (["pareto", "x"], "no study 'x'"),
        (["pareto", "x", "--json"], "no study 'x'"),
        (["export", "x", "--to", "out"], "no study 'x'"),
        (["ui", "x"], "no study 'x'"),
    ],
)
def test_mistake_is_one_line_on_standard_error(
    run: Run, arguments: list[object], message: str
) -> None:
    assert message in one_line(run(*arguments))


def test_image_too_small_for_the_network_is_one_line(run: Run) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        message = one_line(run("cost", "--image", "1x3x3"))
    assert "LeNet-5 on images of 3x3" in message
    assert warned == []


# search and resume, up to the point where a study would start.

TINY = '[network]\nname = "mlp"\n[data]\ntest_count = 100\n'


def write(text: str, name: str = "tiny.toml") -> Path:
    Path(name).write_text(text, encoding="utf-8")
    return Path(name)


def test_shown_configuration_loads_back(run: Run, tmp_path: Path) -> None:
    write(TINY)
    answer = run("search", "tiny.toml", "--show-config", "--max-trials", 7, "--name", "n")
    assert answer.code == 0
    assert answer.err == ""
    shown = tomllib.loads(answer.out)
    assert (shown["study"]["trials"], shown["study"]["name"]) == (7, "n")
    expected = load_config(Path("tiny.toml"), {"study": {"trials": 7, "name": "n"}})
    assert read_config(shown) == expected
    write(answer.out, "again.toml")
    assert run("search", "again.toml", "--show-config").out == answer.out
    assert not (tmp_path / "studies").exists()


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("[stdy]", [], "config: unknown key 'stdy'; nearest allowed: 'study'"),
        ("[study", [], "is not TOML"),
        ("", ["--max-trials", 0], "study.trials is 0"),
        ("", ["--workers", 0], "ray.workers is 0"),
        ("", ["--time-budget", -1], "study.time_budget_s is -1.0"),
        ("", ["--name", "a/b"], "study.name is 'a/b'"),
        ("[network]\nname = 'nope'", [], "unknown network 'nope'"),
        ("[network]\nname = 'mlp'\narguments = {wide = 3}", [], "refused its arguments"),
        ("[data]\nname = 'nope'", [], "unknown data set 'nope'"),
        ("[data]\nname = 'parquet'\npath = 'nope'", [], "nope does not exist"),
        ("[train]\ndevice = 'abacus'", [], "train.device is 'abacus'"),
        ("[space]\ncell_bits = [9]", [], "cell_bits is 9; allowed: an integer from 1 to 8"),
        ("[space]\nwordlines = [0, 64]", [], "space.wordlines contains 0"),
        ("[space.layers.fc7]", [], "space.layers names 'fc7'; the network's layers: "),
        (TINY, ["--storage", "tiny.toml"], "storage 'tiny.toml' cannot be written"),
        (TINY, ["--tracking-uri", "http://127.0.0.1:1"], "http://127.0.0.1:1 cannot be reached"),
        (TINY, ["--address", "127.0.0.1:1"], "'127.0.0.1:1' cannot be joined: "),
        (TINY, ["--address", "head"], "'head' cannot be joined: allowed: auto, local, HOST:PORT"),
    ],
)
def test_mistake_in_a_study_leaves_no_study(
    run: Run, tmp_path: Path, text: str, options: list[object], message: str
) -> None:
    write(text)
    assert message in one_line(run("search", "tiny.toml", *options))
    assert list(tmp_path.rglob("journal.log")) == []


def test_missing_dense_weights_leave_no_study(
    run: Run, tmp_path: Path, empty_database: Path
) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "mlflow.db").write_bytes(empty_database.read_bytes())
    write('[network]\nname = "mlp"\ncheckpoint = "no.safetensors"\n[data]\ntest_count = 100\n')
    answer = run("search", "tiny.toml")
    assert "no.safetensors" in answer.err
    assert answer.code == 2
    assert list(tmp_path.rglob("journal.log")) == []


def test_warm_start_from_nothing_leaves_no_study(run: Run, study: Study) -> None:
    write(TINY)
    message = one_line(run("search", "tiny.toml", "--name", "new", "--warm-start", "old"))
    assert "no study 'old' in 'studies'; studies there: tiny" in message
    assert not (study.folder.storage / "new").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--address", "127.0.0.1:1", "cannot be joined: "),
        ("--tracking-uri", "http://127.0.0.1:1", "cannot be reached"),
        ("--tracking-uri", "nonsense://x", "nonsense://x"),
    ],
)
def test_service_that_does_not_answer_is_refused_at_once_and_not_kept(
    run: Run, study: Study, option: str, value: str, message: str
) -> None:
    assert message in one_line(run("resume", "tiny", option, value))
    assert Study.open(study.folder).config == study.config


def test_interface_needs_a_port_and_a_store(run: Run, study: Study) -> None:
    for port in (0, 65536):
        assert run("ui", "tiny", "--port", port).code == 2
    study.reconfigure({"mlflow": {"tracking_uri": "nonsense://x"}})
    assert "nonsense://x" in one_line(run("ui", "tiny"))


def test_name_that_is_taken_is_refused(run: Run, study: Study) -> None:
    write(TINY)
    message = one_line(run("search", "tiny.toml", "--name", "tiny"))
    assert "study 'tiny' exists in 'studies' with other settings (" in message
    assert "crossfront resume tiny" in message


def test_study_that_is_being_run_is_not_reconfigured(run: Run, study: Study) -> None:
    with (study.folder.path / "driver.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = one_line(run("resume", "tiny", "--max-trials", 99))
    assert "study 'tiny' is being run by another process; its trials can be changed" in message
    assert Study.open(study.folder).config.study.trials == 12


# pareto and export.


def test_pareto_json_is_the_documented_one(run: Run, study: Study) -> None:
    found = run("pareto", "tiny", "--json").json
    assert set(found) == {
        "study",
        "objectives",
        "reference",
        "hypervolume",
        "dense",
        "trials",
        "front",
    }
    assert [member["number"] for member in found["front"]] == [0, 1]
    assert found["trials"] == {
        "complete": 4,
        "pruned": 0,
        "failed": 1,
        "infeasible": 0,
        "projected": 0,
    }
    assert found["dense"]["values"]["accuracy"] == 0.9


def test_pareto_shows_front_ratios_and_what_to_type_next(run: Run, study: Study) -> None:
    answer = run("pareto", "tiny")
    assert answer.code == 0
    assert answer.err == ""
    assert "dense" in answer.out
    assert "crossfront export tiny --select knee --to out/" in answer.out
    assert "ADC law sar_split, policy layer" in answer.out


def test_pareto_says_against_what_its_ratios_are_and_how_good_the_front_is(
    run: Run, study: Study
) -> None:
    out = run("pareto", "tiny").out
    assert "than the trained dense network, with the ADCs that it is certified for" in out
    assert f"hypervolume {study.hypervolume():.4f} (0: no better than the reference" in out


def test_dense_row_names_its_crossbar_and_adcs(run: Run, study: Study) -> None:
    (row,) = [line for line in run("pareto", "tiny").out.splitlines() if "dense │" in line]
    assert [cell.strip() for cell in row.split("│")][-3:-1] == ["128x128", "5 3"]


def test_pareto_under_another_law_shows_ratios_and_dense_adcs(run: Run, tmp_path: Path) -> None:
    from tests.search.test_rescore import study_of

    study_of(tmp_path / "studies", (0.88, 42, 40), (0.85, 5, 40))
    out = run("pareto", "tiny", "--under", "pow2").out
    found = run("pareto", "tiny", "--under", "pow2", "--json").json
    assert "times less than the trained dense network" in out
    dense, member = found["dense"]["values"], found["front"][0]["values"]
    assert f"{dense['adc_power'] / member['adc_power']:.2f}" in out
    (row,) = [line for line in out.splitlines() if "dense │" in line]
    assert row.split("│")[-2].strip() == "9"
    assert f"hypervolume {found['hypervolume']:.4f}" in out


def test_pareto_draws_the_front(run: Run, study: Study, tmp_path: Path) -> None:
    assert run("pareto", "tiny", "--plot", "front.svg").code == 0
    first = Path("front.svg").read_text(encoding="utf-8")
    assert "<svg" in first
    assert run("pareto", "tiny", "--json", "--plot", "front.svg").json["front"]
    assert Path("front.svg").read_text(encoding="utf-8") == first
    assert "'front.gif'; allowed" in one_line(run("pareto", "tiny", "--plot", "front.gif"))
    assert "front.png: " in one_line(run("pareto", "tiny", "--plot", "nowhere/front.png"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "study 'tiny' has no measured trial to draw yet"),
        ({"objectives": ["area"]}, "study.objectives is ['area']; a picture needs two or more"),
    ],
)
def test_pareto_that_cannot_be_drawn_says_why(
    run: Run, tmp_path: Path, settings: dict[str, Any], expected: str
) -> None:
    new_study(tmp_path / "studies", **settings)
    assert expected in one_line(run("pareto", "tiny", "--plot", "front.svg"))


def test_quiet_leaves_the_result_and_no_hints(run: Run, study: Study, tmp_path: Path) -> None:
    answer = run("pareto", "tiny", "-q")
    assert answer.code == 0
    assert "dense" in answer.out
    assert "crossfront" not in answer.out
    assert str(study.folder.path) not in answer.out


def test_quiet_doctor_says_what_is_not_well(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = run("doctor", "--quiet", "--storage", tmp_path / "file")
    assert answer.code == 1
    assert "broken   storage" in answer.out
    assert "ok  " not in answer.out


def test_pareto_shows_means_and_limits_over_seeds(run: Run, tmp_path: Path) -> None:
    study = new_study(tmp_path / "studies", {"fidelity": {"seeds": 2}}, trials=1)
    for accuracy in (0.85, 0.8):
        try_one(study, replace(done(accuracy, 0.5), epochs=1))
    answer = run("pareto", "tiny")
    assert "0.8250" in answer.out
    assert "0.8000 to 0.8500, n=2" in " ".join(answer.out.split())


def test_pareto_finds_a_study_in_another_storage(run: Run, tmp_path: Path) -> None:
    new_study(tmp_path / "else where", name="far")
    answer = run("pareto", "far", "--storage", tmp_path / "else where")
    assert answer.code == 0
    assert f"crossfront ui far --storage '{tmp_path / 'else where'}'" in answer.out
    message = one_line(run("pareto", "near", "--storage", tmp_path / "else where"))
    assert "studies there: far" in message


def test_empty_front_says_which_bound_is_to_blame(run: Run, tmp_path: Path) -> None:
    study = new_study(tmp_path / "studies", constraints=["accuracy >= 0.99"])
    try_one(study, done(0.8, 0.5))
    blame = "'accuracy >= 0.99' excludes 1 of 1 trials (nearest: 0.8)"
    out = run("pareto", "tiny").out
    assert blame in out
    assert "crossfront ui tiny" in out
    assert "crossfront export" not in out  # there is nothing to export
    assert blame in one_line(run("export", "tiny", "--to", "out"))


def test_spent_budget_says_so_and_how_to_give_more(
    run: Run, tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = new_study(tmp_path / "studies", trials=1)
    shutil.copy(empty_database, study.folder.storage / "mlflow.db")
    study.folder.dense_weights.touch()
    try_one(study, done(0.8, 0.5))
    monkeypatch.setattr("search.run.load_problem", lambda config: SimpleNamespace(dataset=None))
    answer = run("resume", "tiny")
    assert answer.code == 0
    assert "nothing left to do: 1 of 1 trials are spent (more: --max-trials)" in answer.err


@pytest.mark.parametrize("dense", [True, False])
def test_pareto_of_a_study_without_results(run: Run, tmp_path: Path, dense: bool) -> None:
    new_study(tmp_path / "studies", dense=dense)
    assert run("pareto", "tiny").code == 0
    assert run("pareto", "tiny", "--json").json["front"] == []


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("2", "trial 2 is not on the front; front members: 0, 1"),
        ("99", "trial 99 is not on the front"),
        ("best", "select is 'best'; allowed: knee, one of accuracy"),
        ("accuracy>=0.99,min:area", "no front member keeps accuracy >= 0.99"),
        ("accuracy>=x,min:area", "constraint 'accuracy>=x'"),
        ("-1", "select is '-1'"),
    ],
)
def test_export_of_nothing_is_refused(
    run: Run, study: Study, tmp_path: Path, rule: str, message: str
) -> None:
    assert message in one_line(run("export", "tiny", f"--select={rule}", "--to", "out"))
    assert not (tmp_path / "out").exists()


def test_export_of_an_empty_front_is_refused(run: Run, tmp_path: Path) -> None:
    new_study(tmp_path / "studies")
    assert "front is empty" in one_line(run("export", "tiny", "--to", "out"))
    assert "front is empty" in one_line(run("export", "tiny", "--select=0", "--to", "out"))


def test_export_without_its_checkpoint_names_the_file(
    run: Run, study: Study, tmp_path: Path
) -> None:
    message = one_line(run("export", "tiny", "--to", "out"))
    assert "trial-0000" in message
    assert not (tmp_path / "out").exists()


def test_export_over_something_else_is_refused(run: Run, study: Study, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    assert "holds something else" in one_line(run("export", "tiny", "--to", "out"))
    assert (tmp_path / "out" / "thesis.tex").exists()


# Output.


def test_numbers_that_json_has_no_word_for_become_null(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_json({"a": [float("inf"), 1.5], "b": {"c": float("-inf")}, "d": (1, None)})
    found = json.loads(capsys.readouterr().out)
    assert found == {"a": [None, 1.5], "b": {"c": None}, "d": [1, None]}


def test_nan_becomes_null_too(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": float("nan")})
    assert json.loads(capsys.readouterr().out) == {"a": None}


def test_trials_are_told_without_the_words_of_pruning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    tables = {"fidelity": {"rungs": [1]}, "train": {"epochs": 2}}
    study = new_study(tmp_path, tables, trials=1)
    display = StudyDisplay()
    display.update(study)
    study.judge = lambda number: False
    try_one(study, done(0.8, 0.5))
    display.update(study)
    assert capsys.readouterr().err == (
        "[1/1] trial 0 stopped early: accuracy 0.8000, area 5e+05 mm2, power 500 mW; on the front\n"
    )
    assert study.counts()["pruned"] == 1  # what programs read keeps its name


def test_scan_is_one_line_of_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    tables = {"fidelity": {"projection": True, "scan": 2}, "train": {"epochs": 1}}
    study = new_study(tmp_path, tables, constraints=["area <= 0.9x"])
    study.enqueue([{"x": 10}, {"x": 95}, {"x": 20}], scan=True)
    display = StudyDisplay()
    display.update(study)
    for _ in range(2):
        try_one(study, done(0.8, 0.5))
        display.update(study)
    try_one(study, failed())
    display.update(study)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "the scan is done: 2 candidates are measured"
    assert [line for line in said if "trial" in line] == said[1:] != []


def test_long_scan_says_how_far_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    tables = {"fidelity": {"projection": True, "scan": 2}, "train": {"epochs": 1}}
    study = new_study(tmp_path, tables)
    study.enqueue([{"x": x} for x in (10, 20, 30, 40)], scan=True)
    clock = iter(range(0, 10_000, 6))
    monkeypatch.setattr("search.cli.output.time.monotonic", lambda: next(clock))
    display = StudyDisplay()
    display.update(study)
    for _ in range(3):
        try_one(study, done(0.8, 0.5))
        display.update(study)
    said = capsys.readouterr().err
    assert re.search(r"scanned [23]/4, \d\.?\d*/(min|s), 0:0\d:\d\d left", said)


def test_export_to_a_model_without_a_name_is_refused_first(run: Run, study: Study) -> None:
    message = one_line(run("export", "tiny", "--to", "out", "--register", " "))
    assert "--register is ' '; allowed: a model's name" in message
