"""The loop: determinism, resuming bit for bit, schedules and refusals."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hwmodel.errors import DataError, DivergedError
from tests.trainers.toys import (
    CLASSES,
    CONV_NET,
    MLP,
    SHAPE,
    as_floats,
    toy_images,
    toy_targets,
    toy_tinyadc,
)
from trainers.config import NetworkConfig, TrainConfig
from trainers.data import ImageSet
from trainers.fit import EpochReport, FitResult, accuracy, fit
from trainers.method import LayerTarget, Method
from trainers.methods import (
    METHODS,
    Magnitude,
    MagnitudeConfig,
    TinyAdc,
    TinyAdcConfig,
    build_method,
)
from trainers.networks import build_network

CONFIG = TrainConfig(batch_size=8)
RATE = 0.02


class Stopped(Exception):
    """What a killed process looks like to the loop."""


def made(config: NetworkConfig = CONV_NET) -> nn.Module:
    return build_network(config, SHAPE, CLASSES)


def dense(network: nn.Module) -> Method:
    return Method(toy_targets(network))


def run(
    network: nn.Module,
    method: Method,
    *,
    epochs: int,
    config: TrainConfig = CONFIG,
    rate: float = RATE,
    seed: int = 0,
    state: Path | None = None,
    stop_after: int | None = None,
    images: ImageSet | None = None,
) -> FitResult:
    def report(done: EpochReport) -> None:
        if done.epoch + 1 == stop_after:
            raise Stopped

    return fit(
        network,
        toy_images() if images is None else images,
        method,
        config,
        epochs=epochs,
        learning_rate=rate,
        seed=seed,
        state_path=state,
        report=report,
    )


def same(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[key]) for key, value in first.state_dict().items())


def losses(result: FitResult) -> list[float]:
    return [report.loss for report in result.epochs]


def test_seed_decides_everything() -> None:
    networks, curves = [], []
    for seed in (3, 3, 4):
        torch.rand(seed)  # whatever was drawn before does not count
        network = made()
        curves.append(losses(run(network, dense(network), epochs=2, seed=seed)))
        networks.append(network)
    assert same(networks[0], networks[1])
    assert curves[0] == curves[1]
    assert not same(networks[0], networks[2])
    assert curves[0] != curves[2]


def test_network_learns_and_epochs_are_reported_as_they_end() -> None:
    network = made(MLP)
    seen: list[EpochReport] = []
    result = fit(
        network,
        toy_images(),
        dense(network),
        CONFIG,
        epochs=6,
        learning_rate=0.1,
        seed=0,
        report=seen.append,
    )
    assert tuple(seen) == result.epochs
    assert [report.epoch for report in seen] == list(range(6))
    assert result.seconds == sum(report.seconds for report in seen)
    assert seen[-1].loss < seen[0].loss / 2
    assert accuracy(network, toy_images()) == 1.0


def test_reported_loss_is_the_mean_cross_entropy_of_the_batches() -> None:
    network = made(MLP)
    expected = nn.functional.cross_entropy(
        network(as_floats(toy_images())), toy_images().labels
    ).item()
    result = run(network, dense(network), epochs=1, rate=0.0)
    assert result.epochs[0].loss == pytest.approx(expected, rel=1e-5)


def test_no_epochs_attach_the_method_and_change_nothing() -> None:
    network, untouched = made(MLP), made(MLP)
    method = dense(network)
    assert run(network, method, epochs=0).epochs == ()
    assert list(method.modules) == ["fc1", "fc2"]
    assert same(network, untouched)


# Four epochs of three steps: ADMM ends after 0, 5 (within epoch 1), 6 (with it) or 12 steps.
@pytest.mark.parametrize("admm_share", [0.0, 0.4, 0.5, 1.0])
@pytest.mark.parametrize("done", [1, 2, 3])
def test_resumed_tinyadc_is_the_uninterrupted_one_bit_for_bit(
    tmp_path: Path, admm_share: float, done: int
) -> None:
    whole = made()
    expected = run(whole, toy_tinyadc(whole, admm_share=admm_share), epochs=4)
    state = tmp_path / "state" / "training.pt"
    first = made()
    with pytest.raises(Stopped):
        run(
            first,
            toy_tinyadc(first, admm_share=admm_share),
            epochs=4,
            state=state,
            stop_after=done,
        )
    torch.manual_seed(99)
    second = build_network(CONV_NET, SHAPE, CLASSES, seed=5)
    method = toy_tinyadc(second, admm_share=admm_share)
    result = run(second, method, epochs=4, state=state)
    assert same(whole, second)
    assert losses(result) == losses(expected)
    assert (method.admm is None) == bool(method.masks)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("kind", ["dense", "magnitude", "packed"])
def test_every_method_and_optimiser_resumes_bit_for_bit(
    tmp_path: Path, kind: str, optimiser: str
) -> None:
    def method(network: nn.Module) -> Method:
        targets = toy_targets(network, nonzeros=3)
        if kind == "dense":
            return dense(network)
        if kind == "magnitude":
            return Magnitude(targets, MagnitudeConfig())
        packed = {
            name: LayerTarget(spec=target.spec, rows=4, outputs=1, nonzeros=2)
            for name, target in targets.items()
        }
        return TinyAdc(packed, TinyAdcConfig(admm_share=0.6, rounds_per_epoch=3))

    config = replace(CONFIG, optimiser=optimiser, schedule="cosine", augment="crop-flip")
    whole = made()
    run(whole, method(whole), epochs=3, config=config)
    state = tmp_path / "training.pt"
    first = made()
    with pytest.raises(Stopped):
        run(first, method(first), epochs=3, config=config, state=state, stop_after=1)
    second = build_network(CONV_NET, SHAPE, CLASSES, seed=5)
    run(second, method(second), epochs=3, config=config, state=state)
    assert same(whole, second)


def test_finished_run_is_read_back_without_training(tmp_path: Path) -> None:
    state = tmp_path / "training.pt"
    network, other = made(), build_network(CONV_NET, SHAPE, CLASSES, seed=5)
    done = run(network, dense(network), epochs=2, state=state)
    again = run(other, dense(other), epochs=2, state=state)
    assert again == done
    assert same(network, other)


class Recorder(Method):
    """Writes down the calls of the loop and the gradients around `after_backward`."""

    name = "recorder"

    def __init__(self, inner: Method) -> None:
        super().__init__(inner.targets)
        self.inner = inner
        self.calls: list[str] = []
        self.added: list[dict[str, Tensor]] = []
        self.expected: list[dict[str, Tensor]] = []

    def attach(self, network: nn.Module, *, epochs: int, steps_per_epoch: int) -> None:
        self.calls.append(f"attach {epochs}x{steps_per_epoch}")
        self.inner.attach(network, epochs=epochs, steps_per_epoch=steps_per_epoch)

    def after_backward(self) -> None:
        self.calls.append("backward")
        admm = getattr(self.inner, "admm", None)
        weights = {name: module.weight for name, module in self.inner.modules.items()}
        before = {name: weight.grad.clone() for name, weight in weights.items()}  # type: ignore[union-attr]
        self.inner.after_backward()
        self.added.append({n: w.grad - before[n] for n, w in weights.items()})  # type: ignore[operator]
        if admm is not None:
            pull = {n: admm.rho * (w.detach() - admm.z[n] + admm.u[n]) for n, w in weights.items()}
            self.expected.append(pull)

    def after_step(self) -> None:
        self.calls.append("step")
        self.inner.after_step()

    def after_epoch(self, epoch: int) -> None:
        self.calls.append(f"epoch {epoch}")
        self.inner.after_epoch(epoch)


def test_hooks_are_called_in_order_and_once() -> None:
    network = made(MLP)
    method = Recorder(dense(network))
    run(network, method, epochs=2)
    epoch = ["backward", "step"] * 3
    assert method.calls == ["attach 2x3", *epoch, "epoch 0", *epoch, "epoch 1"]


def test_gradients_gain_the_admm_penalty_once_a_step_and_never_after_it() -> None:
    network = made(MLP)
    method = Recorder(toy_tinyadc(network, admm_share=0.5))
    run(network, method, epochs=4)
    assert len(method.expected) == 6
    for added, expected in zip(method.added, method.expected, strict=False):
        for name in expected:
            torch.testing.assert_close(added[name], expected[name], rtol=1e-4, atol=1e-6)
    assert max(float(e.abs().max()) for e in method.expected[-1].values()) > 1e-3
    for added in method.added[6:]:
        assert all(int(torch.count_nonzero(gain)) == 0 for gain in added.values())


class Rates(Method):
    """Reads the learning rate off the steps of a parameter whose gradient is set to one."""

    def attach(self, network: nn.Module, *, epochs: int, steps_per_epoch: int) -> None:
        super().attach(network, epochs=epochs, steps_per_epoch=steps_per_epoch)
        self.steps: list[float] = []
        self.parameter = self.modules["fc2"].bias
        with torch.no_grad():
            self.parameter.zero_()

    def after_backward(self) -> None:
        self.parameter.grad = torch.ones_like(self.parameter)

    def after_step(self) -> None:
        self.steps.append(-float(self.parameter.detach()[0]))
        with torch.no_grad():
            self.parameter.zero_()


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1.0] * 10),
        (
            "one-cycle",
            [0.01, 0.51, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125],
        ),
        (
            "cosine",
            [
                1,
                0.975528,
                0.904508,
                0.793893,
                0.654508,
                0.5,
                0.345492,
                0.206107,
                0.095492,
                0.024472,
            ],
        ),
    ],
)
def test_schedule_scales_the_peak_rate_over_all_steps(schedule: str, factors: list[float]) -> None:
    network = made(MLP)
    method = Rates(toy_targets(network))
    config = TrainConfig(batch_size=5, schedule=schedule, momentum=0.0)
    run(network, method, epochs=2, config=config, rate=0.5, images=toy_images(27))
    assert method.steps == pytest.approx([0.5 * factor for factor in factors], abs=1e-6)


def test_weight_decay_spares_biases_and_batch_norm() -> None:
    network = made()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}

    class Still(Method):
        """Zeroes every gradient, so that only the decay moves anything."""

        def after_backward(self) -> None:
            for parameter in network.parameters():
                parameter.grad = torch.zeros_like(parameter)

    config = replace(CONFIG, weight_decay=0.1, schedule="constant")
    run(network, Still(toy_targets(network)), epochs=1, config=config)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name]) == (parameter.ndim == 1), name


def test_huge_learning_rate_is_reported_with_epoch_and_step() -> None:
    network = made(MLP)
    config = replace(CONFIG, schedule="constant")
    message = r"loss is (nan|inf) in epoch \d+, step \d+; allowed: a finite number \(learning rate"
    with pytest.raises(DivergedError, match=message):
        run(network, dense(network), epochs=4, config=config, rate=1e18)


def test_diverged_epoch_is_not_saved(tmp_path: Path) -> None:
    network = made(MLP)
    state = tmp_path / "training.pt"
    config = replace(CONFIG, schedule="constant")
    with pytest.raises(DivergedError):
        run(network, dense(network), epochs=1, config=config, rate=1e30, state=state)
    assert not state.exists()


def test_augmented_images_train_another_network_but_always_the_same() -> None:
    networks = [made(MLP) for _ in range(3)]
    for network, augment in zip(networks, ("none", "flip", "flip"), strict=True):
        run(network, dense(network), epochs=1, config=replace(CONFIG, augment=augment))
    assert same(networks[1], networks[2])
    assert not same(networks[0], networks[1])


@pytest.mark.parametrize("name", METHODS)
def test_channels_last_trains_the_same_network(name: str) -> None:
    every: dict[str, Any] = dict.fromkeys(("nonzeros", "adc_bits", "weight_levels"), 3)
    every |= {"kept_weights": 0.4, "block_size": 2}
    strengths = {key: every[key] for key in METHODS[name].settings if key in every}
    networks = []
    for memory_format in ("contiguous", "channels_last"):
        network = made()
        targets = {
            key: replace(target, **strengths) for key, target in toy_targets(network).items()
        }
        method = build_method(name, METHODS[name].config(), targets)
        run(network, method, epochs=1, config=replace(CONFIG, memory_format=memory_format))
        assert all(value.is_contiguous() for value in network.state_dict().values())
        networks.append(network)
    other = networks[1].state_dict()
    for key, value in networks[0].state_dict().items():
        torch.testing.assert_close(value, other[key], rtol=1e-3, atol=1e-3)


def test_bfloat16_learns_and_keeps_weights_in_float32() -> None:
    network, images = made(), toy_images(200, SHAPE, CLASSES)
    config = replace(CONFIG, precision="bfloat16")
    result = run(network, dense(network), epochs=6, config=config, images=images)
    full = made()
    expected = run(full, dense(full), epochs=6, images=images)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert losses(result) == pytest.approx(losses(expected), rel=0.1)
    assert losses(result) != losses(expected)


def test_bfloat16_that_is_only_imitated_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network, images = made(), toy_images(50, SHAPE, CLASSES)
    config = replace(CONFIG, precision="bfloat16")
    for native in (True, False):
        monkeypatch.setattr("trainers.fit.multiplies_bfloat16", lambda device, is_so=native: is_so)
        run(network, dense(network), epochs=1, config=config, images=images)
        assert ("'float32' is faster here" in caplog.text) is not native


def test_fewer_images_than_a_batch_are_refused() -> None:
    network = made(MLP)
    with pytest.raises(DataError, match="toy: 7 images, expected at least one batch of 8"):
        run(network, dense(network), epochs=1, images=toy_images(7))


def test_accuracy_counts_every_image_in_evaluation_mode() -> None:
    class Parrot(nn.Module):
        """Says class 0 in evaluation mode only."""

        def forward(self, images: Tensor) -> Tensor:
            assert not self.training
            return torch.tensor([[1.0, 0.0, 0.0]]).expand(len(images), 3)

    assert accuracy(Parrot(), toy_images(10), batch_size=4) == 0.4


def test_reports_are_plain_fields() -> None:
    report = EpochReport(epoch=1, loss=0.5, seconds=2.0)
    assert EpochReport(**asdict(report)) == report
