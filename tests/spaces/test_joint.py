import random
from dataclasses import replace
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodel.crossbar import CrossbarPlan, CrossbarSpec
from hwmodel.errors import ConfigError, SpecError
from hwmodel.geometry import LayerShape
from spaces import Candidate, JointSpace, LayerSetting, SpaceConfig
from spaces.joint import LayerSpace
from trainers.methods import METHODS, STRENGTHS, build_method

SHAPES = {
    "conv1": LayerShape(name="conv1", rows=25, outputs=6, positions=576),
    "block.conv2": LayerShape(name="block.conv2", rows=600, outputs=40, positions=64),
    "fc": LayerShape(name="fc", rows=400, outputs=10),
}
BASE = CrossbarSpec()
CHOICES = {
    "global": SpaceConfig(),
    "per-layer": SpaceConfig(crossbars="per-layer"),
    "cells": SpaceConfig(cell_bits=(1, 2, 4), dac_bits=(1, 2, 8), whole_crossbars=False),
    "fixed": SpaceConfig(
        nonzeros=(5,),
        kept_filters=(1.0,),
        kept_shapes=(0.5,),
        wordlines=(64,),
        bitlines=(64,),
    ),
}


class Recorder:
    """Draws at random; remembers what it was asked."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.asked: dict[str, tuple[int, int]] = {}
        self.drawn: dict[str, int] = {}
        self.forced: dict[str, int] = {}

    def suggest_int(self, name: str, low: int, high: int) -> int:
        assert name not in self.asked, f"{name} is asked twice"
        assert low < high, f"{name} has one choice"
        self.asked[name] = (low, high)
        self.drawn[name] = self.forced.get(name, self.random.randint(low, high))
        return self.drawn[name]


class Fixed:
    """Suggests given parameters; any other is index 0."""

    def __init__(self, **parameters: int) -> None:
        self.parameters = parameters

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return self.parameters.get(name, low)


def space(config: SpaceConfig | None = None, **changes: Any) -> JointSpace:
    base, methods = changes.pop("base", BASE), changes.pop("methods", ["tinyadc"])
    config = replace(config or SpaceConfig(), **changes)
    return JointSpace(config, SHAPES, base, network="lenet5", methods=methods)


def memory_study(seed: int = 0) -> optuna.Study:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))


def check_valid(candidate: Candidate, config: SpaceConfig) -> None:
    """The candidate can be built, and says only what the configuration allows."""
    assert Candidate.from_json(candidate.to_json()) == candidate
    targets = candidate.targets(SHAPES)
    assert len(candidate.planned(SHAPES)) == len(SHAPES)
    for name, setting in candidate.layers.items():
        spec = candidate.plan[name]
        assert spec.wordlines in config.wordlines
        assert spec.bitlines in config.bitlines
        assert spec.cell_bits in config.cell_bits
        assert spec.dac_bits in config.dac_bits
        assert setting.nonzeros is None or setting.nonzeros < min(spec.wordlines, SHAPES[name].rows)
        assert setting.nonzeros is None or setting.nonzeros in config.nonzeros
        assert targets[name].nonzeros == setting.nonzeros


@pytest.mark.parametrize("kind", CHOICES)
def test_every_random_suggestion_is_a_valid_candidate(kind: str) -> None:
    config = CHOICES[kind]
    built = space(config)
    for seed in range(200):
        candidate = built.suggest(Recorder(seed), seed)
        assert (candidate.network, candidate.method) == ("lenet5", "tinyadc")
        assert candidate.seed == seed
        assert list(candidate.layers) == list(SHAPES)
        check_valid(candidate, config)


@pytest.mark.parametrize("kind", ["global", "per-layer", "cells"])
def test_every_suggestion_of_optuna_is_a_valid_candidate(kind: str) -> None:
    config = CHOICES[kind]
    built, study = space(config), memory_study()
    seen = set()
    for _ in range(50):
        trial = study.ask()
        candidate = built.suggest(trial, seed=0)
        check_valid(candidate, config)
        assert built.suggest(trial, seed=0) == candidate  # parameters mean one candidate
        seen.add(candidate.digest)
        study.tell(trial, 0.0)
    assert len(seen) > 40


def test_all_choices_of_a_dimension_are_reached() -> None:
    built = space()
    drawn = [built.suggest(Recorder(seed), 0) for seed in range(200)]
    assert {c.plan.default.wordlines for c in drawn} == set(SpaceConfig().wordlines)
    assert {c.plan.default.bitlines for c in drawn} == set(SpaceConfig().bitlines)
    strengths = {c.layers["block.conv2"].nonzeros for c in drawn}
    assert strengths == {None, *SpaceConfig().nonzeros}  # 42 of 32 wordlines is no bound


def test_dimensions_with_one_choice_are_not_suggested() -> None:
    recorder = Recorder(0)
    space(CHOICES["fixed"]).suggest(recorder, 0)
    assert recorder.asked == {}
    space().suggest(recorder, 0)
    assert {"cell_bits", "dac_bits"}.isdisjoint(recorder.asked)


def test_dimensions_are_indices_of_the_ordered_choices() -> None:
    recorder = Recorder(0)
    space().suggest(recorder, 0)
    assert recorder.asked == {
        "wordlines": (0, 4),
        "bitlines": (0, 2),
        "conv1.nonzeros": (0, 3),
        "conv1.kept_filters": (0, 3),
        "block.conv2.nonzeros": (0, 5),
        "block.conv2.kept_shapes": (0, 3),
        "block.conv2.kept_filters": (0, 3),
        "fc.nonzeros": (0, 5),
        "fc.kept_shapes": (0, 3),
    }


def test_crossbars_per_layer_are_dimensions_of_each_layer() -> None:
    parameters = {"conv1.wordlines": 0, "block.conv2.wordlines": 4, "fc.bitlines": 2}
    candidate = space(crossbars="per-layer").suggest(Fixed(**parameters), 0)
    sizes = {name: (s.wordlines, s.bitlines) for name, s in candidate.plan.per_layer.items()}
    assert sizes == {"conv1": (32, 64), "block.conv2": (512, 64), "fc": (32, 256)}


def test_first_layer_keeps_its_rows_and_at_least_five_nonzeros() -> None:
    candidate = space().suggest(Fixed(), 0)
    assert candidate.layers["conv1"].nonzeros == 5
    assert candidate.layers["conv1"].kept_shapes == 1.0
    assert candidate.layers["fc"].nonzeros == 1


def test_first_layer_takes_the_common_choices_where_none_is_as_mild() -> None:
    candidate = space(nonzeros=(1, 2)).suggest(Fixed(), 0)
    assert candidate.layers["conv1"].nonzeros == 1


def test_last_layer_keeps_all_classes() -> None:
    shape = {"only": LayerShape(name="only", rows=900, outputs=90)}
    built = JointSpace(SpaceConfig(), shape, BASE, network="n", methods=["tinyadc"])
    setting = built.suggest(Fixed(), 0).layers["only"]
    assert (setting.kept_shapes, setting.kept_filters) == (1.0, 1.0)  # both first and last
    candidate = space().suggest(Fixed(), 0)
    assert candidate.layers["fc"].kept_filters == 1.0
    assert candidate.layers["block.conv2"].kept_filters == 0.25


def test_exceptions_of_a_layer_replace_common_choices_and_defaults() -> None:
    own = LayerSpace(nonzeros=(1, 3), kept_shapes=(0.5, 1.0))
    built = space(layers={"conv1": own, "fc": LayerSpace(kept_filters=(0.5, 1.0))})
    recorder = Recorder(0)
    built.suggest(recorder, 0)
    assert recorder.asked["conv1.nonzeros"] == (0, 1)
    assert recorder.asked["conv1.kept_shapes"] == (0, 1)
    assert recorder.asked["fc.kept_filters"] == (0, 1)
    assert recorder.asked["block.conv2.nonzeros"] == (0, 5)
    assert built.suggest(Fixed(), 0).layers["conv1"].nonzeros == 1


def test_bound_that_binds_nothing_is_written_as_none() -> None:
    candidate = space(nonzeros=(25, 32, 200)).suggest(Fixed(), 0)  # 32 wordlines, 25 rows
    assert candidate.layers["conv1"].nonzeros is None
    assert candidate.layers["fc"].nonzeros == 25
    for index in (1, 2):
        assert space(nonzeros=(25, 32, 200)).suggest(Fixed(**{"fc.nonzeros": index}), 0).layers[
            "fc"
        ] == replace(candidate.layers["fc"], nonzeros=None)


def test_shares_that_keep_everything_are_written_as_one() -> None:
    parameters = {"wordlines": 4, "bitlines": 2}  # 512 rows and 32 outputs in a crossbar
    candidate = space().suggest(Fixed(**parameters), 0)
    assert candidate.layers["fc"].kept_shapes == 1.0
    assert candidate.layers["conv1"].kept_filters == 1.0
    assert candidate.layers["block.conv2"].kept_shapes == 0.25


@pytest.mark.parametrize("kind", CHOICES)
def test_starts_are_accepted_by_optuna_and_reproduce(kind: str) -> None:
    built, study = space(CHOICES[kind]), memory_study()
    starts = built.starts()
    for parameters in starts:
        study.enqueue_trial(parameters)
    for parameters in starts:
        trial = study.ask()
        candidate = built.suggest(trial, seed=3)
        assert trial.params == parameters
        assert candidate == built.suggest(Fixed(**parameters), seed=3)
        study.tell(trial, 0.0)


@pytest.mark.parametrize("kind", ["global", "per-layer", "cells"])
def test_candidates_lead_back_to_their_parameters(kind: str) -> None:
    joint = space(CHOICES[kind], methods=["tinyadc", "circulant", "admm-nn"])
    for seed in range(20):
        candidate = joint.suggest(Recorder(seed), seed)
        parameters = joint.parameters(candidate)
        assert parameters is not None
        assert joint.suggest(Fixed(**parameters), seed) == candidate
        assert joint.describe().keys() >= parameters.keys()


def test_candidate_of_another_space_has_no_parameters_here() -> None:
    joint = space(SpaceConfig(nonzeros=(2, 5), wordlines=(128,), bitlines=(128,)))
    candidate = joint.suggest(Recorder(0), 0)
    assert joint.parameters(candidate) is not None
    first, *_ = joint.shapes
    others = (
        replace(candidate, network="another"),
        replace(candidate, method="dub"),
        replace(candidate, plan=CrossbarPlan(default=replace(joint.base, wordlines=64))),
        replace(candidate, layers={**candidate.layers, "conv9": LayerSetting()}),
        replace(candidate, layers={**candidate.layers, first: LayerSetting(nonzeros=3)}),
    )
    assert [joint.parameters(other) for other in others] == [None] * len(others)


def test_starts_lie_on_the_base_crossbar_and_every_second_prunes_structure() -> None:
    starts = [space().suggest(Fixed(**p), 0) for p in space().starts()]
    assert len(starts) == 6
    assert {candidate.plan.default for candidate in starts} == {BASE}
    kept = [candidate.layers["block.conv2"] for candidate in starts]
    assert [(s.kept_shapes, s.kept_filters) for s in kept] == [(1.0, 1.0), (0.5, 0.5)] * 3


def test_starts_run_from_the_mildest_to_the_strongest() -> None:
    starts = [space().suggest(Fixed(**p), 0) for p in space().starts()]
    counts = [candidate.layers["fc"].nonzeros for candidate in starts]
    assert counts == [42, 21, 10, 5, 2, 1]


def test_starts_take_the_size_nearest_to_the_base() -> None:
    built = space(base=replace(BASE, wordlines=200, bitlines=300))
    starts = [built.suggest(Fixed(**parameters), 0).plan.default for parameters in built.starts()]
    assert {spec.wordlines for spec in starts} == {256}
    assert {spec.bitlines for spec in starts} == {256}


def test_exception_for_an_unknown_layer_names_the_layers() -> None:
    with pytest.raises(ConfigError, match=r"names 'fc9'; .*: conv1, block\.conv2, fc"):
        space(layers={"fc9": LayerSpace()})


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("nonzeros", (), "ascending"),
        ("nonzeros", (5, 2), "ascending"),
        ("nonzeros", (2, 2), "ascending"),
        ("nonzeros", (0, 2), "contains 0; allowed: from 1 to 512"),
        ("nonzeros", (1, 513), "contains 513; allowed: from 1 to 512"),
        ("kept_filters", (0.0, 1.0), "contains 0.0"),
        ("kept_filters", (0.5, 1.5), "contains 1.5"),
        ("kept_shapes", (float("nan"),), "contains nan"),
        ("wordlines", (0, 128), "contains 0"),
        ("bitlines", (), "ascending"),
        ("cell_bits", (-1,), "contains -1"),
        ("dac_bits", (2, 1), "ascending"),
    ],
)
def test_impossible_choices_are_refused(name: str, values: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"space\.{name} .*{message}"):
        SpaceConfig(**{name: values})


def test_impossible_exceptions_name_their_layer() -> None:
    with pytest.raises(ConfigError, match=r"space\.layers\.fc\.nonzeros contains 600"):
        SpaceConfig(layers={"fc": LayerSpace(nonzeros=(600,))})


def test_unknown_kind_of_crossbars_is_refused() -> None:
    with pytest.raises(ConfigError, match="allowed: global, per-layer"):
        SpaceConfig(crossbars="local")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell_bits": (2, 9)}, "cell_bits is 9"),
        ({"dac_bits": (1, 9)}, "dac_bits is 9"),
        ({"wordlines": (128, 5000)}, "wordlines is 5000"),
        ({"bitlines": (4, 64)}, "one output needs 8"),
        ({"bitlines": (8, 64), "cell_bits": (1, 2)}, "one output needs 14"),
    ],
)
def test_crossbars_that_cannot_exist_are_refused_before_any_trial(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        space(**changes)


def test_base_too_narrow_for_the_cells_does_not_matter() -> None:
    """14 bitlines an output with 1-bit cells: the base's 8 are too few, the space's 64 are not."""
    built = space(base=CrossbarSpec(bitlines=8), cell_bits=(1,), bitlines=(64,))
    built.suggest(Fixed(), 0)


def test_small_crossbars_need_no_other_setting() -> None:
    """The docstring: choices above a candidate's wordlines mean no bound."""
    SpaceConfig(wordlines=(16,))


