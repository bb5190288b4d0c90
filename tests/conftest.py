"""For all tests: no test is judged by how long it took, so neither are the examples that hypothesis makes."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unhurried", deadline=None, max_examples=60)
settings.load_profile("unhurried")
