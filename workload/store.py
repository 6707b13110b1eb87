"""PostgreSQL with pgvector: documents, their chunks, and conversations.

Every event loop has a store of its own: open it at start, close it at the end. Whatever keeps a store from reaching
PostgreSQL (refused, gone, or there and silent) raises StoreUnavailable within TIMEOUT_S, and what was begun is undone
when the server comes back:

- a change is a transaction, and its ``COMMIT`` is only sent after its statements were answered (the passages of a
  document are stored before it, and stay: nobody finds one that no chunk names, and the next attempt needs it);
- the server itself ends a transaction that is older than the client's patience (``transaction_timeout``, hence
  PostgreSQL 17 or newer), so that a ``COMMIT`` that it reads late commits nothing;
- the client does not cancel what hangs, for that needs a server that listens: it shuts the socket.

A passage is stored once, however many documents have it: an HNSW graph of thousands of equal vectors falls apart, and a
search in it misses others (measured: 4 of 30 questions found the wrong document after 1,000 uploads of ten files).

Connections are made when they are needed, not in the background as psycopg_pool does: a Celery worker's loop runs only
while it has a job, and the first request after an outage must not wait for somebody's back-off to end.
"""

import asyncio
import os
import re
import select
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Literal, cast
from uuid import UUID
from weakref import WeakKeyDictionary

import psycopg
from pgvector.psycopg import register_vector_async

from workload.embeddings import DIMENSIONS, Vectors
from workload.settings import settings

TIMEOUT_S = 2.4  # a whole operation; within the 2.5 s that callers count on
COMMIT_MARGIN_S = 0.4  # the server gives a transaction up so much before the client does
ROWS_PER_TRIP = 200
MAX_NAME_CHARS = 255

# Made where its last part is not there yet. CREATE INDEX IF NOT EXISTS alone would wait for every writer, and let every
# writer wait, also where there is nothing to make: a worker that starts must not disturb, nor meet a deadlock.
SCHEMA = f"""
SELECT pg_advisory_xact_lock(7264001);  -- several processes may start at once
DO $$ BEGIN IF to_regclass('conversations_user') IS NULL THEN
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE IF NOT EXISTS documents (
    id uuid PRIMARY KEY,
    task_id uuid NOT NULL,
    name text NOT NULL,
    upload text NOT NULL,
    status text NOT NULL DEFAULT 'processing',
    error text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz
);
CREATE TABLE IF NOT EXISTS passages (
    digest bytea PRIMARY KEY,
    text text NOT NULL,
    embedding vector({DIMENSIONS}) NOT NULL
);
CREATE INDEX IF NOT EXISTS passages_embedding ON passages USING hnsw (embedding vector_cosine_ops);
CREATE TABLE IF NOT EXISTS chunks (
    document_id uuid NOT NULL REFERENCES documents ON DELETE CASCADE,
    position integer NOT NULL,
    passage bytea NOT NULL REFERENCES passages,
    PRIMARY KEY (document_id, position)
);
CREATE INDEX IF NOT EXISTS chunks_passage ON chunks (passage);
CREATE TABLE IF NOT EXISTS conversations (
    task_id uuid PRIMARY KEY,
    user_id text NOT NULL,
    message text NOT NULL,
    response text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX conversations_user ON conversations (user_id, created_at);
END IF; END $$;
"""


class StoreUnavailable(Exception):
    """PostgreSQL could not be reached, or did not answer in time; what was begun is undone, but for passages."""


class UnknownDocumentError(LookupError):
    """No document has this id, or it was discarded in the meantime."""


@dataclass(frozen=True)
class Document:
    """A document's row, and how many chunks it has."""

    status: Literal["processing", "ready", "failed"]
    chunks: int
    error: str | None


@dataclass(frozen=True)
class Passage:
    """A chunk found by its vector; ``similarity`` is the cosine, at most 1."""

    document_id: UUID
    name: str
    position: int
    text: str
    similarity: float


@dataclass(frozen=True)
class Turn:
    """One logged turn of a conversation."""

    user_id: str
    message: str
    response: str
    timestamp: datetime


class _Link:
    """A connection under a deadline: who still waits on it then finds the socket shut, and fails at once."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], deadline_s: float) -> None:
        self.connection = connection
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_at(deadline_s, self._expire)

    def remaining_s(self) -> float:
        """Return how long until the deadline."""
        return self._timer.when() - self._loop.time()

    def renew(self) -> None:
        """Start the time anew: the server has just answered."""
        self._timer.cancel()
        self._timer = self._loop.call_at(self._loop.time() + TIMEOUT_S, self._expire)

    def release(self) -> None:
        """Lift the deadline."""
        self._timer.cancel()

    async def execute(self, query: str, values: Sequence[Any] | None = None) -> psycopg.AsyncCursor[Any]:
        """Run a statement, or several where there are no values."""
        return await self.connection.execute(cast(Any, query), values, prepare=None if values else False)

    async def insert(self, query: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement for each row, and give the server its time anew for every ROWS_PER_TRIP of them."""
        async with self.connection.cursor() as cursor:
            for start in range(0, len(rows), ROWS_PER_TRIP):
                await cursor.executemany(cast(Any, query), rows[start : start + ROWS_PER_TRIP])
                self.renew()

    def _expire(self) -> None:
        if self.remaining_s() < -TIMEOUT_S / 10:
            # This loop was blocked, and the answer may have come meanwhile: the server gets the benefit of the doubt.
            self.renew()
        else:
            _shut_socket(self.connection)


