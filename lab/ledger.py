"""The ledger: what became of every task of a block, by the table of ``docs/method.md``.

A pure function of the block's folder: `settle` reads ``requests.parquet`` and ``evidence/`` and writes
``tasks.parquet``, one row per task that an acknowledged or indeterminate request may have caused, and one per task
that was done although nobody was told of it. `Rules` holds every rule by name; the tests disable each in turn.
"""
# ruff: noqa: S608 - the SQL is put together from this module's own rules; values go in as parameters

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from lab.globs import no_glob
from lab.history import history as history

# The job behind each route; for probes the journal and the effects say which.
JOB_OF_ROUTE = {
    "POST /action": "write_log",
    "POST /register": "send_email",
    "POST /multi-tasks": "step",
    "POST /async-task": "async_task",
    "POST /upload": "process_document",
    "POST /chat": "log_conversation",
}

# Doing these twice leaves what doing them once leaves: how often they ran, the journal says.
IDEMPOTENT_JOBS = "('process_document', 'log_conversation')"

# What leaves effects that the lab knows. For the jobs of others the journal stands, unless the log of effects has them.
PROBES = ("io", "blocking", "cpu", "async_blocking", "fail", "crash")
KNOWN_JOBS = (*JOB_OF_ROUTE.values(), *(f"probe_{work}" for work in PROBES))

# Above this DuckDB spills to disk: a block may have millions of events.
MEMORY = "600MB"

# An effect that carries no id, or none that is a UUID, belongs to nobody; it is kept under the nil UUID.
NIL = "00000000-0000-0000-0000-000000000000"

FATES = {
    "unexpected": "NOT asked",
    "recovered": "outcome = 'indeterminate' AND n = 1",
    "duplicated": "n > 1",
    "not_done": "outcome = 'indeterminate' AND n = 0",
    "done": "n = 1",
    "failed": "n_failed > 0",
    "given_up": "n_given_up > 0",
    "skipped": "n_skipped > 0",
    "pending": "in_queue OR held_at_the_end",
    "stranded": "in_unacked",
    "lost": "n = 0",
}
# The fates of a task that was executed to its end.
DONE = ["done", "duplicated", "recovered"]

AGREEMENTS = {
    "equal": f"n_effects = n_journal OR (job IN {IDEMPOTENT_JOBS} AND n_effects > 0 AND n_journal > 0)",
    "explained": "n_effects - n_journal BETWEEN 1 AND n_cut_off",
    "unexplained": "true",
}

EFFECTS = {
    "actions": "SELECT id(task_id), 'write_log', t_ns FROM actions_lines",
    "mails": "SELECT id(task_id), 'send_email', t_ns FROM mail_lines",
    "effects": "SELECT id(task_id), job, t_ns FROM effects_lines",
    "own_jobs": (
        f"SELECT task_id, job, t_ns FROM events WHERE event = 'succeeded' AND job NOT IN {KNOWN_JOBS} "
        "AND job NOT IN (SELECT job FROM effects_lines WHERE job IS NOT NULL)"
    ),
    "conversations": "SELECT id(task_id), 'log_conversation', NULL FROM rows_lines WHERE kind = 'conversation'",
    "documents": (
        "SELECT id(task_id), 'process_document', NULL FROM rows_lines WHERE kind = 'document' AND status = 'ready'"
    ),
}

