"""What it takes to turn a chip from one task to another, against what its inferences take.

Masks on single weights mean that cells are programmed anew wherever the stored level changes;
masks on segments are a few bits of SRAM. How much that matters depends on how many inferences a
task runs before the next switch, so the answer is a curve and not one number. Both sides would have
to fetch their masks from somewhere; that is left out, in favour of the larger mask.

All units are SI.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hwmodel.errors import SpecError

__all__ = ["CELL_WRITE_J", "SRAM_WRITE_J", "TaskSwitch"]

CELL_WRITE_J = 10e-12
"""Energy to program one cell to another level. kind: assumed, one pulse. Source: Lanza et al.,
Advanced Electronic Materials 2019, table of requirements: about 10 pJ per transition; the best
devices there 0.1 pJ. Program-and-verify takes several pulses, and PipeLayer (HPCA 2017) assumes
3.91 nJ per write spike, so this favours whoever programs cells."""

SRAM_WRITE_J = 10e-12 / 64
"""Energy to write one bit of a mask. kind: derived. Source: Horowitz, ISSCC 2014 (45 nm): 10 pJ for
the 64 bits of one access to an 8 KB SRAM, taken as read and write alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSwitch:
    """What one way to hold tasks costs.

    Raises:
        SpecError: a negative count or energy.
    """

    mask_bits: float
    """SRAM bits that one switch writes."""
    changed_cells: float
    """Cells that one switch programs to another level (a mean over switches, perhaps)."""
    inference_j: float
    """Energy of one inference."""
    cell_write_j: float = CELL_WRITE_J
    sram_write_j: float = SRAM_WRITE_J

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if not value >= 0:
                raise SpecError(f"{name} is {value!r}; allowed: 0 up")

    @property
    def switch_j(self) -> float:
        """Energy of one switch."""
        return self.mask_bits * self.sram_write_j + self.changed_cells * self.cell_write_j

    def energies_j(self, inferences: Sequence[int]) -> tuple[float, ...]:
        """Energy per inference, its share of the switch included.

        Args:
            inferences: inferences that a task runs between two switches, each at least 1.

        Raises:
            SpecError: a count below 1.
        """
        wrong = [count for count in inferences if count < 1]
        if wrong:
            raise SpecError(f"{wrong[0]} inferences per switch; allowed: 1 up")
        return tuple(self.switch_j / count + self.inference_j for count in inferences)
