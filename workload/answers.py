"""Answers from the documents: the nearest passages above a threshold, with their sources."""

import asyncio

from workload import embeddings
from workload.documents import CHINESE
from workload.schemas import Answer, Source
from workload.store import store

# Cosines measured with the sample documents, 15 questions in each language that they answer and 24 that they do not
# (test_workload_process_document.py has them): English, at least 0.35 and at most 0.25; Chinese, whose
# vectors lie closer together, at least 0.61 and at most 0.59. No document in another language is found this way.
THRESHOLD = 0.30
CHINESE_THRESHOLD = 0.60

MAX_SOURCES = 3

KNOWS_NOTHING = "I have nothing on that in the documents I was given."


async def answer(message: str) -> Answer:
    """Return the best passage on a message and its sources, or KNOWS_NOTHING and none. Raises StoreUnavailable."""
    vectors = await asyncio.to_thread(embeddings.embed, [message])
    threshold = CHINESE_THRESHOLD if CHINESE.search(message) else THRESHOLD
    found = await store().nearest(vectors[0], MAX_SOURCES)
    passages = [passage for passage in found if passage.similarity >= threshold]
    if not passages:
        return Answer(response=KNOWS_NOTHING, sources=[])
    sources = [
        Source(document_id=p.document_id, name=p.name, position=p.position, similarity=p.similarity, text=p.text)
        for p in passages
    ]
    return Answer(response=passages[0].text, sources=sources)
