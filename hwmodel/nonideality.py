"""What a real crossbar does to the stored levels and to the readings, drawn from a seed.

Everything is in *level units*: one step between neighbouring cell levels is 1, and so is one step
of the ADC. A cell of level `g` conducts `g + leak`, because a cell that is switched off still
conducts: with `L` the highest level of a cell and `G_on / G_off` the on/off ratio,

    leak = L / (G_on / G_off - 1)

The periphery is taken as it would be without calibration: nothing subtracts the leakage or raises
the gain before the ADC. A differential pair cancels leakage by itself, offset encodings do not.
"""

import hashlib
import math
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor

from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import SpecError

__all__ = ["REFERENCE_WIRE_RATIO", "STUCK_ON_SHARE", "Nonideality", "effective_levels"]

STUCK_ON_SHARE = 5.2 / 6.2
"""Share of stuck cells that are stuck on; stuck-on : stuck-off = 5.2 : 1.

Source: the protocol of Yuan et al., ISQED 2021 (pruning with differential mapping).
"""

REFERENCE_WIRE_RATIO = 1.0 * (1 / 33e3 + 1 / 333e3) / 2
"""One 1-ohm wire segment over a mean cell of 33 to 333 kohm: 1 ohm x 16.65 uS = 1.665e-5."""

