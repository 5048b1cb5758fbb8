"""Colours of figures and pictures, which the colour-blind can tell apart.

Source: Okabe and Ito, Color Universal Design (2008).
"""

__all__ = ["COLOURS", "SERIES"]

COLOURS = {
    "blue": "#0072b2",
    "orange": "#e69f00",
    "green": "#009e73",
    "vermilion": "#d55e00",
    "purple": "#cc79a7",
    "sky": "#56b4e9",
    "grey": "#999999",
    "yellow": "#f0e442",
}

SERIES = tuple(COLOURS.values())
"""In the order in which they are used; what is best told apart comes first."""
