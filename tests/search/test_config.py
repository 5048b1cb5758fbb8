import math
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import ConfigError, SpecError
from hwmodel.nonideality import Nonideality
from search.config import (
    SAMPLERS,
    CandidateConfig,
    HardwareConfig,
    MlflowConfig,
    RayConfig,
    RobustnessConfig,
    StudyConfig,
    StudySection,
    load_config,
    read_config,
)
from search.objectives import OBJECTIVES
from spaces import LayerSetting, SpaceConfig
from spaces.joint import LayerSpace
from trainers.config import NetworkConfig, TrainConfig
from trainers.data.catalog import DataConfig
from trainers.methods import METHODS, MagnitudeConfig, TinyAdcConfig

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(folder: Path, text: str, **overrides: Any) -> StudyConfig:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[stdy]\n", "config: unknown key 'stdy'; nearest allowed: 'study'"),
        ("study = 3", "study is 3; allowed: a table"),
        ("[study]\ntrails = 3", "study: unknown key 'trails'; nearest allowed: 'trials'"),
        ("[study]\ntrials = '3'", "study.trials is '3'; allowed: an integer"),
        ("[study]\ntrials = true", "study.trials is True; allowed: an integer"),
        ("[study]\ntrials = 2.5", "study.trials is 2.5; allowed: an integer"),
        ("[study]\ntrials = 0", "study.trials is 0; allowed: an integer from 1"),
        ("[study]\nseed = -1", "study.seed is -1; allowed: an integer from 0"),
        ("[study]\ntime_budget_s = -1", "study.time_budget_s is -1.0"),
        ("[study]\naccuracy_window = 1.5", "study.accuracy_window is 1.5"),
        ("[study]\naccuracy_window = nan", "study.accuracy_window is nan"),
        ("[study]\nuniform_starts = 1", "study.uniform_starts is 1; allowed: true or false"),
        ("[study]\nname = ''", "study.name is ''"),
        ("[study]\nname = 'a/b'", "study.name is 'a/b'"),
        ("[study]\nname = '..'", "study.name is '..'"),
        ("[study]\nname = 'ä'", "study.name is 'ä'"),
        (
            "[study]\nsampler = 'grid'",
            "study.sampler is 'grid'; allowed: tpe, nsga2, nsga3, gp, random, surrogate",
        ),
        ("[study]\nobjectives = ['size']", "study.objectives names 'size'; allowed: accuracy"),
        ("[study]\nobjectives = []", "study.objectives is []; allowed: one or more"),
        ("[study]\nobjectives = 'area'", "study.objectives is 'area'; allowed: a list"),
        ("[study]\nobjectives = ['area', 'area']", "no repeats"),
        ("[study]\nconstraints = ['area < 1']", "constraint 'area < 1'; allowed: "),
        ("[study]\nconstraints = ['size <= 1']", "unknown objective 'size'"),
        ("[study]\nconstraints = [1]", "study.constraints[0] is 1; allowed: a string"),
        ("[space]\nwordlines = [0, 128]", "space.wordlines contains 0; allowed: from 1"),
        ("[space]\nwordlines = 128", "space.wordlines is 128; allowed: a list"),
        ("[space]\nwordlines = [128, 64]", "space.wordlines is [128, 64]; allowed: ascending"),
        ("[space]\nbitlines = []", "space.bitlines is []"),
        (
            "[space]\nnonzeros = [1, 65]\nwordlines = [32, 64]",
            "space.nonzeros contains 65; allowed: from 1 to 64",
        ),
        ("[space]\nkept_filters = [0.5, 1.5]", "space.kept_filters contains 1.5"),
        ("[space]\ncrossbars = 'both'", "space.crossbars is 'both'; allowed: global, per-layer"),
        ("[space.layers.fc]\nnonzero = [1]", "space.layers.fc: unknown key 'nonzero'; nearest"),
        ("[space.layers.fc]\nnonzeros = [0]", "space.layers.fc.nonzeros contains 0"),
        ("[space]\nlayers = ['fc']", "space.layers is ['fc']; allowed: a table"),
        (
            "[hardware]\nlaw = 'guess'",
            "ADC law is 'guess'; allowed: imc_cap, linear, pow2, saberi, sar_split, survey",
        ),
        ("[hardware]\npreset = 'isac'", "preset is 'isac'; allowed: forms-like, isaac"),
        (
            "[hardware]\npolicy = 'tile_types:0'",
            "allowed after 'tile_types:': a whole number, 1 up",
        ),
        ("[hardware]\nnode_m = 22e-9", "node is 22 nm; allowed by table 'stillmaker-baas': 130"),
        ("[hardware]\nnode_table = 'x'", "node table is 'x'; allowed: stillmaker-baas"),
        ("[hardware]\npreset = 'no.toml'", "no.toml' cannot be read"),
        ("[hardware]\npolicy = 'max'", "ADC policy is 'max'; allowed: layer, chip_max"),
        ("[hardware]\nprovisioning = 'all'", "provisioning is 'all'; allowed: share, whole"),
        ("[hardware]\ninclude_io = 0", "hardware.include_io is 0; allowed: true or false"),
        ("[method]\nname = 'magic'", "method 'magic'; allowed: tinyadc, level-sum"),
        ("[method]\nrhoo = 1.0", "method: unknown key 'rhoo'; nearest allowed: 'rho'"),
        ("[method]\nadmm_share = 2", "method.admm_share is 2.0"),
        ("[method]\nname = 'magnitude'\nrho = 1.0", "method: unknown key 'rho'"),
        ("[methods]\ntinyadc = 3", "methods.tinyadc is 3; allowed: a table"),
        ("[methods.magic]", "method 'magic'; allowed: tinyadc, level-sum"),
        (
            "[space]\nmethods = ['tinyadc', 'dub']\n[methods.dub]\nrho = 1",
            "methods.dub: unknown key 'rho'",
        ),
        (
            "[space]\nmethods = ['tinyadc', 'level-sum']\n[methods.level-sum]\nrefresh_steps = 0",
            "refresh_steps is 0; allowed: an integer from 1",
        ),
        (
            "[space]\nmethods = ['tinyadc', 'level-sum']\n[methods.dub]",
            "methods.dub: not one of space.methods; allowed: level-sum",
        ),
        ("[methods.dub]", "methods.dub: not one of space.methods; allowed: none"),
        (
            "[methods.tinyadc]\nrho = 1",
            "methods.tinyadc: the study's own method; allowed: in [method]",
        ),
        ("[space]\nmethods = ['tinyadc', 'tiny']", "method 'tiny'; allowed: tinyadc, level-sum"),
        ("[space]\nmethods = ['dub', 'dub']", "space.methods is ['dub', 'dub']; allowed: no repea"),
        ("[space]\nmethods = 'dub'", "space.methods is 'dub'; allowed: a list"),
        ("method = 'tinyadc'", "method is 'tinyadc'; allowed: a table"),
        ("[network]\nnam = 'mlp'", "network: unknown key 'nam'; nearest allowed: 'name'"),
        ("[network]\narguments = [1]", "network.arguments is [1]; allowed: a table"),
        ("[train]\nepochs = -1", "train.epochs is -1; allowed: an integer from 0"),
        ("[train]\noptimiser = 'lion'", "train.optimiser is 'lion'; allowed: sgd, adam"),
        ("[train]\nlearning_rate = inf", "train.learning_rate is inf"),
        ("[data]\ntest_count = 0", "test_count is 0"),
        ("[data]\ntest_count = '10'", "data.test_count is '10'; allowed: an integer"),
        ("[ray]\nworkers = 0", "ray.workers is 0; allowed: an integer from 1"),
        ("[ray]\ncpus_per_trial = -1", "ray.cpus_per_trial is -1.0"),
        ("[mlflow]\nuri = 'x'", "mlflow: unknown key 'uri'; nearest allowed: 'tracking_uri'"),
        ("[candidate]\nnonzeros = 'five'", "candidate.nonzeros is 'five'; allowed: an integer"),
        (
            "[candidate]\nkept_weight = 0.5",
            "unknown key 'kept_weight'; nearest allowed: 'kept_weights'",
        ),
        ("[candidate]\nkept_filters = '1'", "candidate.kept_filters is '1'; allowed: a number"),
        ("[candidate.layers.fc]\nnonzeros = 0", "candidate.layers.fc: nonzeros is 0"),
        ("[candidate.layers.fc]\nkept_shapes = 2", "candidate.layers.fc: kept_shapes is 2.0"),
        ("[study\n", "is not TOML"),
        ("trials = ", "is not TOML"),
    ],
)
def test_mistake_is_one_line_that_names_it(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.toml' cannot be read: No such file"):
        load_config(tmp_path / "no.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'[study]\nname = "\xe4"\n')
    with pytest.raises(ConfigError, match="is not TOML"):
        load_config(tmp_path / "latin.toml")


def test_method_name_of_another_type_is_refused() -> None:
    with pytest.raises(ConfigError):
        read_config({"method": {"name": ["tinyadc"]}})


@pytest.mark.parametrize("text", ["study = 3", "ray = 'auto'", "mlflow = 'http://here:5000'"])
def test_section_that_is_no_table_is_refused_on_the_command_line_too(
    tmp_path: Path, text: str
) -> None:
    """`crossfront search` always overrides these three, if only with nothing."""
    with pytest.raises(ConfigError):
        load(tmp_path, text, study={}, ray={}, mlflow={})


def test_nothing_given_is_all_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == load_config(None) == read_config({}) == StudyConfig()


def test_sections_are_the_ones_of_the_manual() -> None:
    assert [field.name for field in fields(StudyConfig)] == [
        "study",
        "data",
        "network",
        "method",
        "methods",
        "space",
        "hardware",
        "train",
        "fidelity",
        "robustness",
        "ray",
        "mlflow",
        "candidate",
    ]


def test_overrides_replace_values_of_the_file(tmp_path: Path) -> None:
    text = "[study]\nname = 'a'\ntrials = 3\n"
    found = load(tmp_path, text, study={"trials": 9}, ray={"workers": 4}, mlflow={})
    assert (found.study.name, found.study.trials, found.ray.workers) == ("a", 9, 4)


def test_overrides_are_checked_like_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"study\.trials is 0"):
        load(tmp_path, "", study={"trials": 0})


@pytest.mark.parametrize("name", METHODS)
def test_method_name_selects_its_settings(name: str) -> None:
    found = read_config({"method": {"name": name}})
    assert type(found.method) is METHODS[name].config
    assert found.method_name == name
    assert found.to_json()["method"]["name"] == name


def test_method_without_a_name_is_tinyadc() -> None:
    assert read_config({"method": {"rho": 1}}).method == TinyAdcConfig(rho=1.0)


SEVERAL = """
[method]
name = "bitslice-l1"
[space]
methods = ["tinyadc", "bitslice-l1", "magnitude"]
[methods.tinyadc]
rho = 1
"""


def test_each_method_of_a_space_has_its_own_settings(tmp_path: Path) -> None:
    found = load(tmp_path, SEVERAL)
    assert found.space_methods == ("tinyadc", "bitslice-l1", "magnitude")
    assert found.methods == {"tinyadc": TinyAdcConfig(rho=1.0)}
    assert found.method_config("tinyadc") == TinyAdcConfig(rho=1.0)
    assert found.method_config("bitslice-l1") is found.method
    assert found.method_config("magnitude") == MagnitudeConfig()
    with pytest.raises(ConfigError, match="method 'magic'; allowed: tinyadc"):
        found.method_config("magic")


def test_settings_of_several_methods_survive_toml_and_json(tmp_path: Path) -> None:
    found = load(tmp_path, SEVERAL)
    assert tomllib.loads(found.to_toml())["methods"]["tinyadc"]["rho"] == 1.0
    assert load(tmp_path, found.to_toml()) == read_config(found.to_json()) == found


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_one_of_several(name: str) -> None:
    own = "dense" if name == "tinyadc" else "tinyadc"
    tables = {"method": {"name": own}, "space": {"methods": [own, name]}, "methods": {name: {}}}
    assert read_config(tables).method_config(name) == METHODS[name].config()


def test_study_without_a_choice_has_its_one_method() -> None:
    assert read_config({"method": {"name": "dub"}}).space_methods == ("dub",)


def test_bounds_are_the_constraints_parsed() -> None:
    section = StudySection(constraints=("area <= 0.5x", "accuracy >= 0.8"))
    assert [bound.text for bound in section.bounds] == ["area <= 0.5x", "accuracy >= 0.8"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_examples_load_and_round_trip(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert load(tmp_path, config.to_toml()) == config


_WORDS = st.text("ab.-_ \"'\\#é=[]\n\t", max_size=6)
_FREE = st.recursive(
    st.integers(-(2**60), 2**60)
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | _WORDS,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
_NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True)
_ASCENDING = st.lists(st.integers(1, 32), min_size=1, max_size=4, unique=True).map(
    lambda values: tuple(sorted(values))
)
_SHARES = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=3, unique=True).map(
    lambda values: tuple(sorted(values))
)


@pytest.mark.parametrize(
    "objectives", [["accuracy"], ["area", "power"], ["accuracy", "robust_accuracy", "area"]]
)
def test_surrogate_models_accuracy_beside_costs(objectives: list[str]) -> None:
    tables = {
        "study": {"sampler": "surrogate", "objectives": objectives},
        "robustness": {"faults": 0.01},
    }
    with pytest.raises(ConfigError, match="allowed: accuracy and one or more costs"):
        read_config(tables)


@pytest.mark.parametrize(
    ("fidelity", "message"),
    [
        ({"rungs": [2, 1]}, r"fidelity.rungs is \[2, 1\]; allowed: ascending epochs"),
        ({"rungs": [4]}, "fidelity.rungs contains 4; allowed: below train.epochs, 4"),
        ({"rungs": [0]}, "fidelity.rungs is 0; allowed: an integer from 1"),
        ({"reduction": 1}, "fidelity.reduction is 1; allowed: an integer from 2"),
        ({"scan": 2}, "fidelity.scan is 2; allowed without fidelity.projection: 0"),
        ({"scan_sizes": 1}, "fidelity.scan_sizes is 1; allowed without fidelity.scan: 0"),
        ({"seeds": 0}, "fidelity.seeds is 0; allowed: an integer from 1"),
    ],
)
def test_rungs_that_cannot_be_are_refused(fidelity: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config({"fidelity": fidelity, "train": {"epochs": 4}})


def test_rungs_end_with_all_epochs() -> None:
    def rungs(epochs: int, **fidelity: Any) -> tuple[int, ...]:
        return read_config({"fidelity": fidelity, "train": {"epochs": epochs}}).rungs

    assert rungs(4) == (4,)
    assert rungs(4, projection=True, rungs=[1, 2]) == (0, 1, 2, 4)
    assert rungs(0, projection=True) == (0,)


@st.composite
def configs(draw: st.DrawFn) -> StudyConfig:
    objectives = draw(st.lists(st.sampled_from(OBJECTIVES), min_size=1, unique=True))
    return StudyConfig(
        study=StudySection(
            name=draw(st.sampled_from(("a", "LeNet-5_x.2"))),
            objectives=tuple(objectives),
            constraints=draw(st.sampled_from(((), ("area <= 0.5x", "accuracy >= 1e-3")))),
            trials=draw(st.integers(1, 10**9)),
            time_budget_s=draw(st.none() | st.floats(0, 1e12)),
            sampler=draw(st.sampled_from([name for name in SAMPLERS if name != "surrogate"])),
            uniform_starts=draw(st.booleans()),
        ),
        data=DataConfig(path=draw(st.none() | _WORDS), test_count=draw(st.none() | st.just(5))),
        network=NetworkConfig(
            name=draw(_WORDS), arguments=draw(st.dictionaries(_NAMES, _FREE, max_size=3))
        ),
        method=draw(st.sampled_from((TinyAdcConfig(rho=3e-7), MagnitudeConfig()))),
        space=SpaceConfig(
            nonzeros=draw(_ASCENDING),
            kept_shapes=draw(_SHARES),
            layers=draw(
                st.dictionaries(
                    _WORDS,
                    st.builds(LayerSpace, nonzeros=st.none() | _ASCENDING),
                    max_size=2,
                )
            ),
        ),
        hardware=HardwareConfig(preset="isaac", law="pow2", include_io=draw(st.booleans())),
        robustness=RobustnessConfig(faults=0.001),
        train=TrainConfig(learning_rate=draw(st.floats(0, 1e300))),
        ray=RayConfig(address=draw(st.none() | _WORDS)),
        mlflow=MlflowConfig(tracking_uri=draw(st.none() | _WORDS)),
        candidate=CandidateConfig(
            nonzeros=draw(st.none() | st.integers(1, 9)),
            kept_weights=draw(st.none() | st.floats(1e-9, 1)),
            kept_filters=draw(st.floats(1e-9, 1)),
            whole_crossbars=draw(st.booleans()),
            layers=draw(
                st.dictionaries(
                    _WORDS,
                    st.builds(LayerSetting, nonzeros=st.none() | st.integers(1, 9)),
                    max_size=2,
                )
            ),
        ),
    )


@given(configs())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_configuration_survives_toml_and_json(config: StudyConfig) -> None:
    assert read_config(config.to_json()) == config
    assert read_config(tomllib.loads(config.to_toml())) == config


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "\N{ROCKET}"},
        {"blocks": [{"width": 3}]},
        {"options": {}},
        {"limits": [float("inf")]},
        {"a b": 1},
    ],
    ids=["beyond the BMP", "list of tables", "empty table", "infinity in a list", "spaced key"],
)
def test_any_argument_that_toml_can_say_survives(arguments: dict[str, Any]) -> None:
    config = read_config({"network": {"arguments": arguments}})
    assert read_config(tomllib.loads(config.to_toml())) == config


