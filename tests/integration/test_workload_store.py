"""The store on a real PostgreSQL: what it keeps, and what it does while the server is away."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import count
from typing import TypeVar
from uuid import UUID, uuid4

import numpy as np
import psutil
import psycopg
import pytest

from lab.stacks.servers import Postgres
from tests.support import until
from workload.embeddings import DIMENSIONS, Vectors
from workload.settings import settings
from workload.store import (
    Document,
    Store,
    StoreUnavailable,
    UnknownDocumentError,
    close_store,
    open_store,
    store,
)

T = TypeVar("T")
PROMISED_S = 2.5
SLACK_S = 1.0  # what a busy machine may add
_names = count(1)


@pytest.fixture
def database(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh database, that the settings name."""
    name = f"store_{next(_names)}"
    yield from named(postgres.create_database(name), monkeypatch)
    postgres.drop(name)


def named(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Let the settings name a database."""
    monkeypatch.setenv("DATABASE_URL", url)
    settings.cache_clear()
    yield url
    settings.cache_clear()


def run(work: Callable[[Store], Awaitable[T]], max_connections: int = 4) -> T:
    """Do some work with a store that is opened before it and closed after it."""

    async def main() -> T:
        opened = await open_store(max_connections)
        try:
            return await work(opened)
        finally:
            await close_store()

    return asyncio.run(main())


def vectors(rows: int, seed: int = 1) -> Vectors:
    """Return random vectors of length 1."""
    drawn = np.random.default_rng(seed).normal(size=(rows, DIMENSIONS)).astype(np.float32)
    lengths: Vectors = np.linalg.norm(drawn, axis=1, keepdims=True)
    drawn /= lengths
    return drawn


def counted(url: str, query: str) -> int:
    """Return the number that a query counts."""
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def stopped(server: Postgres) -> Iterator[None]:
    """Hold a whole PostgreSQL still, as SIGSTOP does."""
    root = psutil.Process(server.pid)
    processes = [root, *root.children(recursive=True)]
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process.pid, signal.SIGCONT)


async def refused(work: Awaitable[object]) -> None:
    """Await work that must end as StoreUnavailable in the time that was promised."""
    started_s = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await work
    assert time.monotonic() - started_s < PROMISED_S + SLACK_S


def test_a_document_is_processed_then_ready(database: str) -> None:
    """Chunks come with the state ready, and a second set replaces the first."""

    async def work(store: Store) -> None:
        document_id = uuid4()
        assert await store.document(document_id) is None
        await store.create_document(document_id, uuid4(), "name", "upload")
        assert await store.document(document_id) == Document("processing", 0, None)
        await store.store_chunks(document_id, ["a"] * 450, vectors(450))
        assert await store.document(document_id) == Document("ready", 450, None)
        await store.store_chunks(document_id, ["b", "c"], vectors(2))
        assert await store.document(document_id) == Document("ready", 2, None)
        await store.fail_document(document_id, "a reason")
        assert await store.document(document_id) == Document("failed", 0, "a reason")

    run(work)


def test_a_document_that_cannot_be_stored_whole_is_not_stored(database: str) -> None:
    """One bad chunk in the last statement, and the earlier state stands; the error is no outage."""

    async def work(store: Store) -> None:
        document_id = uuid4()
        await store.create_document(document_id, uuid4(), "name", "upload")
        await store.store_chunks(document_id, ["old"], vectors(1))
        with pytest.raises(psycopg.DataError):
            await store.store_chunks(document_id, ["new"] * 399 + ["NUL \x00"], vectors(400))
        assert await store.document(document_id) == Document("ready", 1, None)
        assert [passage.text for passage in await store.nearest(vectors(1)[0], 5)] == ["old"]

    run(work, max_connections=1)


def test_a_name_is_a_label_that_postgresql_takes(database: str) -> None:
    """NUL and lone surrogates are left out of a file's name, and it is cut."""

    async def work(store: Store) -> None:
        await store.create_document(uuid4(), uuid4(), "../\x00a\ud800" + "b" * 1000, "upload")

    run(work)
    assert counted(database, "SELECT length(name) FROM documents") == 255


def test_only_the_upload_that_made_a_document_discards_it(database: str) -> None:
    """The same request id sent twice is one document; refusing the second keeps the first's."""

    async def work(store: Store) -> None:
        document_id = uuid4()
        await store.create_document(document_id, uuid4(), "name", "first")
        await store.create_document(document_id, uuid4(), "name", "second")
        await store.discard_document(document_id, "second")
        assert await store.document(document_id) is not None
        await store.discard_document(document_id, "first")
        assert await store.document(document_id) is None
        with pytest.raises(UnknownDocumentError):
            await store.store_chunks(document_id, ["a"], vectors(1))
        with pytest.raises(UnknownDocumentError):
            await store.fail_document(document_id, "a reason")

    run(work)


def test_finds_the_nearest_passages_first_also_among_many_that_no_document_has(database: str) -> None:
    """Processing a document again leaves passages behind; they must not crowd out those of a document."""

    async def work(store: Store) -> None:
        document_id = uuid4()
        found = vectors(20, seed=5)
        near = found[:1] + vectors(500) / np.float32(100)
        await store.create_document(document_id, uuid4(), "name", "upload")
        await store.store_chunks(document_id, [f"near {number}" for number in range(500)], near)
        await store.store_chunks(document_id, [str(number) for number in range(20)], found)
        passages = await store.nearest(found[0], 10)
        assert len(passages) == 10
        assert passages[0].text == "0"
        assert passages[0].similarity == pytest.approx(1, abs=1e-5)
        assert [p.similarity for p in passages] == sorted((p.similarity for p in passages), reverse=True)

    run(work)


def test_finds_everything_after_the_same_files_were_uploaded_again_and_again(database: str) -> None:
    """A hundred documents of the same text are one passage, and hide no other; each has its own chunks."""

    async def work(store: Store) -> None:
        both = vectors(2, seed=5)
        for number in range(100):
            document_id = uuid4()
            await store.create_document(document_id, uuid4(), "often", "upload")
            await store.store_chunks(document_id, ["often", "often"], both[[0, 0]])
            assert await store.document(document_id) == Document("ready", 2, None), number
        await store.create_document(document_id := uuid4(), uuid4(), "once", "upload")
        await store.store_chunks(document_id, ["once"], both[1:])
        assert [passage.name for passage in await store.nearest(both[0], 5)] == ["often", "once"]

    run(work)


@contextmanager
def held(url: str, text: str) -> Iterator[None]:
    """Let a transaction be about to add a passage: who adds the same one waits for it. It adds nothing in the end."""
    with psycopg.connect(url) as holder:
        digest = sha256(text.encode()).digest()
        holder.execute("INSERT INTO passages VALUES (%s, %s, %s)", (digest, text, str(vectors(1)[0].tolist())))
        yield
        holder.rollback()


async def waiting(url: str, count: int) -> None:
    """Return when so many connections of a database wait for each other."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    assert await asyncio.to_thread(until, lambda: counted(url, query) == count), "they do not wait"


def test_the_same_passages_in_another_order_at_the_same_time_do_not_block_each_other(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transactions that would wait for each other's passages end in a deadlock error, or here in none."""
    monkeypatch.setattr("workload.store.TIMEOUT_S", 10)
    texts = sorted("abc", key=lambda text: sha256(text.encode()).digest())

    async def one(store: Store, order: int) -> None:
        await store.create_document(document_id := uuid4(), uuid4(), "name", "upload")
        await store.store_chunks(document_id, texts[::order], vectors(3)[::order])

    async def work(store: Store) -> None:
        await asyncio.gather(store.ping(), store.ping())
        with held(database, texts[1]):  # each has what it adds before the middle one
            both = asyncio.gather(one(store, 1), one(store, -1))
            await waiting(database, 2)
        await both

    run(work)
    assert counted(database, "SELECT count(*) FROM chunks") == 6
    assert counted(database, "SELECT count(*) FROM passages") == 3


def test_a_long_document_keeps_the_others_waiting_for_a_trip_of_its_passages_only(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the second upload of a long document would be refused, as if PostgreSQL were gone."""
    monkeypatch.setattr("workload.store.ROWS_PER_TRIP", 1)
    monkeypatch.setattr("workload.store.TIMEOUT_S", 10)
    texts = sorted("abc", key=lambda text: sha256(text.encode()).digest())

    async def work(store: Store) -> None:
        long, short = uuid4(), uuid4()
        for each in (long, short):
            await store.create_document(each, uuid4(), "name", "upload")
        with held(database, texts[2]):
            being_stored = asyncio.ensure_future(store.store_chunks(long, texts, vectors(3)))
            await waiting(database, 1)
            await store.store_chunks(short, texts[:1], vectors(1))
            assert await store.document(long) == Document("processing", 0, None)
            assert [passage.document_id for passage in await store.nearest(vectors(1)[0], 5)] == [short]
        await being_stored
        assert await store.document(long) == Document("ready", 3, None)

    run(work)


def test_the_search_uses_the_index(database: str) -> None:
    """An HNSW index that the planner cannot use would be an ornament."""

    async def work(store: Store) -> None:
        document_id = uuid4()
        await store.create_document(document_id, uuid4(), "name", "upload")
        await store.store_chunks(document_id, [str(number) for number in range(2_000)], vectors(2_000))

    run(work)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ANALYZE passages")
        query = (
            "EXPLAIN SELECT text FROM passages ORDER BY embedding <=> (SELECT embedding FROM passages LIMIT 1) LIMIT 5"
        )
        plan = "\n".join(row[0] for row in connection.execute(query))
    assert "Index Scan using passages_embedding" in plan


def test_a_conversation_is_kept_once_and_in_order(database: str) -> None:
    """The same task twice is one turn; users do not see each other's; the newest are returned, the oldest first."""

    async def work(store: Store) -> None:
        tasks = [uuid4() for _ in range(4)]
        for number, task in enumerate([*tasks, tasks[0]]):
            await store.log_conversation(task, "me", f"question {number}", "answer")
        await store.log_conversation(uuid4(), "you", "question", "answer")
        turns = await store.conversations("me")
        assert [turn.message for turn in turns] == [f"question {number}" for number in range(4)]
        assert [turn.message for turn in await store.conversations("me", limit=2)] == ["question 2", "question 3"]
        assert await store.conversations("nobody") == []

    run(work)


def test_several_processes_make_the_tables_at_once(database: str) -> None:
    """Eight stores on an empty database: each finds or makes the tables."""

    async def work() -> None:
        stores = [Store(database, 1) for _ in range(8)]
        await asyncio.gather(*(each.ping() for each in stores))
        await stores[0].create_document(uuid4(), uuid4(), "name", "upload")
        for each in stores:
            await each.close()

    asyncio.run(work())


def test_a_process_that_starts_does_not_wait_for_writers(database: str) -> None:
    """Where the tables are there, opening a store takes no lock on them that a writer has to give way to."""
    run(lambda store: store.log_conversation(uuid4(), "user", "a", "b"))
    with psycopg.connect(database) as writer:
        for table in ("documents", "passages", "chunks", "conversations"):
            writer.execute(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE".encode())
        run(lambda store: store.log_conversation(uuid4(), "user", "c", "d"))
    assert counted(database, "SELECT count(*) FROM conversations") == 2


def test_more_work_than_connections_waits_its_turn(database: str) -> None:
    """A hundred operations on two connections are all done, and no third connection is opened."""

    async def work(store: Store) -> int:
        await asyncio.gather(*(store.log_conversation(uuid4(), "me", "q", "a") for _ in range(100)))
        return counted(database, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")

    assert run(work, max_connections=2) == 2 + 1
    assert counted(database, "SELECT count(*) FROM conversations") == 100
    assert counted(database, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") == 1


def test_every_loop_has_a_store_of_its_own(database: str) -> None:
    """Without an open one there is an error, not somebody else's connection."""

    async def work(opened: Store) -> None:
        assert store() is opened

    async def none() -> None:
        with pytest.raises(KeyError):
            store()

    run(work)
    asyncio.run(none())


def test_connections_that_the_server_closed_are_not_used(database: str) -> None:
    """After a restart of the server the next operations succeed, on new connections."""

    async def work(store: Store) -> None:
        await asyncio.gather(*(store.ping() for _ in range(4)))
        counted(  # which waits, up to 5 s, until each is gone: before that, a connection is used in good faith
            database,
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        await asyncio.gather(*(store.ping() for _ in range(4)))

    run(work)


@pytest.mark.parametrize("url", ["postgresql://postgres@127.0.0.1:1/none", "postgresql://postgres@host.invalid/none"])
def test_a_server_that_is_not_there_is_unavailable(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening succeeds all the same, so that an app can start before its database."""

    async def work(store: Store) -> None:
        await refused(store.ping())
        await refused(store.log_conversation(uuid4(), "me", "q", "a"))

    for _ in named(url, monkeypatch):
        run(work)


def test_a_database_that_does_not_exist_is_unavailable(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server answers, but not with what was asked for."""
    for _ in named(postgres.url.rsplit("/", 1)[0] + "/no_such_database", monkeypatch):
        run(lambda store: refused(store.ping()))


def test_a_stopped_server_is_unavailable_and_nothing_is_left_when_it_goes_on(
    make_postgres: Callable[[], Postgres], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each operation ends in time, more of them than there are connections; the refused changes never happen."""
    server = make_postgres()
    ids = [uuid4() for _ in range(8)]

    async def work(store: Store) -> None:
        ready = uuid4()
        await store.create_document(ready, uuid4(), "name", "upload")
        await asyncio.gather(*(store.ping() for _ in range(4)))
        with stopped(server):
            changes = [refused(store.create_document(each, uuid4(), "name", "upload")) for each in ids]
            await asyncio.gather(*changes, refused(store.store_chunks(ready, ["a"], vectors(1))))
            await refused(store.nearest(vectors(1)[0], 3))
        assert await store.document(ready) == Document("processing", 0, None)
        await asyncio.sleep(0.5)  # what the server had read late has had its chance
        assert [await store.document(each) for each in ids] == [None] * len(ids)

    for url in named(server.create_database("stopped"), monkeypatch):
        run(work)
        assert counted(url, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") == 1


class StopsAtCommit(Store):
    """A store whose server is stopped just before the COMMIT is sent."""

    server: Postgres

    async def create_stopped(self, document_id: UUID) -> None:
        """Create a document, and stop the server when everything but the COMMIT is answered."""
        async with self._transaction() as link:
            await link.execute(
                "INSERT INTO documents (id, task_id, name, upload) VALUES (%s, %s, '', '')", (document_id, uuid4())
            )
            root = psutil.Process(self.server.pid)
            for process in [root, *root.children(recursive=True)]:
                os.kill(process.pid, signal.SIGSTOP)


def test_a_commit_that_the_server_reads_late_commits_nothing(make_postgres: Callable[[], Postgres]) -> None:
    """The client has said that the document is not there: so it must stay."""
    server = make_postgres()

    async def work(url: str) -> None:
        store = StopsAtCommit(url, 1)
        store.server = server
        await store.ping()
        document_id = uuid4()
        with stopped(server):
            await refused(store.create_stopped(document_id))
        assert await store.document(document_id) is None
        await asyncio.sleep(0.5)
        assert await store.document(document_id) is None
        await store.close()

    for _ in range(3):
        asyncio.run(work(server.create_database(f"commit_{next(_names)}")))


def test_a_blocked_event_loop_is_not_the_servers_fault(database: str) -> None:
    """An answer that came while the loop slept is an answer."""

    async def work(store: Store) -> None:
        await store.ping()
        reading = asyncio.ensure_future(store.conversations("me"))
        await asyncio.sleep(0)
        time.sleep(3)  # noqa: ASYNC251 - the mistake is the test
        assert await reading == []

    run(work)