def test_blocks_that_no_layer_is_wide_enough_for_are_no_setting() -> None:
    shapes = {
        "first": LayerShape(name="first", rows=25, outputs=8, kernel=25),
        "wide": LayerShape(name="wide", rows=72, outputs=8, kernel=9),
        "depthwise": LayerShape(name="depthwise", rows=9, outputs=1, groups=8, kernel=9),
        "last": LayerShape(name="last", rows=8, outputs=4),
    }
    config = SpaceConfig(block_size=(4,), wordlines=(8,), nonzeros=(4,))
    found = JointSpace(config, shapes, BASE, network="n", methods=["circulant"]).suggest(
        Recorder(seed=0), seed=0
    )
    sizes = {name: setting.block_size for name, setting in found.layers.items()}
    assert sizes == {"first": None, "wide": 4, "depthwise": None, "last": 4}


def test_larger_blocks_are_planned_on_fewer_crossbars_for_more_reads() -> None:
    shapes = {
        "first": LayerShape(name="first", rows=27, outputs=64, kernel=9),
        "wide": LayerShape(name="wide", rows=4608, outputs=512, kernel=9),
    }
    crossbars, rotations = [], []
    for size in (1, 4, 8, 16, 32):
        config = SpaceConfig(block_size=(1, size)[size == 1 :], wordlines=(128,), bitlines=(128,))
        searched = JointSpace(config, shapes, BASE, network="n", methods=["circulant"])
        found = searched.suggest(Fixed(**{"wide.block_size": 1}), seed=0)
        wide = found.planned(shapes)[1]
        crossbars.append(wide.crossbars)
        rotations.append(wide.rotations)
    assert crossbars == [1152, 288, 144, 72, 36]
    assert rotations == [1, 4, 8, 16, 32]


