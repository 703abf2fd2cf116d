"""In place of the model in the processes of a service under test: texts that share words are near.

First on their ``PYTHONPATH``, beside as little of ``torch`` and ``transformers`` as the product asks
of them: to import the real ones and load the model is 7 s of CPU in each process. Tests whose
promise is the model itself make their service with ``real_model``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from support.rag import WordEmbedder

from core.rag.embedding import DIMENSIONS


class SentenceTransformer:
    def __init__(self, folder: str, **options: Any) -> None:
        self._words = WordEmbedder()

    def get_embedding_dimension(self) -> int:
        return DIMENSIONS

    def eval(self) -> None:
        """It never learns."""

    def encode(self, texts: Sequence[str], **options: Any) -> np.ndarray:
        return np.array([self._words.encode_query(text) for text in texts], dtype=np.float32)
