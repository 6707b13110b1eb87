"""From an uploaded file to a document that can be searched: once, twice, broken, and with PostgreSQL away."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest

from lab.stacks.servers import Postgres
from loadtests import make_documents
from workload import documents, embeddings
from workload.answers import KNOWS_NOTHING, answer
from workload.documents import DocumentError
from workload.extract import extract
from workload.jobs import process_document
from workload.settings import settings
from workload.store import Document, StoreUnavailable, close_store, open_store, store

SAMPLES = make_documents.make()

ANSWERED = {
    "tides.pdf": ["What causes the tides?", "When are spring tides?", "Where is the largest tidal range in the world?"],
    "bees.docx": [
        "How do I prevent a swarm of bees?",
        "When is honey harvested?",
        "What does a beekeeper do in March?",
    ],
    "volcanoes.html": ["Why does a volcano erupt?", "What buried Pompeii?", "What kind of magma explodes into ash?"],
    "bread.md": ["How do I bake sourdough bread?", "How long should the dough rise?", "What is a sourdough starter?"],
    "lighthouse.txt": [
        "Who invented the Fresnel lens?",
        "What did a lighthouse keeper do?",
        "How do sailors recognise a lighthouse?",
    ],
    "tea.pdf": ["西湖龙井是什么茶？", "泡绿茶的水温应该是多少度？", "中国茶有哪几类？"],
    "panda.docx": ["大熊猫吃什么？", "熊猫宝宝出生时有多重？", "大熊猫住在哪里？"],
    "railway.html": ["从北京到上海坐高铁要多久？", "京沪高铁全长多少公里？", "高铁车票怎么买？"],
    "festival.md": ["中秋节是哪一天？", "月饼有什么馅？", "嫦娥为什么飞到月宫？"],
    "wall.txt": ["长城是什么时候修建的？", "八达岭长城离北京多远？", "烽火台有什么用？"],
}
UNANSWERED = [
    "What is the capital of France?",
    "How do I configure a Celery worker?",
    "Who won the football world cup in 1998?",
    "What is the price of a bitcoin?",
    "How tall is Mount Everest?",
    "Can you recommend a good film?",
    "What is the derivative of x squared?",
    "How do I reset my password?",
    "Which programming language should I learn?",
    "Tell me about the history of jazz music",
    "How many players are in a basketball team?",
    "What is the weather like tomorrow?",
    "When does the next train to London leave?",
    "法国的首都是哪里？",
    "怎么学习编程？",
    "今天的股票价格是多少？",
    "谁发明了电话？",
    "世界杯足球赛冠军是谁？",
    "明天天气怎么样？",
    "如何申请护照？",
    "怎么重置我的密码？",
    "最好的手机是哪个？",
    "量子力学是什么？",
    "钢琴怎么弹？",
]


@pytest.fixture
def database(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh database, that the settings name."""
    name = f"process_{uuid4().hex[:8]}"
    monkeypatch.setenv("DATABASE_URL", postgres.create_database(name))
    settings.cache_clear()
    yield settings().database_url
    settings.cache_clear()
    postgres.drop(name)


async def upload(path: Path, content: bytes, name: str = "name") -> UUID:
    """Do what the API does with an upload."""
    document_id = uuid4()
    path.write_bytes(content)  # noqa: ASYNC240 - a test's own file
    await store().create_document(document_id, uuid4(), name, path.name)
    return document_id


async def process(document_id: UUID, path: Path) -> None:
    """Run the job as both apps do, with arguments that JSON can carry."""
    await process_document(str(document_id), str(path), task_id=uuid4())


async def found(document_id: UUID) -> Document:
    """Return a document that must be there."""
    document = await store().document(document_id)
    assert document is not None
    return document


def test_a_question_about_a_sample_finds_it_and_any_other_finds_nothing(database: str, tmp_path: Path) -> None:
    """In English and in Chinese; the answer is a passage, and its source says where it stands."""

    async def main() -> None:
        await open_store(2)
        ids = {}
        for name, content in SAMPLES.items():
            path = tmp_path / name
            ids[name] = await upload(path, content, name)
            await process(ids[name], path)
            assert not path.exists()
        for name, questions in ANSWERED.items():
            for question in questions:
                best = await answer(question)
                assert (best.sources[0].name, best.sources[0].document_id) == (name, ids[name]), question
                assert best.response == best.sources[0].text
        for question in UNANSWERED:
            nothing = await answer(question)
            assert (nothing.response, nothing.sources) == (KNOWS_NOTHING, []), question
        await close_store()

    asyncio.run(main())


def test_knows_nothing_while_there_are_no_documents(database: str) -> None:
    """An empty database is no error."""

    async def main() -> None:
        await open_store(1)
        assert (await answer("What causes the tides?")).sources == []
        await close_store()

    asyncio.run(main())


def test_twice_leaves_one_set_of_chunks_and_the_second_time_succeeds_without_the_file(
    database: str, tmp_path: Path
) -> None:
    """A redelivered task finds its work done; one that runs at the same time does no harm."""

    async def main() -> None:
        await open_store(4)
        path = tmp_path / "upload"
        document_id = await upload(path, SAMPLES["bees.docx"])
        await process(document_id, path)
        once = await found(document_id)
        assert once.status == "ready"
        assert once.chunks > 1
        await process(document_id, path)
        path.write_bytes(SAMPLES["bees.docx"])
        await asyncio.gather(process(document_id, path), process(document_id, path))
        assert await found(document_id) == once
        await close_store()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"%PDF-1.7 and nothing", "broken"),
        (b" \n\t ", "no text"),
        (b"<html><script>x</script></html>", "no text"),
        (b"\x00\x01", "none of"),
        (b"one sentence. " * 58_000, "too long"),
    ],
)
def test_a_bad_file_fails_its_document_with_a_reason_and_leaves_no_file(
    database: str, tmp_path: Path, content: bytes, reason: str
) -> None:
    """The task fails too; a redelivered one fails the same way, and the reason stays."""

    async def main() -> None:
        await open_store(2)
        path = tmp_path / "upload"
        document_id = await upload(path, content)
        for _ in range(2):
            with pytest.raises(DocumentError, match=reason):
                await process(document_id, path)
            failed = await found(document_id)
            assert (failed.status, failed.chunks, path.exists()) == ("failed", 0, False)
            assert reason in str(failed.error)
        await close_store()

    asyncio.run(main())