# Until when which process ran, of those that did not end in order; see `_read_deaths`.
ENDS = {
    # A container's status is 128 and the signal that ended it.
    "died": (
        "SELECT CASE WHEN kind = 'container' THEN NULL ELSE coalesce(inner_pid, pid) END, hostname, "
        "coalesce(started_ns, 0), t_ns, coalesce(t_ns > "
        "(SELECT min(t_ns) FROM processes_lines WHERE event = 'stopping' AND NOT hurried), false), false "
        "FROM processes_lines WHERE event = 'ended' "
        "AND coalesce(status, 1) NOT IN (0, 143) AND coalesce(signal, 9) <> 15 "
        "AND (status IS NOT NULL OR signal IS NOT NULL OR kind = 'container' OR (kind = 'inside' "
        "AND EXISTS (FROM faults WHERE fault = 'memory-limit' AND t_ns BETWEEN injected_ns AND healed_ns))) "
        "AND (signal = 9 OR status = 137 "
        "OR t_ns < coalesce((SELECT min(t_ns) FROM processes_lines WHERE event = 'stopping'), t_ns + 1))"
    ),
    "deployed": (
        "SELECT CASE WHEN kind = 'container' THEN NULL ELSE pid END, hostname, coalesce(started_ns, 0), t_ns, false, "
        "false FROM processes_lines WHERE event = 'ended' "
        "AND (signal = 15 OR status = 143) AND EXISTS (FROM faults "
        "WHERE fault = 'deploy' AND list_contains(pids, pid) AND t_ns BETWEEN injected_ns AND healed_ns)"
    ),
    "lives_on": (
        "SELECT pid, hostname, coalesce(started_ns, 0), t_ns, true, coalesce(runs_tasks, false) "
        "FROM processes_lines WHERE event = 'living'"
    ),
}

LEFTOVERS = {
    "queue": "SELECT id(m.task_id), true FROM broker, unnest(queue) AS q(m)",
    "queue_chains": "SELECT id(unnest(m.chain)), true FROM broker, unnest(queue) AS q(m)",
    "unacked": "SELECT id(m.task_id), false FROM broker, unnest(unacked) AS u(m)",
    "unacked_chains": "SELECT id(unnest(m.chain)), false FROM broker, unnest(unacked) AS u(m)",
}


@dataclass(frozen=True)
class Rules:
    """The rules by name, in the order in which the first that holds decides (fates, agreements) or all add up."""

    fates: Mapping[str, str] = field(default_factory=lambda: FATES)
    agreements: Mapping[str, str] = field(default_factory=lambda: AGREEMENTS)
    effects: Mapping[str, str] = field(default_factory=lambda: EFFECTS)
    leftovers: Mapping[str, str] = field(default_factory=lambda: LEFTOVERS)
    ends: Mapping[str, str] = field(default_factory=lambda: ENDS)


RULES = Rules()


def settle(block: Path, rules: Rules = RULES, journal: bool = True) -> int:
    """Write ``tasks.parquet`` of a block: without a row where there is no journal, for then nothing is known of tasks.

    Return how many lines of the journal cannot be read. Raises duckdb.Error where a file of the block cannot be read.
    """
    with TemporaryDirectory(prefix=".ledger-", dir=block) as spill, duckdb.connect() as db:
        db.execute("ATTACH ':memory:' AS packed (COMPRESS); USE packed")  # else they fill the memory
        db.execute(f"SET memory_limit = '{MEMORY}'; SET temp_directory = {_quoted(Path(spill))}")
        db.execute("SET preserve_insertion_order = false")
        define_functions(db)
        _read_requests(db, block)
        unreadable = _read_journal(db, block)
        _read_deaths(db, block, rules)
        _read_effects(db, block, rules)
        _read_leftovers(db, block, rules)
        _find_doomed(db)
        _find_held(db)
        _summarise_journal(db)
        _join(db)
        draft = block / ".tasks.parquet.draft"
        db.execute(_verdicts(rules, draft, known=journal))
    draft.replace(block / "tasks.parquet")
    return unreadable


def define_functions(db: duckdb.DuckDBPyConnection) -> None:
    """Define ``id(text)`` and ``task_id_of(request, position)``, the contract's uuid5 (RFC 9562, section 5.5)."""
    db.execute(f"CREATE MACRO id(text) AS coalesce(try_cast(text AS UUID), '{NIL}'::UUID)")
    db.execute(
        """
        CREATE MACRO version_5(h) AS (
            substr(h, 1, 12) || '5' || substr(h, 14, 3)
            || substr('89ab', (('0x' || substr(h, 17, 1))::INT & 3) + 1, 1) || substr(h, 18, 15))::UUID
        """
    )
    db.execute(
        "CREATE MACRO task_id_of(request, position) AS "
        "version_5(sha1(unhex(replace(request::VARCHAR, '-', '')) || encode(position::VARCHAR)))"
    )