class Store:
    """The database as one event loop sees it; every method raises StoreUnavailable within TIMEOUT_S."""

    def __init__(self, url: str, max_connections: int) -> None:
        self._url = url
        self._free = asyncio.Semaphore(max_connections)
        self._idle: list[psycopg.AsyncConnection[Any]] = []
        self._has_schema = False
        self._closed = False

    async def ping(self) -> None:
        """Return if PostgreSQL answers."""
        async with self._link() as link:
            await link.execute("SELECT 1")

    async def create_document(self, document_id: UUID, task_id: UUID, name: str, upload: str) -> None:
        """Add a document that is being processed; one that is there already stays as it is."""
        async with self._transaction() as link:
            await link.execute(
                "INSERT INTO documents (id, task_id, name, upload) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
                (document_id, task_id, storable(name)[:MAX_NAME_CHARS], upload),
            )

    async def discard_document(self, document_id: UUID, upload: str) -> None:
        """Delete a document that this upload made, and that is still being processed."""
        async with self._transaction() as link:
            await link.execute(
                "DELETE FROM documents WHERE id = %s AND upload = %s AND status = 'processing'", (document_id, upload)
            )

    async def document(self, document_id: UUID) -> Document | None:
        """Return a document, or None if there is none of this id."""
        query = """SELECT status, (SELECT count(*) FROM chunks WHERE document_id = id), error
                   FROM documents WHERE id = %s"""
        async with self._link() as link:
            row = await (await link.execute(query, (document_id,))).fetchone()
        return None if row is None else Document(*row)

    async def store_chunks(self, document_id: UUID, texts: Sequence[str], vectors: Vectors) -> None:
        """Make a document ready: replace its chunks by these, in one transaction. Raises UnknownDocumentError.

        Many chunks may take longer than TIMEOUT_S; every ROWS_PER_TRIP of them have that time. So many passages are a
        transaction each: who stores the same text at the same time waits for these, not for the whole document.
        """
        passages = {sha256(text.encode()).digest(): (text, vector) for text, vector in zip(texts, vectors, strict=True)}
        chunks = [(document_id, position, sha256(text.encode()).digest()) for position, text in enumerate(texts)]
        async with self._link() as link:
            # In one order in every transaction: two that add the same passages cannot wait for each other.
            await link.insert(
                "INSERT INTO passages (digest, text, embedding) VALUES (%s, %s, %b) ON CONFLICT DO NOTHING",
                [(digest, *passages[digest]) for digest in sorted(passages)],
            )
            await link.execute("BEGIN")
            await _finish(link, document_id, "ready", None)
            await link.insert("INSERT INTO chunks (document_id, position, passage) VALUES (%s, %s, %s)", chunks)
            await link.execute("COMMIT")

    async def fail_document(self, document_id: UUID, reason: str) -> None:
        """Mark a document as failed, with a reason for its user; it keeps no chunks. Raises UnknownDocumentError."""
        async with self._transaction() as link:
            await _finish(link, document_id, "failed", reason)

    async def nearest(self, vector: Vectors, limit: int) -> list[Passage]:
        """Return the passages nearest to a vector of 256, the most similar first, each in one of its documents."""
        query = """SELECT document_id, name, position, text, 1 - distance
                   FROM (SELECT digest, text, embedding <=> %b AS distance FROM passages
                         WHERE EXISTS (SELECT FROM chunks WHERE passage = digest)
                         ORDER BY distance LIMIT %s) AS found,
                   LATERAL (SELECT document_id, position FROM chunks WHERE passage = digest LIMIT 1) AS chunk
                   JOIN documents ON id = document_id
                   ORDER BY distance"""
        async with self._link() as link:
            rows = await (await link.execute(query, (vector, limit))).fetchall()
        return [Passage(*row) for row in rows]

    async def log_conversation(self, task_id: UUID, user_id: str, message: str, response: str) -> None:
        """Store a turn under its task's id; a second time it stays as it is."""
        async with self._transaction() as link:
            await link.execute(
                """INSERT INTO conversations (task_id, user_id, message, response) VALUES (%s, %s, %s, %s)
                   ON CONFLICT DO NOTHING""",
                (task_id, user_id, message, response),
            )

    async def conversations(self, user_id: str, limit: int = 1_000) -> list[Turn]:
        """Return the last turns of a user, the oldest first."""
        query = """SELECT user_id, message, response, created_at FROM conversations
                   WHERE user_id = %s ORDER BY created_at DESC, task_id LIMIT %s"""
        async with self._link() as link:
            rows = await (await link.execute(query, (user_id, limit))).fetchall()
        return [Turn(*row) for row in reversed(rows)]

    async def close(self) -> None:
        """Close the idle connections now, and those in use when they are done."""
        self._closed = True
        while self._idle:
            await self._idle.pop().close()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[_Link]:
        """A short change that is committed at the end, or undone: also if the server reads its COMMIT late."""
        async with self._link() as link:
            timeout_ms = max(100, int(1_000 * (link.remaining_s() - COMMIT_MARGIN_S)))
            await link.execute(f"BEGIN; SET LOCAL transaction_timeout = {timeout_ms}")
            yield link
            await link.execute("COMMIT")

    @asynccontextmanager
    async def _link(self) -> AsyncIterator[_Link]:
        """A connection for one operation, with its deadline; what went wrong with it becomes StoreUnavailable."""
        deadline_s = asyncio.get_running_loop().time() + TIMEOUT_S
        connection = await self._take(deadline_s)
        link = _Link(connection, deadline_s)
        try:
            if connection.adapters.types.get("vector") is None:
                await self._initialise(link)
            yield link
        except psycopg.Error as error:
            if connection.closed:
                raise StoreUnavailable(f"PostgreSQL went away or did not answer: {error}") from error
            raise
        finally:
            link.release()
            await self._give_back(connection)

    async def _take(self, deadline_s: float) -> psycopg.AsyncConnection[Any]:
        """Return an idle connection that lives, or a new one, when one of ``max_connections`` is free."""
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._free.acquire()
        except TimeoutError as error:
            raise StoreUnavailable("no connection to PostgreSQL became free in time") from error
        try:
            while self._idle:
                connection = self._idle.pop()
                if _is_quiet(connection):
                    return connection
                await connection.close()
            async with asyncio.timeout_at(deadline_s):
                return await psycopg.AsyncConnection.connect(self._url, autocommit=True)
        except (psycopg.Error, OSError) as error:  # TimeoutError is an OSError
            self._free.release()
            raise StoreUnavailable(f"PostgreSQL cannot be reached: {error}") from error
        except BaseException:
            self._free.release()
            raise

    async def _initialise(self, link: _Link) -> None:
        """Prepare a new connection, and the tables before the first."""
        if not self._has_schema:
            await link.execute(SCHEMA)
            self._has_schema = True
        # Without it a search that meets many passages of no document any more finds fewer than it was asked for.
        await link.execute("SET hnsw.iterative_scan = strict_order")
        await register_vector_async(link.connection)

    async def _give_back(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Keep a connection that is as it was taken, close any other."""
        self._free.release()
        if not self._closed and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            self._idle.append(connection)
        else:
            await connection.close()


async def _finish(link: _Link, document_id: UUID, status: str, error: str | None) -> None:
    """Set how a document ended, and take its earlier chunks away. The row's lock orders concurrent attempts."""
    cursor = await link.execute(
        "UPDATE documents SET status = %s, error = %s, finished_at = clock_timestamp() WHERE id = %s",
        (status, error, document_id),
    )
    if cursor.rowcount == 0:
        raise UnknownDocumentError(f"there is no document {document_id}")
    await link.execute("DELETE FROM chunks WHERE document_id = %s", (document_id,))


def storable(text: str) -> str:
    """Return text without the characters that PostgreSQL refuses: NUL and lone surrogates."""
    return re.sub(r"[\x00\ud800-\udfff]", "", text)


def _is_quiet(connection: psycopg.AsyncConnection[Any]) -> bool:
    """Return whether an idle connection lives: what the server says unasked is a goodbye."""
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)


def _shut_socket(connection: psycopg.AsyncConnection[Any]) -> None:
    """Shut a connection's socket: whoever waits on it fails at once, without a word to the server."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


_stores: WeakKeyDictionary[asyncio.AbstractEventLoop, Store] = WeakKeyDictionary()


async def open_store(max_connections: int) -> Store:
    """Open the running event loop's store on ``DATABASE_URL``, with a first connection and the tables.

    A server that is away is no error here: the store finds it when it comes.
    """
    opened = Store(settings().database_url, max_connections)
    _stores[asyncio.get_running_loop()] = opened
    with suppress(StoreUnavailable):
        await opened.ping()
    return opened


async def close_store() -> None:
    """Close the running event loop's store."""
    await _stores.pop(asyncio.get_running_loop()).close()


def store() -> Store:
    """Return the running event loop's store; it must be open."""
    return _stores[asyncio.get_running_loop()]