_RATES = ("stuck_off_rate", "stuck_on_rate")
_SIZES = ("variation", "read_noise", "ir_drop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Nonideality:
    """One device that is not ideal; all defaults together are the ideal one.

    Faults and variation are a fixed pattern of the device: the same for every input. Each effect
    draws from a stream of its own, so switching one on leaves the others' pattern as it was, and a
    higher fault rate keeps the faults of a lower one.

    Raises:
        SpecError: a rate outside 0..1 or rates above 1 together, a ratio not above 1, or a size or
            seed that is negative or not finite.
    """

    stuck_off_rate: float = 0.0
    """Share of cells that conduct as level 0 whatever is written."""
    stuck_on_rate: float = 0.0
    """Share of cells that conduct as the highest level of a cell."""
    on_off_ratio: float = math.inf
    """Conductance of the highest level over that of level 0; infinite: level 0 leaks nothing."""
    variation: float = 0.0
    """Sigma of ln(conductance) of each cell that is not stuck; the median stays.

    Source: log-normal variation as in FORMS (ISCA 2021), which studies sigma 0.1.
    """
    read_noise: float = 0.0
    """Noise that is drawn afresh for every reading, in level units (rms), before the ADC rounds."""
    ir_drop: float = 0.0
    """Resistance of a wire from one cell to the next over that of a mean cell (`current_loss`)."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in _RATES:
            value = getattr(self, name)
            if not 0 <= value <= 1:  # NaN compares false
                raise SpecError(f"{name} is {value}; allowed: 0 to 1")
        if self.stuck_off_rate + self.stuck_on_rate > 1 + 1e-12:
            raise SpecError(
                f"stuck_off_rate + stuck_on_rate is {self.stuck_off_rate + self.stuck_on_rate:g}; "
                "allowed: at most 1"
            )
        for name in _SIZES:
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise SpecError(f"{name} is {value}; allowed: a finite number, at least 0")
        if not self.on_off_ratio > 1:
            raise SpecError(f"on_off_ratio is {self.on_off_ratio}; allowed: above 1")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise SpecError(f"seed is {self.seed!r}; allowed: an integer, at least 0")

    @classmethod
    def with_faults(cls, rate: float, **others: Any) -> Self:
        """A device with stuck cells at `rate`, split 5.2 : 1 into stuck-on and stuck-off.

        Raises:
            SpecError: as the class; a rate outside 0..1.
        """
        if not 0 <= rate <= 1:
            raise SpecError(f"fault rate is {rate}; allowed: 0 to 1")
        return cls(
            stuck_on_rate=rate * STUCK_ON_SHARE,
            stuck_off_rate=rate * (1 - STUCK_ON_SHARE),
            **others,
        )

    @property
    def keeps_integers(self) -> bool:
        """Whether every effective level, and so every reading, is still an integer."""
        smooth = self.variation or self.read_noise or self.ir_drop
        return not smooth and math.isinf(self.on_off_ratio)

    @property
    def ideal(self) -> bool:
        """Whether nothing at all is amiss."""
        return self.keeps_integers and not self.stuck_off_rate and not self.stuck_on_rate

    def leak(self, spec: CrossbarSpec) -> float:
        """Conductance of a cell at level 0, in level units."""
        return ((1 << spec.cell_bits) - 1) / (self.on_off_ratio - 1)

    def current_loss(self, wordlines: int, bitlines: int | None = None) -> float:
        """Share of the ideal current that the wires of a fully driven crossbar lose, 0 to 1.

        A wire of `n` segments feeding equal cells is a ladder; in the continuous limit it
        delivers `tanh(x) / x` of the ideal current, with `x = n sqrt(k)` and `k` the ratio
        `ir_drop`. Current passes one wordline and one bitline, so

            loss = 1 - f(wordlines) f(bitlines),    f(n) = tanh(n sqrt(k)) / (n sqrt(k))

        First order in `k`: `k (wordlines^2 + bitlines^2) / 3`. With `REFERENCE_WIRE_RATIO`
        this gives 4.4, 15.7 and 44.3 % for square crossbars of 64, 128 and 256, where the circuit
        solver badcrossbar gives 4.4, 15.3 and 40.8 %. Every cell is charged the mean loss of a
        full crossbar: pessimistic where few rows are driven, or most cells are off.

        Args:
            wordlines: height of the crossbar.
            bitlines: its width (default: square).
        """
        wires = (wordlines, wordlines if bitlines is None else bitlines)
        lengths = [count * math.sqrt(self.ir_drop) for count in wires]
        delivered = [math.tanh(x) / x if x else 1.0 for x in lengths]
        return 1 - delivered[0] * delivered[1]

    def generator(self, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
        """The random stream of one effect."""
        # A hash, so that neighbouring seeds and different effects share no numbers.
        mixed = hashlib.sha256(f"{self.seed}/{purpose}".encode()).digest()
        generator = torch.Generator(device=device)
        return generator.manual_seed(int.from_bytes(mixed[:7], "little"))

    def to_json(self) -> dict[str, float | None]:
        """Plain fields; an infinite on/off ratio, which JSON cannot hold, is null."""
        fields: dict[str, float | None] = asdict(self)
        if math.isinf(self.on_off_ratio):
            fields["on_off_ratio"] = None
        return fields


def effective_levels(levels: Tensor, spec: CrossbarSpec, nonideality: Nonideality) -> Tensor:
    """Conductances of cells in level units, as the bitlines see them.

    Every cell of the crossbar is a device of its own, both arrays of a differential pair and the
    narrow top slice included: that one, too, sticks at the highest level of a *cell*.

    Args:
        levels: stored levels, uint8, any shape.
        spec: the layer's crossbar.
        nonideality: the device.

    Returns:
        float32 of the same shape; integers where `nonideality.keeps_integers`.
    """
    cells = levels.float() + nonideality.leak(spec)
    if nonideality.variation:
        normal = torch.randn(levels.shape, generator=nonideality.generator("variation"))
        cells *= torch.exp(nonideality.variation * normal).to(cells.device)
    if nonideality.stuck_off_rate or nonideality.stuck_on_rate:
        drawn = torch.rand(levels.shape, generator=nonideality.generator("faults"))
        drawn = drawn.to(cells.device)
        off = nonideality.leak(spec)
        cells[drawn >= 1 - nonideality.stuck_off_rate] = off
        cells[drawn < nonideality.stuck_on_rate] = off + (1 << spec.cell_bits) - 1
    if nonideality.ir_drop:
        cells *= 1 - nonideality.current_loss(spec.wordlines, spec.bitlines)
    return cells