def _read_requests(db: duckdb.DuckDBPyConnection, block: Path) -> None:
    """Table ``asked``: every task that a request may have caused; refused and unsent requests asked for none."""
    routes = ", ".join(f"('{route}', '{job}')" for route, job in JOB_OF_ROUTE.items())
    db.execute(
        f"""
        CREATE TABLE asked AS
        WITH intended AS (SELECT *, unnest(range(tasks)) AS position FROM read_parquet($requests) WHERE tasks > 0),
             jobs(route, job) AS (VALUES {routes})
        SELECT task_id_of(request_id, position) AS task_id, request_id::UUID AS request_id, route, jobs.job,
               position::INTEGER AS position, phase, outcome, intended_ns,
               outcome IN ('acknowledged', 'indeterminate') AS asked
        FROM intended LEFT JOIN jobs USING (route)
        """,
        {"requests": no_glob(block / "requests.parquet")},
    )


def _read_lines(
    db: duckdb.DuckDBPyConnection, name: str, files: list[Path], columns: dict[str, str], lenient: bool = False
) -> None:
    """Make a view ``<name>_lines`` of JSON Lines files, with the column ``filename``; empty where there are none.

    Where it is ``lenient``, what cannot be read of a line is NULL.
    """
    kept = ", ".join(_quoted(no_glob(file)) for file in files if file.exists() and file.stat().st_size)
    declared = ", ".join(f"'{column}': '{kind}'" for column, kind in columns.items())
    empty = ", ".join(f"NULL::{kind} AS {column}" for column, kind in (columns | {"filename": "VARCHAR"}).items())
    read = f"FROM read_json([{kept}], format = 'newline_delimited', columns = {{{declared}}}, filename = true, "
    read += f"ignore_errors = {lenient})"
    db.execute(f"CREATE VIEW {name}_lines AS {read if kept else f'SELECT {empty} WHERE false'}")


def _quoted(path: Path | str) -> str:
    """Return a path as an SQL literal."""
    return "'" + str(path).replace("'", "''") + "'"


def _read_journal(db: duckdb.DuckDBPyConnection, block: Path) -> int:
    """Tables ``events``: every line of every journal but the anchors; and ``writers``: what wrote which file.

    Return how many lines cannot be read, which are no events. Each file begins with its anchor, which is none either.
    Millions of events: the file is an ENUM, a byte or two for each event instead of its whole name.
    """
    files = sorted((block / "evidence" / "journal").glob("*.jsonl"))
    columns = {"task_id": "VARCHAR", "job": "VARCHAR", "event": "VARCHAR", "t_ns": "BIGINT"}
    db.execute("CREATE TABLE writers (file VARCHAR, origin VARCHAR, pid BIGINT)")
    named = [(str(file), origin, pid) for file in files for origin, pid, _ in [file.stem.rsplit("-", 2)]]
    values = {name: [row[i] for row in named] for i, name in enumerate(("files", "origins", "pids"))}
    db.execute(
        "INSERT INTO writers "
        "SELECT unnest($files::VARCHAR[]), unnest($origins::VARCHAR[]), unnest($pids::VARCHAR[])::BIGINT",
        values,
    )
    db.execute("CREATE TYPE journal_file AS ENUM (SELECT file FROM writers)")
    _read_lines(db, "journal", files, columns, lenient=True)
    db.execute(
        """
        CREATE TABLE events AS
        SELECT id(task_id) AS task_id, job, event, t_ns, filename::journal_file AS file
        FROM journal_lines
        """
    )
    no_events = "FROM events WHERE event IS NULL OR t_ns IS NULL OR t_ns < 0"
    counted = db.execute(f"SELECT count(*) {no_events}").fetchone()
    db.execute(f"DELETE {no_events}")
    return max(0, (counted[0] if counted else 0) - sum(file.stat().st_size > 0 for file in files))


