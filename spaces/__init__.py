"""Candidates, and the search spaces over them."""

from spaces.candidate import Candidate, LayerSetting
from spaces.joint import JointSpace, SpaceConfig
from spaces.space import Space, Suggester

__all__ = ["Candidate", "JointSpace", "LayerSetting", "Space", "SpaceConfig", "Suggester"]