def test_a_file_that_is_gone_before_its_document_is_done_fails_it(database: str, tmp_path: Path) -> None:
    """Nobody has done the work, and nobody can."""

    async def main() -> None:
        await open_store(1)
        path = tmp_path / "upload"
        document_id = await upload(path, b"text")
        path.unlink()
        with pytest.raises(DocumentError, match="gone"):
            await process(document_id, path)
        assert (await found(document_id)).status == "failed"
        await close_store()

    asyncio.run(main())


def test_a_document_that_was_discarded_is_not_brought_back(database: str, tmp_path: Path) -> None:
    """The task fails, and its file is removed."""

    async def main() -> None:
        await open_store(1)
        path = tmp_path / "upload"
        document_id = await upload(path, b"text")
        await store().discard_document(document_id, path.name)
        with pytest.raises(LookupError):
            await process(document_id, path)
        assert not path.exists()
        assert await store().document(document_id) is None
        await close_store()

    asyncio.run(main())


def test_characters_that_postgresql_refuses_are_left_out(database: str, tmp_path: Path) -> None:
    """A page can name any character by its number."""

    async def main() -> None:
        await open_store(1)
        path = tmp_path / "upload"
        document_id = await upload(path, b"<html><p>a sp&#0;ell&#xd800;ing of tides\xed\xa0\x80</p>")
        await process(document_id, path)
        assert (await found(document_id)).status == "ready"
        await close_store()

    asyncio.run(main())


def test_an_outage_of_postgresql_fails_the_task_and_not_the_document(
    database: str, tmp_path: Path, postgres: Postgres
) -> None:
    """The file stays for the next attempt, which makes the document ready."""

    async def main() -> None:
        await open_store(1)
        path = tmp_path / "upload"
        document_id = await upload(path, SAMPLES["bread.md"])
        await close_store()
        with psycopg.connect(postgres.url, autocommit=True) as server:
            name = database.rsplit("/", 1)[1]
            server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
            await open_store(1)
            with pytest.raises(StoreUnavailable):
                await process(document_id, path)
            server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
        assert path.exists()
        assert (await found(document_id)).status == "processing"
        await process(document_id, path)
        assert (await found(document_id)).status == "ready"
        await close_store()

    asyncio.run(main())


def test_the_loop_goes_on_while_a_document_is_read(database: str, tmp_path: Path) -> None:
    """Extraction and embedding run in a thread: the loop ticks all the while."""

    async def main() -> None:
        await open_store(1)
        embeddings.load()
        path = tmp_path / "upload"
        document_id = await upload(path, b"A sentence about the tides and the moon. " * 15_000)
        working = asyncio.ensure_future(process(document_id, path))
        ticks = 0
        while not working.done():
            await asyncio.sleep(0.001)
            ticks += 1
        await working
        assert ticks > 20
        await close_store()

    asyncio.run(main())


def test_the_first_document_loads_nothing(tmp_path: Path) -> None:
    """What is slow to load is there beforehand: no kind of document imports anything, nor is a model loaded."""
    program = """
import json, sys
from pathlib import Path
from workload import embeddings, documents
from workload.process import prepare

prepare("test")
before, loaded = set(sys.modules), embeddings._common.cache_info().misses
for path in sorted(Path(sys.argv[1]).iterdir()):
    documents._read(path)
print(json.dumps([sorted(set(sys.modules) - before), loaded, embeddings._common.cache_info().misses]))
"""
    samples = tmp_path / "samples"
    samples.mkdir()
    for name, content in SAMPLES.items():
        (samples / name).write_bytes(content)
    command = [sys.executable, "-c", program, str(samples)]
    reader = subprocess.run(
        command, env={**os.environ, "DATA_DIR": str(tmp_path)}, capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(reader.stdout) == [[], 1, 1]


def test_reading_works_in_a_forked_child(tmp_path: Path) -> None:
    """As in Celery's prefork pool: the model is loaded and threads were used before the fork."""
    program = """
import asyncio, os, sys
from pathlib import Path
from workload import documents, embeddings

async def read():
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(documents._threads(), documents._read, Path(sys.argv[1]))

chunks, before = asyncio.run(read())
child = os.fork()
if child == 0:
    _, after = asyncio.run(read())
    os._exit(0 if (after == before).all() else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    path = tmp_path / "upload"
    path.write_bytes(SAMPLES["tea.pdf"])
    subprocess.run([sys.executable, "-c", program, path], check=True, timeout=60)


def test_embedding_from_several_threads_gives_the_same_vectors() -> None:
    """The model is shared by the threads of a process."""
    chunks = [documents.split(extract(path, "text")) for path in make_documents.DOCUMENTS.glob("*.md")]
    alone = [embeddings.embed(texts) for texts in chunks]
    with ThreadPoolExecutor(8) as pool:
        for vectors, number in zip(pool.map(embeddings.embed, chunks * 40), range(len(chunks) * 40), strict=True):
            assert (vectors == alone[number % len(chunks)]).all()
