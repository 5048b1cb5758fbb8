"""XMA: one frozen backbone, and a shift mask per task instead of new weights.

The cells keep the backbone's integers. A task multiplies what each crossbar segment reads by a
level of its own, 0 or a power of two with a sign: a digital shift of the ADC's result before
shift-and-add. Real masks are trained straight through the nearest level, together with biases,
batch norm and the head (the last layer, which is the task's own). `granularity = "element"` is the
rival, a Piggyback-style binary mask on every weight, for which cells are programmed anew; one level
alone leaves nothing but the head to train.

Source: XMA (DAC 2022); Piggyback (Mallya et al., ECCV 2018) for training real masks straight
through. differs: the paper's levels and thresholds are not public, so the levels are what 3 bits
can say, negative ones among them, and each real mask takes the nearest one (no thresholds to
choose); biases are trained because networks without batch norm would have nothing in its place.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import frexp

import torch
from torch import Tensor, nn

from hwmodel.certificate import Witness
from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import ConfigError, ConstraintError
from hwmodel.geometry import tile_count
from hwmodel.mapping import MatrixLayout, to_segments
from hwmodel.segment_mask import MAX_SHIFT, SegmentMask, spread_segments
from trainers.config import check_choice, check_number
from trainers.constraints import Constraint, Unconstrained
from trainers.level_sum import per_output
from trainers.method import LayerTarget, Method
from trainers.quantise import quantise_weight
from trainers.tracing import CrossbarModule

__all__ = ["FrozenCells", "Xma", "XmaConfig"]

SEGMENT_LEVELS = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0)
"""Eight levels, 3 bits: the width that XMA's share of Piggyback's mask memory, 3.4 %, suggests.
Assumed; negative levels are ours and cost a subtraction in the place of an addition. On short runs
of three tasks 86.0, 98.8 and 97.6 % with levels from -2 to 4 became 87.4, 98.9 and 97.9 %."""
ELEMENT_LEVELS = (0.0, 1.0)
"""Piggyback's binary mask."""
_MOVES = "mask_moves"
"""Name of the parameter that a frozen layer's module gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class XmaConfig:
    """Settings of `xma`.

    Raises:
        ConfigError: naming the field, its value and what is allowed.
    """

    granularity: str = "segment"
    """`segment`: one level per crossbar segment, applied digitally; `element`: one per weight,
    which programs cells anew."""
    levels: tuple[float, ...] | None = None
    """What a mask can be, ascending: 0 or powers of two of either sign, 1 among them (default: -4,
    -2, -1, 0, 1, 2, 4, 8 per segment; 0, 1 per element, which can have no others). Only 1: no
    mask, so that the head alone is trained."""
    mask_rate: float = 300.0
    """Factor on the learning rate of real masks, fitted with `adam` at 1e-3 on short runs of 150 to
    400 steps, of either granularity; 100 to 1000 are much alike, `sgd` wants about 10. Piggyback's
    1e-4 on masks that begin at 0.01 would be 10 at 1e-3, and needs its 30 epochs."""

    def __post_init__(self) -> None:
        check_choice("method.granularity", self.granularity, ("segment", "element"))
        check_number("method.mask_rate", self.mask_rate, low=0)
        if self.levels is not None:
            self._check_levels(self.levels)

    @property
    def chosen_levels(self) -> tuple[float, ...]:
        """The levels, or the granularity's own."""
        if self.levels is not None:
            return self.levels
        return SEGMENT_LEVELS if self.granularity == "segment" else ELEMENT_LEVELS

    @property
    def mask_bits(self) -> int:
        """Bits of memory that one level takes; 0 without a mask."""
        return (len(self.chosen_levels) - 1).bit_length()

    @property
    def lowest_level(self) -> float:
        """The size of the smallest level but 0, which shifts are counted from."""
        return min(abs(level) for level in self.chosen_levels if level)

    def _check_levels(self, levels: tuple[float, ...]) -> None:
        said = f"method.levels is {list(levels)}"
        sizes = [abs(level) for level in levels if level]
        powers = all(frexp(size)[0] == 0.5 for size in sizes)
        if list(levels) != sorted(set(levels)) or 1 not in levels or not powers:
            raise ConfigError(f"{said}; allowed: ascending, 0 or powers of two, 1 among them")
        if max(sizes) / min(sizes) > 1 << MAX_SHIFT:
            raise ConfigError(f"{said}; allowed: at most {MAX_SHIFT} doublings between them")
        if self.granularity == "element" and not set(levels) <= set(ELEMENT_LEVELS):
            raise ConfigError(f"{said}; allowed per element: 0 and 1, what cells can do")


