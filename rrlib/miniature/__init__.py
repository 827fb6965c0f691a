"""The miniature: the whole method in small. A written world, a generator, a simulated teacher and a tiny backbone.

It is furniture: the rest of the library reaches it through the references any other corpus, teacher or checkpoint is
reached by (`rrlib.miniature:build`, `rrlib.miniature:SimulatedTeacher`, `package:rrlib.miniature/backbone`).
"""

from __future__ import annotations

from rrlib.miniature.generate import build
from rrlib.miniature.teacher import SimulatedTeacher, faultless_teacher
from rrlib.miniature.world import World, load_world

__all__ = ["SimulatedTeacher", "World", "build", "faultless_teacher", "load_world"]
