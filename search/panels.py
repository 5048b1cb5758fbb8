"""A figure of the report with what stands around it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["Panel", "View"]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One of several ways to look at a figure, which the page offers as a list to choose from."""

    label: str
    visible: Sequence[bool] | None = None
    """Traces that are drawn (None: all)."""
    layout: Mapping[str, Any] = field(default_factory=dict)
    """Plotly's layout where it differs from the figure's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A figure, its title, and how to read it."""

    title: str
    caption: str = ""
    figure: "go.Figure"
    views: Sequence[View] = ()
    """The first is shown first."""
    least_width: int = 0
    """Pixels; where the page is narrower, the figure scrolls by itself."""