@dataclass(frozen=True, slots=True, eq=False)
class FrozenCells:
    """The backbone's own integers, some of them perhaps erased."""

    cells: Tensor
    """int32 of the weight's shape."""
    erasable: bool = False

    def project(self, weight: Tensor, spec: CrossbarSpec, layout: MatrixLayout) -> Tensor:
        """The weight without what the layout removes: masked weights stand for frozen cells."""
        return Unconstrained().project(weight, spec, layout)

    def check(self, layer: str, weight: Tensor, spec: CrossbarSpec, layout: MatrixLayout) -> None:
        """Raises `ConstraintError` naming the first segment with another integer."""
        Unconstrained().check(layer, weight, spec, layout)
        differing = layout.pack(weight.to(self.cells.dtype) != self.cells)
        if self.erasable:
            differing &= layout.pack(weight) != 0
        if not bool(differing.any()):
            return
        group, output, row = differing.nonzero()[0].tolist()
        bitline = output * spec.bitlines_per_output
        where = Witness(group=group, tile=row // spec.wordlines, bitline=bitline)
        found, frozen = (int(layout.pack(t)[group, output, row]) for t in (weight, self.cells))
        raise ConstraintError(
            f"{layer}: stores {found} in segment ({where}), where the frozen backbone has {frozen}"
        )


class _RealMask:
    """A frozen layer's real masks, which begin at 1.

    They are kept as one flat parameter of the layer's module, so that the optimiser moves them, the
    network's state holds them and weight decay leaves them alone.

    Args:
        module: the layer.
        size: of the mask, `[groups, tiles, packed outputs]` or the weight's own.
        config: levels, granularity and rate.
    """

    def __init__(self, module: CrossbarModule, size: tuple[int, ...], config: XmaConfig) -> None:
        self.size, self.rate = size, config.mask_rate
        levels = [float(level) for level in config.chosen_levels]
        self.levels = torch.tensor(levels, device=module.weight.device)
        moves = torch.zeros(torch.Size(size).numel(), device=module.weight.device)
        self.moves = nn.Parameter(moves)
        module.register_parameter(_MOVES, self.moves)

    def nearest(self) -> Tensor:
        """Index of each mask's level, int64 of `size`; halfway between two, the upper."""
        real = 1 + self.rate * self.moves.detach()
        between = (self.levels[1:] + self.levels[:-1]) / 2
        return torch.bucketize(real, between, right=True).reshape(self.size)

    def level(self) -> Tensor:
        """The level of each mask, float32 of `size`."""
        return self.levels[self.nearest()]

    def set_gradient(self, gradient: Tensor) -> None:
        """Passes the gradient of the levels, of `size`, straight through to the real masks.

        The rate is left out of it, so that it is a factor on the learning rate of any optimiser.
        """
        self.moves.grad = gradient.flatten()

    def hold(self) -> None:
        """Keeps real masks between the lowest and the highest level, where they can still move."""
        if self.rate > 0:
            low, high = (float(self.levels[end]) - 1 for end in (0, -1))
            self.moves.clamp_(low / self.rate, high / self.rate)


class Xma(Method):
    """Freezes the backbone's integers and trains masks, biases, batch norm and the head.

    The network always holds masked weights: a step takes the gradient there, hands it to the real
    masks and puts the weights of their new levels in place.

    Args:
        targets: crossbars by layer; rows and outputs of the backbone to keep.
        config: granularity and levels of the masks.
    """

    name = "xma"
    settings = ("kept_shapes", "kept_filters")

    def __init__(self, targets: Mapping[str, LayerTarget], config: XmaConfig) -> None:
        super().__init__(targets)
        self.config = config
        self.cells: dict[str, Tensor] = {}
        self.scales: dict[str, Tensor] = {}
        self.masks: dict[str, _RealMask] = {}
        self._frozen: dict[str, Tensor] = {}
        self._digital: list[nn.Parameter] = []

    @torch.no_grad()
    def attach(self, network: nn.Module, *, epochs: int, steps_per_epoch: int) -> None:
        """Freezes every layer but the last at its integers and gives it masks."""
        super().attach(network, epochs=epochs, steps_per_epoch=steps_per_epoch)
        self.cells, self.scales, self.masks = {}, {}, {}
        for name, module in list(self.modules.items())[:-1]:
            limit = self.targets[name].spec.weight_limit
            self.cells[name], self.scales[name] = quantise_weight(module.weight, limit)
            if self.config.mask_bits:
                self.masks[name] = _RealMask(module, self._mask_size(name), self.config)
        mapped = {id(module.weight) for module in self.modules.values()}
        self._digital = [p for p in network.parameters() if p.ndim > 1 and id(p) not in mapped]
        self._freeze()
        self._put_weights()

    def constraint(self, name: str) -> Constraint:
        """The backbone's integers; none for the head."""
        if name not in self.cells:
            return Unconstrained()
        return FrozenCells(self.cells[name], erasable=self.config.granularity == "element")

    def quantise(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The frozen integers; with masks per segment, their scale absorbs the lowest level."""
        if name not in self.cells:
            return super().quantise(name, weight)
        if self.config.granularity == "element":
            return self.cells[name] * (weight != 0), self.scales[name]
        return self.cells[name], self.scales[name] * self.config.lowest_level

    def segment_mask(self, name: str) -> SegmentMask | None:
        """The task's factors of a frozen layer, relative to the smallest level but 0."""
        if name not in self.masks or self.config.granularity == "element":
            return None
        factors = (self.masks[name].level() / self.config.lowest_level).to(torch.int16)
        return SegmentMask(factors=factors, bits=self.config.mask_bits)

    @property
    def mask_memory_bits(self) -> int:
        """Bits of memory that one task's masks take."""
        return self.config.mask_bits * sum(mask.moves.numel() for mask in self.masks.values())

    @torch.no_grad()
    def after_backward(self) -> None:
        """Hands the gradients of the weights to the masks; the weights themselves are frozen.

        So are weights that lie on no crossbar.
        """
        for name, frozen in self._frozen.items():
            weight = self.modules[name].weight
            if name in self.masks and weight.grad is not None:
                self.masks[name].set_gradient(self._gather(name, weight.grad * frozen))
            weight.grad = None
        for weight in self._digital:
            weight.grad = None

    @torch.no_grad()
    def after_step(self) -> None:
        """Keeps real masks where they can move, and puts the weights of their levels in place."""
        super().after_step()
        for mask in self.masks.values():
            mask.hold()
        self._put_weights()

    @torch.no_grad()
    def finalize(self) -> None:
        """Leaves masked weights as plain tensors, and the network without masks."""
        super().finalize()
        for name in self.masks:
            delattr(self.modules[name], _MOVES)

    def state_dict(self) -> dict[str, Tensor]:
        """The frozen integers and their scales; real masks are parameters of the network."""
        cells = {f"cells.{name}": cells for name, cells in self.cells.items()}
        scales = {f"scale.{name}": scale for name, scale in self.scales.items()}
        return {**super().state_dict(), **cells, **scales}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` returned."""
        super().load_state_dict(state)
        self.cells = {name: state[f"cells.{name}"] for name in self.cells}
        self.scales = {name: state[f"scale.{name}"] for name in self.scales}
        self._freeze()

    def _freeze(self) -> None:
        """The frozen weights as floats."""
        self._frozen = {
            name: cells * per_output(self.scales[name], cells) for name, cells in self.cells.items()
        }

    def _put_weights(self) -> None:
        """Puts frozen weights under their masks into the network."""
        for name, frozen in self._frozen.items():
            weight = frozen if name not in self.masks else frozen * self._spread(name)
            self.modules[name].weight.copy_(weight)

    def _mask_size(self, name: str) -> tuple[int, ...]:
        if self.config.granularity == "element":
            return tuple(self.modules[name].weight.shape)
        layout = self.layouts[name]
        tiles = tile_count(layout.packed_rows, self.targets[name].spec)
        return layout.groups, tiles, layout.packed_outputs

    def _spread(self, name: str) -> Tensor:
        """Each weight's level, `[outputs, inputs, ...]`."""
        level = self.masks[name].level()
        if self.config.granularity == "element":
            return level
        wordlines, shape = self.targets[name].spec.wordlines, self.modules[name].weight.shape
        return spread_segments(level, self.layouts[name], wordlines, shape)

    def _gather(self, name: str, values: Tensor) -> Tensor:
        """Sums `[outputs, inputs, ...]` over the weights of each mask, as gradients of it do."""
        if self.config.granularity == "element":
            return values
        matrix = self.layouts[name].pack(values)
        return to_segments(matrix, self.targets[name].spec.wordlines).sum(dim=-1)