def _read_deaths(db: duckdb.DuckDBPyConnection, block: Path, rules: Rules) -> None:
    """Table ``deaths``: from when until when which process of which host had a pid, of those that did not end in order.

    In order is: with status 0, by the SIGTERM that it was sent, or by whatever but SIGKILL after its stack was told to
    stop; nor is it a death where another process waited for one, so that it is not known how it ended. But one that was
    sent SIGTERM by a ``deploy`` may have no handler for it, and be amid its work. What a fault kills outside of a
    container is waited for by the lab; inside, ``memory-limit`` may kill one of a pool. With a container ended every
    process in it: there the pid is NULL. A host is NULL where it was not recorded. Killed at the end is what did not
    end in the time that it got when the lab stopped the stack, unless that was in a hurry, with nothing left to do.

    One that lives on when the evidence is taken stands here like one that is killed then. Of it may be known that it
    runs what it accepts, even if it has begun none of the block's tasks: those of a block before may come first.
    """
    columns = {"event": "VARCHAR", "kind": "VARCHAR", "hostname": "VARCHAR", "pid": "BIGINT", "inner_pid": "BIGINT"}
    columns |= {"started_ns": "BIGINT", "t_ns": "BIGINT", "status": "BIGINT", "signal": "BIGINT"}
    columns |= {"hurried": "BOOLEAN", "runs_tasks": "BOOLEAN"}
    _read_lines(db, "processes", [block / "evidence" / "processes.jsonl"], columns)
    _read_faults(db, block)
    db.execute(
        f"CREATE TABLE deaths AS FROM ({' UNION ALL '.join(rules.ends.values())}) "
        "AS e(pid, hostname, born_ns, died_ns, killed_at_the_end, runs_tasks)"
    )


def _read_faults(db: duckdb.DuckDBPyConnection, block: Path) -> None:
    """Table ``faults``: from when until when which fault was on, and which pids it hit."""
    file = block / "faults.json"
    columns = "{'fault': 'VARCHAR', 'injected_ns': 'BIGINT', 'healed_ns': 'BIGINT', 'pids': 'BIGINT[]'}"
    db.execute("CREATE TABLE faults (fault VARCHAR, injected_ns BIGINT, healed_ns BIGINT, pids BIGINT[])")
    if file.exists():
        db.execute(
            "INSERT INTO faults SELECT fault, injected_ns, coalesce(healed_ns, 9e18::BIGINT), pids "
            f"FROM read_json($file, columns = {columns})",
            {"file": no_glob(file)},
        )


def _read_effects(db: duckdb.DuckDBPyConnection, block: Path, rules: Rules) -> None:
    """Table ``effects``: how often each task's effect is there, and when it came first."""
    evidence = block / "evidence"
    lines = {"task_id": "VARCHAR", "t_ns": "BIGINT"}
    _read_lines(db, "actions", [evidence / "actions.log"], lines)
    if (evidence / "mail.jsonl").exists():
        _read_lines(db, "mail", [evidence / "mail.jsonl"], lines)
    else:  # the mails went to a server of the user's own, which cannot be asked: the journal stands for them
        sent = "FROM events WHERE job = 'send_email' AND event = 'succeeded'"
        db.execute(f"CREATE VIEW mail_lines AS SELECT task_id::VARCHAR AS task_id, t_ns {sent}")
    _read_lines(db, "effects", [evidence / "effects.log"], lines | {"job": "VARCHAR"})
    rows = {"kind": "VARCHAR", "task_id": "VARCHAR", "status": "VARCHAR"}
    if (evidence / "rows.jsonl").exists():
        _read_lines(db, "rows", [evidence / "rows.jsonl"], rows)
    else:  # nor can the database of an app that runs already
        kinds = "CASE job WHEN 'log_conversation' THEN 'conversation' WHEN 'process_document' THEN 'document' END"
        stored = f"FROM events WHERE event = 'succeeded' AND job IN {IDEMPOTENT_JOBS}"
        columns = f"DISTINCT {kinds} AS kind, task_id::VARCHAR AS task_id, 'ready' AS status"
        db.execute(f"CREATE VIEW rows_lines AS SELECT {columns} {stored}")
    db.execute(
        f"""
        CREATE TABLE effects AS
        SELECT task_id, any_value(job) AS effect_job, count(*) AS n_effects, min(t_ns) AS effect_ns
        FROM ({" UNION ALL ".join(rules.effects.values())}) AS e(task_id, job, t_ns) GROUP BY task_id
        """
    )