# Several methods.

ALL = list(METHODS)
KINDS = (*STRENGTHS, "kept_shapes", "kept_filters")


def test_method_is_one_dimension_and_brings_its_own() -> None:
    built = space(methods=["tinyadc", "level-sum", "circulant"])
    for index, (method, kinds) in enumerate(
        [
            ("tinyadc", {"nonzeros", "kept_shapes", "kept_filters"}),
            ("level-sum", {"adc_bits", "kept_shapes", "kept_filters"}),
            ("circulant", {"block_size"}),
        ]
    ):
        recorder = Recorder(0)
        recorder.forced = {"method": index}
        candidate = built.suggest(recorder, 0)
        assert candidate.method == method
        assert recorder.asked["method"] == (0, 2)
        assert {name.split(".")[-1] for name in recorder.asked if "." in name} == kinds


def test_one_method_is_no_dimension() -> None:
    recorder = Recorder(0)
    assert space(methods=["dub"]).suggest(recorder, 0).method == "dub"
    assert "method" not in recorder.asked


@given(st.integers(0, 10_000), st.sampled_from(ALL), st.booleans())
@settings(deadline=None, max_examples=60)
def test_every_suggestion_is_one_that_its_method_can_be_built_for(
    seed: int, method: str, per_layer: bool
) -> None:
    crossbars = "per-layer" if per_layer else "global"
    built = space(methods=ALL, crossbars=crossbars, whole_crossbars=False)
    recorder = Recorder(seed)
    recorder.forced = {"method": ALL.index(method)}
    candidate = built.suggest(recorder, seed)
    entry = METHODS[method]
    targets = candidate.targets(SHAPES)
    assert build_method(method, entry.config(), targets).targets == targets
    assert len(candidate.planned(SHAPES)) == len(SHAPES)
    unread = set(KINDS) - set(entry.settings)
    for setting in candidate.layers.values():
        assert all(getattr(setting, kind) in (None, 1.0) for kind in unread)
    assert built.suggest(Fixed(**recorder.drawn), seed) == candidate
    assert Candidate.from_json(candidate.to_json()) == candidate


