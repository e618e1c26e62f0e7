"""Recorded acquisitions, written as if a camera took them."""

from ._plan import replay_settings
from ._replay import replay
from ._report import ReplayProgress, ReplayReport

__all__ = ["ReplayProgress", "ReplayReport", "replay", "replay_settings"]
