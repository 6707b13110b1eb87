"""Answers from the documents: the nearest passages above a threshold, with their sources."""

import asyncio

from workload import embeddings
from workload.schemas import Answer, Source
from workload.store import Passage, store

THRESHOLD = 0.35
CANDIDATES = 12
MAX_SOURCES = 3

KNOWS_NOTHING = "I have nothing on that in the documents I was given."


async def answer(message: str) -> Answer:
    """Return the best passage on a message and its sources, or KNOWS_NOTHING and none. Raises StoreUnavailable."""
    vectors = await asyncio.to_thread(embeddings.embed, [message])
    passages = _distinct(await store().nearest(vectors[0], CANDIDATES))
    if not passages:
        return Answer(response=KNOWS_NOTHING, sources=[])
    sources = [
        Source(document_id=p.document_id, name=p.name, position=p.position, similarity=p.similarity, text=p.text)
        for p in passages[:MAX_SOURCES]
    ]
    return Answer(response=passages[0].text, sources=sources)


def _distinct(passages: list[Passage]) -> list[Passage]:
    """Return the passages above the threshold, each text once: the same file may have been uploaded twice."""
    return list({p.text: p for p in reversed(passages) if p.similarity >= THRESHOLD}.values())[::-1]