def test_optuna_chooses_among_all_methods() -> None:
    built, study, seen = space(methods=ALL), memory_study(), set()
    for _ in range(80):
        trial = study.ask()
        candidate = built.suggest(trial, seed=0)
        assert built.suggest(trial, seed=0) == candidate
        seen.add(candidate.method)
        study.tell(trial, 0.0)
    assert seen == set(ALL)


def test_scan_changes_one_thing_of_the_mildest() -> None:
    joint = space()
    mildest, *others = joint.scan(2)
    assert joint.suggest(Fixed(**mildest), 0).plan.default == BASE
    assert len(others) == 14  # 3 counts, and the shares of rows and outputs that are not fixed
    for parameters in others:
        (changed,) = [name for name in parameters if parameters[name] != mildest[name]]
        assert changed.split(".")[-1] in KINDS


def test_scan_of_sizes_repeats_what_depends_on_them() -> None:
    joint = space()
    alone, both = joint.scan(2), joint.scan(2, 2)
    assert both[: len(alone)] == alone
    sizes = [(p["wordlines"], p["bitlines"]) for p in both[len(alone) :]]
    base = (2, 1)  # 128 x 128
    tall = 1 + 2 * 3 + 2 * 2  # the mildest, counts, shares of rows
    wide = 1 + 2 * 2  # the mildest, shares of outputs
    assert sizes == [
        *[(0, base[1])] * tall,
        *[(4, base[1])] * tall,
        *[(base[0], 0)] * wide,
        *[(base[0], 2)] * wide,
    ]
    assert len(joint.scan(2, 99)) == len(alone) + 4 * tall + 2 * wide


