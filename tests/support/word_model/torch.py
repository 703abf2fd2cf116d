"""See ``sentence_transformers.py`` beside this."""

from __future__ import annotations


def set_num_threads(count: int) -> None:
    """One is enough to count words."""