def _read_leftovers(db: duckdb.DuckDBPyConnection, block: Path, rules: Rules) -> None:
    """Table ``leftovers``: what the broker still holds, the later steps inside a message included."""
    message = "STRUCT(task_id VARCHAR, chain VARCHAR[])[]"
    columns = f"{{'queue': '{message}', 'unacked': '{message}'}}"
    file = block / "evidence" / "broker.json"
    if file.exists():
        db.execute(f"CREATE TABLE broker AS FROM read_json($file, columns = {columns})", {"file": no_glob(file)})
    else:
        db.execute(f"CREATE TABLE broker (queue {message}, unacked {message})")
    db.execute(
        f"""
        CREATE TABLE leftovers AS
        SELECT task_id, bool_or(in_queue) AS in_queue, bool_or(NOT in_queue) AS in_unacked
        FROM ({" UNION ALL ".join(rules.leftovers.values())}) AS l(task_id, in_queue) GROUP BY task_id
        """
    )


def _find_doomed(db: duckdb.DuckDBPyConnection) -> None:
    """Table ``doomed``: the journals of processes that did not end in order, and when that was. Mostly it is empty."""
    db.execute(
        """
        CREATE TABLE doomed AS
        SELECT writers.file::journal_file AS file, born_ns, died_ns, killed_at_the_end, runs_tasks
        FROM writers JOIN deaths ON coalesce(deaths.pid = writers.pid, true)
        AND coalesce(ends_with(writers.origin, '-' || deaths.hostname), true)
        """
    )


def _find_held(db: duckdb.DuckDBPyConnection) -> None:
    """Table ``held``: tasks that a process still ran, or had before it, when the lab killed it at the end of the block.

    Or when the evidence was taken and it lived on. What only accepts tasks, for others to run, has none before it. The
    later steps of a sequence go with the first. Such a process also has what was taken from the broker, if since the
    request nobody died, by a fault or by itself, and no fault was on. Where neither the broker nor every process could
    be asked, as of a stack that ran already, anything may be held.
    """
    db.execute(
        """
        CREATE TABLE held AS
        WITH seen AS (
            SELECT task_id, file, max(t_ns) AS last_ns, count_if(event = 'started') AS starts,
                   count_if(event IN ('succeeded', 'failed', 'attempt_failed')) AS ends
            FROM events WHERE file IN (SELECT file FROM doomed) GROUP BY task_id, file),
        runners AS (SELECT DISTINCT file FROM seen WHERE starts > 0),
        kept AS (
            SELECT task_id FROM seen JOIN doomed USING (file)
            WHERE killed_at_the_end AND last_ns BETWEEN born_ns AND died_ns
            AND (starts > ends OR (starts = 0 AND (runs_tasks OR seen.file IN (FROM runners))))),
        disturbances AS (
            SELECT died_ns AS until_ns FROM deaths WHERE NOT killed_at_the_end UNION ALL SELECT healed_ns FROM faults)
        SELECT task_id FROM leftovers JOIN asked USING (task_id)
        WHERE in_unacked AND EXISTS (FROM deaths WHERE killed_at_the_end)
        AND intended_ns > (SELECT coalesce(max(until_ns), 0) FROM disturbances) UNION
        SELECT task_id FROM kept UNION
        SELECT task_id FROM asked WHERE EXISTS (FROM processes_lines WHERE event = 'unseen') UNION
        SELECT later.task_id FROM kept JOIN asked USING (task_id)
        JOIN asked AS later ON later.request_id = asked.request_id AND later.position > asked.position
        """
    )


