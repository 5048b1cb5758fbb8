"""From which share of weights on unstructured pruning pays, on our hardware."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hwmodel.accelerator import CostModel
from hwmodel.adc import adc_law
from hwmodel.certificate import certify
from hwmodel.components import load_preset
from hwmodel.crossbar import CrossbarPlan, CrossbarSpec
from hwmodel.geometry import LayerShape, MappedLayer
from hwmodel.mapping import MatrixLayout
from search.break_even import break_even_share, paying_targets
from search.config import read_config
from search.evaluate import COMPLETE, evaluate, load_problem
from search.objectives import cost_values
from spaces.candidate import Candidate, LayerSetting
from trainers.method import LayerTarget
from trainers.weights import save_weights

PRESET = load_preset("isaac-8bit-weights")
COST_MODEL = CostModel(PRESET, adc_law("sar_split"))
SPEC = CrossbarSpec(wordlines=64, bitlines=64)
SHAPE = LayerShape(name="0", rows=64, outputs=8)


def weights(seed: int = 0) -> Tensor:
    return torch.randn(8, 64, generator=torch.Generator().manual_seed(seed))


def share_of(weight: Tensor, objective: str = "energy", levels: int = 7) -> float | None:
    target = LayerTarget(spec=SPEC, weight_levels=levels)
    layout = MatrixLayout.of(weight)
    return break_even_share(weight, target, layout, SHAPE, COST_MODEL, objective)


def energy(integers: Tensor) -> float:
    """The layer's energy under its certificate, from the parts of the hardware model."""
    certificate = certify(integers.int(), SPEC)
    layer = MappedLayer(
        shape=SHAPE,
        spec=SPEC,
        rows=64,
        outputs=8,
        adc_bits_per_slice=certificate.adc_bits_per_slice,
        segments_per_slice=certificate.segments_per_slice,
        nonzeros=int(torch.count_nonzero(integers)),
    )
    return cost_values(COST_MODEL.evaluate([layer]))["energy"]


def test_break_even_is_the_first_share_of_which_the_energy_falls() -> None:
    # One level: a cell is 1 or 0, so that the certificate counts the weights of a segment.
    weight = weights()
    found = share_of(weight, levels=1)
    assert found is not None
    ranked = weight.abs().flatten().argsort(descending=True)
    dense = energy(weight.sign())
    step, below = 0, False
    while not below:
        step += 1
        kept = torch.zeros(weight.numel())
        kept[ranked[: round(weight.numel() * 2 ** (-step / 4))]] = 1
        below = energy(weight.sign() * kept.reshape(8, 64)) < dense
    assert found == pytest.approx(2 ** (-step / 4))


@pytest.mark.parametrize("objective", ["energy", "area", "power"])
def test_one_strong_segment_delays_the_break_even(objective: str) -> None:
    even = weights().sign() * 0.5 + weights(1) * 0.01
    strong = even.clone()
    strong[0] *= 2  # its 64 weights are the last to go, and they need the dense layer's ADC
    early, late = share_of(even, objective, 1), share_of(strong, objective, 1)
    assert early is not None
    assert late is None or late <= early


def test_layers_that_do_not_reach_the_break_even_are_left_dense() -> None:
    network = nn.Sequential(nn.Linear(64, 8))
    with torch.no_grad():
        network[0].weight.copy_(weights())
    found = share_of(weights())
    assert found is not None
    for kept, pays in ((found * 0.99, True), (min(1.0, found * 1.01), False), (None, False)):
        targets = {"0": LayerTarget(spec=SPEC, weight_levels=7, kept_weights=kept)}
        paying = paying_targets(network, targets, {"0": SHAPE}, COST_MODEL, "energy")
        assert paying["0"].kept_weights == (kept if pays else None)
        assert paying["0"].weight_levels == 7


@pytest.mark.parametrize(("break_even", "dense_left"), [("energy", True), ("none", False)])
def test_admm_nn_prunes_only_where_it_pays(
    tmp_path: Path, break_even: str, dense_left: bool
) -> None:
    tables = {
        "network": {"name": "mlp", "arguments": {"hidden": 8}},
        "method": {"name": "admm-nn", "break_even": break_even},
        "train": {"epochs": 1, "train_count": 128, "calibration_count": 64},
        "data": {"test_count": 50},
    }
    problem = load_problem(read_config(tables))
    save_weights(problem.network(), tmp_path / "dense.safetensors")
    candidate = Candidate(
        network="mlp",
        method="admm-nn",
        plan=CrossbarPlan(default=PRESET.crossbar),
        layers={"fc1": LayerSetting(kept_weights=0.99), "fc2": LayerSetting(kept_weights=0.05)},
    )
    found = evaluate(problem, candidate, tmp_path / "dense.safetensors", tmp_path / "checkpoint")
    assert found.status == COMPLETE, found.reason
    nonzeros = {layer["shape"]["name"]: layer["nonzeros"] for layer in found.layers}
    assert nonzeros["fc2"] == 4
    assert nonzeros["fc1"] == (784 * 8 if dense_left else round(784 * 8 * 0.99))