def test_scan_of_sizes_leaves_out_methods_that_depend_on_none() -> None:
    joint = space(kept_filters=(1.0,), kept_shapes=(1.0,), methods=["magnitude"])
    assert joint.scan(2, 3) == joint.scan(2)


def test_starts_begin_every_method_from_the_mildest_to_the_strongest() -> None:
    built = space(methods=["tinyadc", "level-sum", "circulant", "structured", "dense"])
    starts = [built.suggest(Fixed(**parameters), 0) for parameters in built.starts()]
    assert [c.method for c in starts] == (
        ["tinyadc"] * 6 + ["level-sum"] * 5 + ["circulant"] * 5 + ["structured", "dense"]
    )
    layers = [candidate.layers["block.conv2"] for candidate in starts]
    assert [layer.nonzeros for layer in layers[:6]] == [42, 21, 10, 5, 2, 1]
    assert [layer.adc_bits for layer in layers[6:11]] == [7, 6, 5, 4, 3]
    assert [layer.block_size for layer in layers[11:16]] == [None, 4, 8, 16, 32]
    assert layers[-1] == LayerSetting()
    assert {candidate.plan.default for candidate in starts} == {BASE}


def test_starts_of_all_methods_are_accepted_by_optuna_and_reproduce() -> None:
    built, study = space(methods=ALL), memory_study()
    starts = built.starts()
    for parameters in starts:
        study.enqueue_trial(parameters)
    for parameters in starts:
        trial = study.ask()
        assert built.suggest(trial, seed=3) == built.suggest(Fixed(**parameters), seed=3)
        assert trial.params == parameters
        study.tell(trial, 0.0)


def test_unknown_or_repeated_methods_are_refused() -> None:
    with pytest.raises(ConfigError, match="method 'tiny'; allowed: tinyadc, level-sum"):
        SpaceConfig(methods=("tinyadc", "tiny"))
    with pytest.raises(ConfigError, match=r"space\.methods is \['dub', 'dub'\]; allowed: no rep"):
        SpaceConfig(methods=("dub", "dub"))
