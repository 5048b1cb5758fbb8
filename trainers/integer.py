"""The integer network: every convolution and linear layer as its crossbars compute it.

A `CrossbarLayer` codes its inputs as unsigned integers, multiplies them on crossbars and applies
scales and bias digitally; everything between the layers (batch norm, activation, pooling) stays
as it was. Signed activations carry a zero point `z`: with inputs `u = x / s + z`, the product
`W (u - z) = W u - z * sum(W)` needs one constant per output, so wordlines only ever see unsigned
digits and the certificate holds for them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hwmodel.certificate import AdcCertificate, certify
from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import SpecError
from hwmodel.exact import exact_convolution, exact_product
from hwmodel.geometry import LayerShape, MappedLayer, unit_line_bits
from hwmodel.mapping import MatrixLayout, to_bitlines
from hwmodel.nonideality import Nonideality
from hwmodel.rotation import RotatedMapping, rotated_mapping
from hwmodel.segment_mask import SegmentMask
from hwmodel.simulator import CrossbarSimulator
from trainers.quantise import ActivationRange, quantise_activations, quantise_weight
from trainers.tracing import Convolution, CrossbarModule, crossbar_modules, dense_layout

__all__ = [
    "EVERY_READING",
    "EXACT",
    "ConvGeometry",
    "CrossbarLayer",
    "IntegerLayer",
    "Readout",
    "integer_layers",
    "set_readout",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvGeometry:
    """How a convolution slides, along one axis or two."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    """Before and after each axis, the last axis first, as `torch.nn.functional.pad` takes them."""
    padding_mode: str = "zeros"
    """What the padding holds: `zeros`, `reflect`, `replicate` or `circular`."""

    @classmethod
    def of(cls, module: Convolution) -> "ConvGeometry":
        """The geometry of a convolution."""
        return cls(
            kernel=tuple(module.kernel_size),
            stride=tuple(module.stride),
            dilation=tuple(module.dilation),
            padding=_padding(module.padding, module.kernel_size, module.dilation),
            padding_mode=module.padding_mode,
        )

    def pad(self, codes: Tensor, zero_point: float) -> Tensor:
        """Padded input codes `[batch, channels, ...]`; `zero_point` is the code of zero."""
        if self.padding_mode == "zeros":
            return functional.pad(codes, self.padding, value=zero_point)
        return functional.pad(codes, self.padding, mode=self.padding_mode)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IntegerLayer:
    """All that is stored of one layer.

    Attributes:
        weight_q: int16 `[outputs, inputs, ...]`.
        weight_scale: float32 `[outputs]`.
        bias: float32 `[outputs]`.
        activations: code of the inputs.
        spec: the crossbar.
        layout: what is left after structured pruning.
        adc_bits_per_slice: the ADCs that are built, least significant slice first.
        geometry: of a convolution; None for a linear layer.
        block_size: side of the circulant blocks that the crossbars make use of; 1: none.
        mask: what a task multiplies the segments by; None: nothing.
    """

    weight_q: Tensor
    weight_scale: Tensor
    bias: Tensor
    activations: ActivationRange
    spec: CrossbarSpec
    layout: MatrixLayout
    adc_bits_per_slice: tuple[int, ...] = field(default=())
    geometry: ConvGeometry | None = None
    block_size: int = 1
    mask: SegmentMask | None = None

    @classmethod
    def quantised(
        cls,
        module: CrossbarModule,
        spec: CrossbarSpec,
        layout: MatrixLayout | None,
        activations: ActivationRange,
        integers: tuple[Tensor, Tensor] | None = None,
        block_size: int = 1,
    ) -> "IntegerLayer":
        """A float layer's integers, with the ADCs that its certificate asks for.

        Args:
            module: the layer.
            spec: its crossbar.
            layout: what is left of it (default: all).
            activations: the code of its inputs.
            integers: its weights as int32 and their scale, `[outputs]` (default: rounded, the
                largest weight of an output at the spec's limit).
            block_size: side of its circulant blocks (default: none).

        Raises:
            MappingError: weights that the crossbar cannot store, or that are not circulant.
        """
        layout = dense_layout(module) if layout is None else layout
        if integers is None:
            integers = quantise_weight(module.weight.detach(), spec.weight_limit)
        weight_q, weight_scale = integers
        bias = torch.zeros_like(weight_scale) if module.bias is None else module.bias.detach()
        layer = cls(
            weight_q=weight_q.to(torch.int16),
            weight_scale=weight_scale,
            bias=bias.float().clone(),
            activations=activations,
            spec=spec,
            layout=layout,
            geometry=ConvGeometry.of(module) if isinstance(module, Convolution) else None,
            block_size=block_size,
        )
        return replace(layer, adc_bits_per_slice=layer.certify().adc_bits_per_slice)

    @property
    def adc_bits(self) -> int:
        """Resolution of the ADCs that are built: the largest over bit slices and unit bitline."""
        tallest = min(self.stored()[1].packed_rows, self.spec.wordlines)
        return max(*self.adc_bits_per_slice, unit_line_bits(self.spec, tallest))

    @property
    def packed_weight(self) -> Tensor:
        """The integers that are multiplied with, under the mask, `[groups, outputs, rows]`."""
        matrix = self.layout.pack(self.weight_q.int())
        return matrix if self.mask is None else self.mask.apply(matrix, self.spec.wordlines)

    @property
    def unpacked_weight(self) -> Tensor:
        """The same as a weight tensor, int32 `[outputs, inputs, ...]`."""
        return self.layout.unpack(self.packed_weight, self.weight_q.shape)

    @property
    def rotated(self) -> RotatedMapping | None:
        """How a circulant layer is read; None: as a dense one."""
        return rotated_mapping(self.weight_q, self.layout, self.spec, self.block_size)

    def stored(self) -> tuple[Tensor, MatrixLayout]:
        """The integers that lie on the crossbars, and their layout.

        Raises:
            MappingError: weights that are not circulant, where the crossbars rely on it.
        """
        rotated = self.rotated
        if rotated is None:
            return self.weight_q.int(), self.layout
        return rotated.store(self.weight_q), rotated.layout

    def certify(self) -> AdcCertificate:
        """The certificate of the integers as they stand, whatever the mask."""
        weight_q, layout = self.stored()
        return certify(weight_q, self.spec, layout)

    def mapped(self, shape: LayerShape) -> MappedLayer:
        """The layer as the cost model sees it."""
        certificate, rotated, mask = self.certify(), self.rotated, self.mask
        weight_q, layout = self.stored()
        segments = certificate.segments_per_slice
        if mask is not None:
            segments = mask.segments_read(to_bitlines(weight_q, self.spec, layout), self.spec)
        return MappedLayer(
            shape=shape,
            spec=self.spec,
            rows=layout.packed_rows,
            outputs=layout.packed_outputs,
            adc_bits_per_slice=self.adc_bits_per_slice,
            segments_per_slice=segments,
            nonzeros=int(torch.count_nonzero(self.packed_weight)),
            unit_line_bits=certificate.unit_line_bits,
            rotations=1 if rotated is None else rotated.rotations,
            mask_bits=0 if mask is None else mask.bits,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Readout:
    """How crossbar layers come by their products; the default is the integer product.

    Raises:
        SpecError: ADC bits below 0.
    """

    every_reading: bool = False
    """Simulate each ADC reading, even where there is a shorter way to the same bits."""
    adc_bits: int | None = None
    """The largest ADC that is built: promised resolutions above it are cut down to it."""
    nonideality: Nonideality | None = None
    """The device; None: ideal."""

    def __post_init__(self) -> None:
        if self.adc_bits is not None and self.adc_bits < 0:
            raise SpecError(f"adc_bits is {self.adc_bits}; allowed: at least 0")

    @property
    def simulates(self) -> bool:
        """Whether ADCs are looked at; else their certificate is taken at its word."""
        return self != EXACT

    def for_layer(self, name: str) -> "Readout":
        """The same readout with a device of the layer's own, drawn from seed and name."""
        if self.nonideality is None:
            return self
        mixed = hashlib.sha256(f"{self.nonideality.seed}/{name}".encode()).digest()
        seed = int.from_bytes(mixed[:7], "little")
        return replace(self, nonideality=replace(self.nonideality, seed=seed))


EXACT = Readout()
EVERY_READING = Readout(every_reading=True)


class CrossbarLayer(nn.Module):
    """Runs an `IntegerLayer`; a drop-in for the layer that it was made from.

    `readout` chooses how its products come about. With the promised ADCs, where they are
    certified, and an ideal device, every choice gives the same bits.
    """

    matrix_q: Tensor
    output_scale: Tensor
    offset: Tensor
    input_scale: Tensor
    zero_point: Tensor
    bias: Tensor

    def __init__(self, layer: IntegerLayer) -> None:
        super().__init__()
        self.layer = layer
        self._readout = EXACT
        self._simulator: CrossbarSimulator | None = None
        matrix = layer.packed_weight
        code = layer.activations
        # Constants of an output hold for all its positions: [outputs], or [outputs, 1, ...].
        shape = (-1, *[1] * (layer.weight_q.ndim - 2))
        weight_q = layer.layout.unpack(matrix, layer.weight_q.shape)
        offset = -code.zero_point * weight_q.flatten(1).sum(dim=1).double()
        self.register_buffer("matrix_q", matrix)
        self.register_buffer("output_scale", (layer.weight_scale * code.scale).reshape(shape))
        self.register_buffer("offset", offset.reshape(shape))
        self.register_buffer("bias", layer.bias.reshape(shape))
        self.register_buffer("input_scale", torch.tensor(code.scale, dtype=torch.float32))
        self.register_buffer("zero_point", torch.tensor(float(code.zero_point)))

    @property
    def readout(self) -> Readout:
        """How products come about; setting it programs a new device."""
        return self._readout

    @readout.setter
    def readout(self, readout: Readout) -> None:
        self._readout = readout
        self._simulator = None

    def forward(self, values: Tensor) -> Tensor:
        """The layer's outputs for float inputs, as float."""
        layer = self.layer
        codes = quantise_activations(
            values, self.input_scale, self.zero_point, layer.spec.input_limit
        )
        if layer.geometry is not None:
            codes = layer.geometry.pad(codes, float(self.zero_point))
        products = self._simulate(codes) if self._readout.simulates else self._product(codes)
        # The bound that chose the type of the products holds for the offsets and with them, too:
        # W (u - z) lies within the same limits, as `u - z` spans no more than `u`.
        products.add_(self.offset.to(products.dtype))
        return products.to(values.dtype).mul_(self.output_scale).add_(self.bias)

    def _product(self, codes: Tensor) -> Tensor:
        """The integer products, as floats."""
        layer, geometry = self.layer, self.layer.geometry
        limit, layout = layer.spec.input_limit, layer.layout
        weight_q = layout.unpack(self.matrix_q, layer.weight_q.shape)
        if geometry is None:
            products = exact_product(codes.reshape(1, -1, layout.rows), weight_q[None], limit)
            return products.reshape(*codes.shape[:-1], layout.outputs)
        return exact_convolution(
            codes,
            weight_q,
            limit,
            stride=geometry.stride,
            dilation=geometry.dilation,
            groups=layout.groups,
        )

    def _simulate(self, codes: Tensor) -> Tensor:
        """What the crossbars return, float64 of the same shape."""
        vectors, shape = self._vectors(codes)
        outputs = self._spread(self._multiply(vectors)).reshape(shape)
        return outputs if self.layer.geometry is None else outputs.movedim(-1, 1).contiguous()

    def _multiply(self, vectors: Tensor) -> Tensor:
        """Simulated products, float64 `[groups, vectors, packed outputs]`."""
        readout, layer = self._readout, self.layer
        if self._simulator is None:
            promised = layer.adc_bits_per_slice
            cap = readout.adc_bits
            weight_q, layout = layer.stored()
            self._simulator = CrossbarSimulator(
                weight_q,
                layer.spec,
                promised if cap is None else [min(bits, cap) for bits in promised],
                layout=layout,
                nonideality=readout.nonideality,
                mask=layer.mask,
            )
        rotated = layer.rotated
        inputs = vectors if rotated is None else rotated.rotate(vectors)
        products = self._simulator(inputs, every_reading=readout.every_reading)
        return (products if rotated is None else rotated.collect(products)).double()

    def _vectors(self, codes: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Wordline inputs `[groups, vectors, packed rows]`, and the shape of their outputs.

        That shape is `[..., outputs]`: leading dimensions of a linear layer's inputs, or batch and
        positions.
        """
        layout, geometry = self.layer.layout, self.layer.geometry
        if geometry is None:
            vectors = codes.reshape(1, -1, codes.shape[-1])
            return self._keep(vectors), (*codes.shape[:-1], layout.outputs)
        windows, axes = codes, len(geometry.kernel)
        for axis in range(axes):
            reach = geometry.dilation[axis] * (geometry.kernel[axis] - 1) + 1
            windows = windows.unfold(2 + axis, reach, geometry.stride[axis])
            windows = windows[..., :: geometry.dilation[axis]]
        batch, _, *positions = windows.shape[: 2 + axes]
        windows = windows.unflatten(1, (layout.groups, -1)).movedim(2, 2 + axes).transpose(0, 1)
        vectors = windows.reshape(layout.groups, -1, layout.rows)
        return self._keep(vectors), (batch, *positions, layout.groups * layout.outputs)

    def _keep(self, vectors: Tensor) -> Tensor:
        kept = self.layer.layout.kept_rows
        if kept is None:
            return vectors
        return vectors.gather(2, kept[:, None, :].expand(-1, vectors.shape[1], -1))

    def _spread(self, products: Tensor) -> Tensor:
        """`[groups, vectors, packed outputs]` to `[vectors, outputs]`, zero where pruned."""
        layout = self.layer.layout
        if layout.kept_outputs is not None:
            wide = products.new_zeros(layout.groups, products.shape[1], layout.outputs)
            index = layout.kept_outputs[:, None, :].expand(-1, products.shape[1], -1)
            products = wide.scatter(2, index, products)
        return products.permute(1, 0, 2).flatten(1)

    def _apply(self, fn: Any, recurse: bool = True) -> "CrossbarLayer":
        """Moves the stored layer along with the buffers."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = self.matrix_q.device
        if self.layer.weight_q.device != device:
            self.layer = _layer_on(self.layer, device)
            self._simulator = None
        return self


def integer_layers(network: nn.Module) -> dict[str, IntegerLayer]:
    """The stored layers of an integer network by name."""
    return {
        name: module.layer
        for name, module in network.named_modules()
        if isinstance(module, CrossbarLayer)
    }


def install(network: nn.Module, layers: dict[str, IntegerLayer]) -> None:
    """Replaces the named layers of a network by crossbar layers, in place."""
    for name in crossbar_modules(network):
        parent_name, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(parent_name), attribute, CrossbarLayer(layers[name]))


def set_readout(network: nn.Module, readout: Readout) -> None:
    """Makes every crossbar layer come by its products in this way, each on a device of its own."""
    for name, module in network.named_modules():
        if isinstance(module, CrossbarLayer):
            module.readout = readout.for_layer(name)


def _layer_on(layer: IntegerLayer, device: torch.device) -> IntegerLayer:
    return replace(
        layer,
        weight_q=layer.weight_q.to(device),
        weight_scale=layer.weight_scale.to(device),
        bias=layer.bias.to(device),
        layout=layer.layout.to(device),
        mask=None if layer.mask is None else layer.mask.to(device),
    )


def _padding(
    padding: str | Sequence[int], kernel: Sequence[int], dilation: Sequence[int]
) -> tuple[int, ...]:
    """Explicit padding; `same` splits an odd total as torch does, the larger half behind."""
    if padding == "valid":
        before = after = [0] * len(kernel)
    elif padding == "same":
        totals = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
        before = [total // 2 for total in totals]
        after = [total - total // 2 for total in totals]
    else:
        before = after = [int(size) for size in padding]
    sides = zip(reversed(before), reversed(after), strict=True)
    return tuple(side for pair in sides for side in pair)
