"""What one crossbar is, and the ADC resolution that its bitlines need.

A *segment* is the part of a bitline inside one crossbar. With stored cell levels `g_r` and a
`v`-bit DAC, no input can drive it above `(2^v - 1) * sum_r g_r`, so

    lossless ADC bits = ceil(log2(1 + (2^v - 1) * sum_r g_r))

is enough for every input. TinyADC (DATE 2021) bounds the sum by counting non-zero weights,
`g_r <= 2^w - 1`; the certificate (`hwmodel.certificate`) uses the sums as they are stored.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from hwmodel.errors import SpecError

__all__ = [
    "CrossbarPlan",
    "CrossbarSpec",
    "SignEncoding",
    "largest_lossless_count",
    "lossless_adc_bits",
    "worst_level_sum",
]


class SignEncoding(StrEnum):
    """How signed weights become non-negative cell levels."""

    DIFFERENTIAL = "differential"
    """Two adjacent bitlines hold the positive and the negative magnitudes; a zero weight is two
    zero cells (PRIME style)."""
    OFFSET = "offset"
    """Every weight is stored with `2^(weight_bits - 1)` added; a zero weight is then a half-scale
    cell."""
    FLIPPED = "flipped"
    """Offset, and a segment above half scale is stored inverted and corrected with the sum of its
    inputs, read from one unit bitline per crossbar (ISAAC, ISCA 2016)."""


_LIMITS = {
    "wordlines": (1, 4096),
    "bitlines": (1, 4096),
    "cell_bits": (1, 8),
    "dac_bits": (1, 8),
    "weight_bits": (2, 16),
    "input_bits": (1, 16),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossbarSpec:
    """One kind of crossbar and the number formats that it computes with.

    Raises:
        SpecError: a size outside its limits, or an input digit wider than the input.
    """

    wordlines: int = 128
    """Height: input rows of one crossbar."""
    bitlines: int = 128
    """Width: output lines of one crossbar."""
    cell_bits: int = 2
    """Bits that one cell stores; its levels are `0 .. 2^cell_bits - 1`."""
    dac_bits: int = 1
    """Bits of the input that one cycle drives onto a wordline."""
    weight_bits: int = 8
    """Bits of a weight, its sign counted."""
    input_bits: int = 8
    """Bits of an (unsigned) input activation."""
    sign_encoding: SignEncoding = SignEncoding.DIFFERENTIAL

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise SpecError(f"{name} is {value!r}; allowed: an integer from {low} to {high}")
        try:
            object.__setattr__(self, "sign_encoding", SignEncoding(self.sign_encoding))
        except ValueError:
            allowed = ", ".join(SignEncoding)
            raise SpecError(
                f"sign_encoding is {self.sign_encoding!r}; allowed: {allowed}"
            ) from None
        if self.dac_bits > self.input_bits:
            raise SpecError(
                f"dac_bits is {self.dac_bits}; allowed: at most input_bits, {self.input_bits}"
            )
        if self.bitlines < self.bitlines_per_output:
            raise SpecError(
                f"bitlines is {self.bitlines}; one output needs {self.bitlines_per_output} "
                f"({self.polarity_count} polarities x {self.slice_count} bit slices)"
            )

    @property
    def weight_limit(self) -> int:
        """Largest magnitude of an integer weight; the range is symmetric."""
        return (1 << (self.weight_bits - 1)) - 1

    @property
    def input_limit(self) -> int:
        """Largest unsigned input."""
        return (1 << self.input_bits) - 1

    @property
    def stored_bits(self) -> int:
        """Bits of the unsigned integer that the cells of one polarity hold."""
        if self.sign_encoding is SignEncoding.DIFFERENTIAL:
            return self.weight_bits - 1
        return self.weight_bits

    @property
    def slice_count(self) -> int:
        """Bit slices of one stored integer, least significant first."""
        return -(-self.stored_bits // self.cell_bits)

    @property
    def polarity_count(self) -> int:
        """Bitlines per output and bit slice."""
        return 2 if self.sign_encoding is SignEncoding.DIFFERENTIAL else 1

    @property
    def bitlines_per_output(self) -> int:
        """Bitlines of one output: polarities x bit slices."""
        return self.polarity_count * self.slice_count

    @property
    def cycle_count(self) -> int:
        """Cycles that feed one input, `dac_bits` at a time."""
        return -(-self.input_bits // self.dac_bits)

    @property
    def digit_limit(self) -> int:
        """Largest input digit of one cycle."""
        return (1 << self.dac_bits) - 1

    @property
    def zero_code(self) -> int:
        """Stored integer of a zero weight."""
        if self.sign_encoding is SignEncoding.DIFFERENTIAL:
            return 0
        return 1 << (self.weight_bits - 1)

    def slice_limit(self, index: int) -> int:
        """Largest level in bit slice `index`; the top slice may be narrower than a cell."""
        return min(
            (1 << self.cell_bits) - 1, ((1 << self.stored_bits) - 1) >> (self.cell_bits * index)
        )

    def to_json(self) -> dict[str, Any]:
        """Plain fields, as `from_json` and the manifests read them."""
        return {**asdict(self), "sign_encoding": str(self.sign_encoding)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "CrossbarSpec":
        """The spec that `to_json` wrote.

        Raises:
            SpecError: an unknown field or an impossible value.
        """
        unknown = sorted(set(fields) - set(cls.__dataclass_fields__))
        if unknown:
            allowed = ", ".join(cls.__dataclass_fields__)
            raise SpecError(f"unknown crossbar field {unknown[0]!r}; allowed: {allowed}")
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossbarPlan:
    """The crossbar of every layer: one default, and exceptions by layer name."""

    default: CrossbarSpec = field(default_factory=CrossbarSpec)
    per_layer: Mapping[str, CrossbarSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "per_layer", MappingProxyType(dict(self.per_layer)))

    def __getitem__(self, layer: str) -> CrossbarSpec:
        return self.per_layer.get(layer, self.default)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild_plan, (self.default, dict(self.per_layer)))

    def to_json(self) -> dict[str, Any]:
        """Plain fields, as `from_json` reads them."""
        return {
            "default": self.default.to_json(),
            "per_layer": {name: spec.to_json() for name, spec in sorted(self.per_layer.items())},
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "CrossbarPlan":
        """The plan that `to_json` wrote."""
        return cls(
            default=CrossbarSpec.from_json(fields["default"]),
            per_layer={
                name: CrossbarSpec.from_json(spec)
                for name, spec in fields.get("per_layer", {}).items()
            },
        )

    def check_layers(self, known: list[str]) -> None:
        """Refuses a plan that names a layer the network does not have.

        Raises:
            SpecError: naming the layer and the layers that exist.
        """
        for name in self.per_layer:
            if name not in known:
                raise SpecError(f"the plan names layer {name!r}; layers: {', '.join(known)}")


def _rebuild_plan(default: CrossbarSpec, per_layer: dict[str, CrossbarSpec]) -> CrossbarPlan:
    """Unpickles a plan (a mapping proxy cannot be pickled)."""
    return CrossbarPlan(default=default, per_layer=per_layer)


def lossless_adc_bits(level_sum: int, dac_bits: int = 1) -> int:
    """ADC bits that read every input exactly over a segment with this sum of levels.

    `ceil(log2(1 + n))` of the largest reading `n` is the bit length of `n`; an empty segment
    needs no conversion, 0 bits.
    """
    return (((1 << dac_bits) - 1) * level_sum).bit_length()


def worst_level_sum(spec: CrossbarSpec, slice_index: int, rows: int, nonzeros: int) -> int:
    """Largest sum of levels that a segment of `rows` weights can store in one bit slice.

    At most `nonzeros` of the weights, per polarity in a differential pair, are not zero. With
    offset encoding the zeros count too: each stores the digits of `zero_code`.

    Source: TinyADC (DATE 2021) for differential pairs; ISAAC (ISCA 2016) for the flip.
    """
    nonzeros = min(nonzeros, rows)
    top = spec.slice_limit(slice_index)
    zero_level = (spec.zero_code >> (spec.cell_bits * slice_index)) & ((1 << spec.cell_bits) - 1)
    lowest = zero_level * (rows - nonzeros)
    highest = lowest + top * nonzeros
    if spec.sign_encoding is not SignEncoding.FLIPPED:
        return highest
    half = top * rows // 2
    return min(highest, half) if lowest <= half else top * rows - lowest


def largest_lossless_count(adc_bits: int, cell_bits: int = 2, dac_bits: int = 1) -> int:
    """Most non-zero weights that a segment may hold under an ADC of `adc_bits`.

    1, 2, 5, 10, 21, 42, 85 for 2 to 8 bits with 2-bit cells and a 1-bit DAC: more than the
    powers of two, at no cost in resolution (a consequence of TinyADC's bound, differs: exact).
    """
    return ((1 << adc_bits) - 1) // (((1 << dac_bits) - 1) * ((1 << cell_bits) - 1))
