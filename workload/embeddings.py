"""Vectors of texts, by wordllama's static embeddings; its weights come inside the wheel, nothing is downloaded."""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

DIMENSIONS = 256
BATCH = 16  # texts of a batch are padded to the longest: 16 of 1,500 tokens take 24 MB

# The mean of a text's tokens is mostly what all texts share: in Chinese any question came near any passage (a cosine
# of 0.68 for one that has nothing to do with it). Vectors are kept at right angles to these words, after the idea of
# "All-but-the-Top" (Mu and Viswanath 2018), which takes what is common out of word vectors.
COMMON_WORDS = ("的", "是", "？", "什么", "哪里", "多少")

Vectors = npt.NDArray[np.float32]


def load() -> None:
    """Load the model, once per process (forked children share it): 0.3–0.6 s, 120 MB; the first `embed` would else."""
    _common()


@cache
def _model() -> Any:
    # The tokenizer's own threads do not survive a fork, and would take CPUs that a contender was not given.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import wordllama

    return wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)


def embed(texts: Sequence[str]) -> Vectors:
    """Return the vectors of texts that are not empty: one row of 256 each, of length 1 (or 0 where nothing is left)."""
    vectors = _means(texts)
    vectors -= (vectors @ _common().T) @ _common()
    lengths: Vectors = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.maximum(lengths, 1e-6)
    return vectors


def _means(texts: Sequence[str]) -> Vectors:
    means: Vectors = _model().embed(list(texts), batch_size=BATCH)
    return means


@cache
def _common() -> Vectors:
    """Return an orthonormal basis of what COMMON_WORDS span, one row for each."""
    basis: Vectors = np.linalg.qr(_means(COMMON_WORDS).T)[0].T
    return basis