def test_infinite_argument_survives() -> None:
    config = read_config({"network": {"arguments": {"low": -math.inf, "high": math.inf}}})
    assert read_config(tomllib.loads(config.to_toml())) == config


def test_every_setting_with_a_default_is_written() -> None:
    tables = tomllib.loads(StudyConfig().to_toml())
    for section in fields(StudyConfig):
        record = getattr(StudyConfig(), section.name)
        for field in fields(record) if section.name != "methods" else ():
            value = getattr(record, field.name)
            if value is not None and value != {}:
                assert field.name in tables[section.name]


def test_stored_configuration_is_read_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray starts workers in folders of their own, and `pareto` may run anywhere."""
    (tmp_path / "mine.toml").write_text('base = "isaac"\nname = "mine"\n')
    (tmp_path / "study.toml").write_text('[hardware]\npreset = "mine.toml"\n')
    monkeypatch.chdir(tmp_path)
    stored = load_config("study.toml").to_json()
    monkeypatch.chdir("/")
    assert read_config(stored).hardware.load_preset().name == "mine"


BASE = CrossbarSpec(wordlines=64, bitlines=96)


def test_candidate_is_uniform_but_for_its_exceptions() -> None:
    config = CandidateConfig(nonzeros=5, layers={"b": LayerSetting(kept_filters=0.5)}, seed=3)
    found = config.candidate(["a", "b"], BASE, network="n", method="m")
    assert found.layers == {"a": LayerSetting(nonzeros=5), "b": LayerSetting(kept_filters=0.5)}
    assert (found.plan.default, found.seed, found.network) == (BASE, 3, "n")


@pytest.mark.parametrize("name", [field.name for field in fields(LayerSetting)])
def test_every_setting_of_a_layer_can_be_said_of_all(name: str) -> None:
    other = {"whole_crossbars": False}.get(name, 0.5 if name.startswith("kept") else 3)
    config = read_config({"candidate": {name: other}}).candidate
    found = config.candidate(["a", "b"], BASE, network="n", method="m")
    assert found.layers["a"] == LayerSetting(**{name: other})  # type: ignore[arg-type]


def test_nothing_said_of_all_layers_is_nothing_said_of_one() -> None:
    found = CandidateConfig().candidate(["a", "b"], BASE, network="n", method="m")
    assert found.layers == {"a": LayerSetting(), "b": LayerSetting()}


def test_last_layer_keeps_its_classes_unless_it_is_named() -> None:
    config = CandidateConfig(kept_filters=0.5, kept_shapes=0.25)
    found = config.candidate(["a", "b"], BASE, network="n", method="m").layers
    assert [found[name].kept_filters for name in "ab"] == [0.5, 1.0]
    assert [found[name].kept_shapes for name in "ab"] == [0.25, 0.25]
    named = replace(config, layers={"b": LayerSetting(kept_filters=0.75)})
    found = named.candidate(["a", "b"], BASE, network="n", method="m").layers
    assert [found[name].kept_filters for name in "ab"] == [0.5, 0.75]


def test_candidate_takes_sizes_that_are_given() -> None:
    found = CandidateConfig(wordlines=32).candidate(["a"], BASE, network="n", method="m")
    assert found.plan.default == CrossbarSpec(wordlines=32, bitlines=96)


@pytest.mark.parametrize(
    ("fields_", "message"),
    [
        ({"wordlines": 0}, "wordlines is 0"),
        ({"bitlines": 7}, "one output needs 8"),
        ({"nonzeros": 0}, "nonzeros is 0; allowed: 1 or more"),
        ({"adc_bits": 0}, "adc_bits is 0; allowed: 1 or more"),
        ({"weight_levels": -1}, "weight_levels is -1; allowed: 1 or more"),
        ({"block_size": 0}, "block_size is 0; allowed: 1 or more"),
        ({"kept_weights": 1.5}, "kept_weights is 1.5; allowed: above 0, up to 1"),
        ({"kept_shapes": 0.0}, "kept_shapes is 0.0; allowed: above 0, up to 1"),
        ({"kept_filters": float("nan")}, "kept_filters is nan; allowed: above 0, up to 1"),
    ],
)
def test_impossible_candidate_is_refused(fields_: dict[str, float], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        CandidateConfig(**fields_).candidate(["a"], BASE, network="n", method="m")  # type: ignore[arg-type]


def test_robust_accuracy_needs_a_lossy_device() -> None:
    study = {"objectives": ["robust_accuracy", "area"]}
    with pytest.raises(ConfigError, match=r"robust_accuracy on an ideal device; .*\[robustness\]"):
        read_config({"study": study})
    with pytest.raises(ConfigError, match="robust_accuracy on an ideal device"):
        read_config({"study": {"constraints": ["robust_accuracy >= 0.8"]}})
    found = read_config({"study": study, "robustness": {"faults": 0.001, "seeds": 3}})
    assert found.robustness.device == Nonideality.with_faults(0.001)
    assert RobustnessConfig().device is None


def test_impossible_devices_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"fault rate is 2.0; allowed: 0 to 1"):
        read_config({"robustness": {"faults": 2}})
    with pytest.raises(ConfigError, match=r"robustness.seeds is 0"):
        read_config({"robustness": {"seeds": 0}})