def _summarise_journal(db: duckdb.DuckDBPyConnection) -> None:
    """Tables ``journal``, one row per task, and ``cut_off``: starts whose process died before it wrote an end."""
    db.execute(
        """
        CREATE TABLE cut_off AS
        WITH starts AS (
            SELECT task_id, file, max(t_ns) FILTER (event = 'started') AS started_ns,
                   count_if(event = 'started') - count_if(event IN ('succeeded', 'failed', 'attempt_failed')) AS open
            FROM events WHERE file IN (SELECT file FROM doomed) GROUP BY task_id, file HAVING open > 0),
        ends AS (
            SELECT task_id, any_value(open) AS open, min(died_ns) AS died_ns
            FROM starts JOIN doomed USING (file) WHERE started_ns BETWEEN born_ns AND died_ns GROUP BY task_id, file)
        SELECT task_id, sum(open) AS n_cut_off, min(died_ns) AS died_ns FROM ends GROUP BY task_id
        """
    )
    db.execute(
        """
        CREATE TABLE journal AS
        SELECT task_id, any_value(job) AS journal_job,
               count(*) FILTER (event = 'succeeded') AS n_journal, count(*) FILTER (event = 'started') AS attempts,
               count(*) FILTER (event = 'failed') AS n_failed, count(*) FILTER (event = 'given_up') AS n_given_up,
               count(*) FILTER (event = 'skipped') AS n_skipped,
               min(t_ns) FILTER (event = 'accepted') AS accepted_ns, min(t_ns) FILTER (event = 'started') AS started_ns,
               min(t_ns) FILTER (event = 'succeeded') AS succeeded_ns,
               max(t_ns) FILTER (event IN ('failed', 'given_up', 'skipped')) AS stopped_ns,
               arg_max(event, t_ns) AS last_event, arg_max(file, t_ns) AS last_file
        FROM events GROUP BY task_id;
        DROP TABLE events
        """
    )


def _join(db: duckdb.DuckDBPyConnection) -> None:
    """View ``tasks``: all that is known of each task in one row, and ``n``, how often it was executed to its end."""
    db.execute(
        f"""
        CREATE VIEW tasks AS
        WITH joined AS (
            SELECT * REPLACE (coalesce(asked, false) AS asked, coalesce(n_effects, 0) AS n_effects,
                              coalesce(n_journal, 0) AS n_journal, coalesce(in_queue, false) AS in_queue,
                              coalesce(in_unacked, false) AS in_unacked, coalesce(n_cut_off, 0) AS n_cut_off,
                              coalesce(job, journal_job, effect_job) AS job),
                   task_id IN (FROM held) AS held_at_the_end
            FROM asked FULL JOIN journal USING (task_id) FULL JOIN effects USING (task_id)
            LEFT JOIN leftovers USING (task_id) LEFT JOIN cut_off USING (task_id))
        SELECT *, CASE WHEN n_effects = 0 THEN 0
                       WHEN job IN {IDEMPOTENT_JOBS} THEN greatest(1, n_journal)
                       ELSE n_effects END AS n
        FROM joined WHERE asked OR n_effects > 0 OR n_journal > 0
        """
    )


def _verdicts(rules: Rules, target: Path, known: bool) -> str:
    """Return the SQL that gives each task its fate and agreement, and writes the Parquet file.

    Tasks that no request of the block asked for are none of its, where the stack ran before and does what it had to do.
    """
    return f"""
        COPY (
            SELECT task_id::VARCHAR AS task_id, request_id::VARCHAR AS request_id, route, job, position, phase,
                   outcome AS request_outcome, {_first_of(rules.fates)} AS fate,
                   n_effects::INTEGER AS n_effects, n_journal::INTEGER AS n_journal,
                   coalesce(attempts, 0)::INTEGER AS attempts, intended_ns, accepted_ns, started_ns,
                   CASE WHEN n > 0 THEN coalesce(succeeded_ns, effect_ns, died_ns) ELSE stopped_ns END AS ended_ns,
                   {_first_of(rules.agreements)} AS agreement,
                   CASE WHEN in_queue THEN 'in the queue' WHEN in_unacked THEN 'taken, unacknowledged'
                        WHEN last_event IS NOT NULL THEN last_event || ' in ' || parse_filename(last_file::VARCHAR)
                        WHEN n_effects > 0 THEN 'its effect' ELSE 'nowhere' END AS last_seen
            FROM tasks WHERE {known}
            AND (request_id IS NOT NULL OR NOT EXISTS (FROM processes_lines WHERE event = 'unseen'))
        ) TO {_quoted(target)} (FORMAT parquet)
    """


def _first_of(rules: Mapping[str, str]) -> str:
    """Return a CASE expression: the name of the first rule whose condition holds."""
    return "CASE " + " ".join(f"WHEN {condition} THEN '{name}'" for name, condition in rules.items()) + " END"
