from __future__ import annotations

import pytest
from support.rag import MemoryVectors, WordEmbedder


@pytest.fixture
def embedder() -> WordEmbedder:
    return WordEmbedder()


@pytest.fixture
def vectors() -> MemoryVectors:
    return MemoryVectors()
