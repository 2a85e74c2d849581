"""The warehouse: one SQLite file, its tables, and the rule by which a day is replaced.

The rule: a day carries the fence of the attempt that loaded it. Fences only rise, for all attempts of all runs, so an
attempt that finds a higher fence than its own has been overtaken, by a retry or by another run of that day, and must
write nothing. Check and write are one transaction. Start reading at `replace_day`.
"""

from __future__ import annotations

import csv
import sqlite3
import time
from contextlib import closing, contextmanager
from pathlib import Path

from flights import cancelled, whole
from task import Failure, Task

SCHEMA = """
create table if not exists carriers (carrier text primary key, name text not null);
create table if not exists flights (
    day text not null, origin text not null, carrier text not null, flight integer not null,
    sched_dep_time integer not null, dest text not null, tailnum text, dep_time integer, dep_delay integer,
    arr_time integer, arr_delay integer, air_time integer, distance integer not null, time_hour text not null,
    primary key (day, origin, carrier, flight, sched_dep_time)) without rowid;
create table if not exists delays (
    day text not null, origin text not null, carrier text not null, flights integer not null,
    cancelled integer not null, delayed integer not null, dep_delay_minutes integer not null,
    bad_weather integer not null, bad_weather_delayed integer not null, no_weather integer not null,
    primary key (day, origin, carrier)) without rowid;
-- Who loaded each day: the row that the fence is checked against.
create table if not exists loads (
    day text primary key, fence integer not null, run_id text not null, attempt integer not null,
    flights integer not null, cancelled integer not null, loaded_at text not null);
-- Every attempt to load a day and what became of it: loaded, replaced, repeated or rejected.
create table if not exists load_attempts (
    id integer primary key, day text not null, fence integer not null, run_id text not null,
    attempt integer not null, outcome text not null, live_fence integer, at text not null);
"""
FLIGHT_NUMBERS = ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time")
DELAYS = (
    "flights", "cancelled", "delayed", "dep_delay_minutes", "bad_weather", "bad_weather_delayed", "no_weather",
)


@contextmanager
def connect(path):
    """Opens the warehouse and makes its tables where they are missing. Waits up to a minute for other writers."""
    path = Path(path)
    if not path.is_absolute():
        raise Failure(f"param `warehouse` must be an absolute path, not `{path}`")
    path.parent.mkdir(parents=True, exist_ok=True)
    # No isolation level: transactions are opened below, by name, and nowhere else.
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as connection:
        with transaction(connection):
            for statement in SCHEMA.split(";"):
                connection.execute(statement)
        yield connection


@contextmanager
def connect_to_read(path):
    """Opens a warehouse that exists, and writes nothing."""
    if not Path(path).exists():
        raise Failure(f"there is no warehouse at {path}")
    with closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True, timeout=60)) as connection:
        yield connection


@contextmanager
def transaction(connection):
    """All of the block or nothing. Takes the write lock first: what is read inside holds until the end."""
    connection.execute("begin immediate")
    try:
        yield
    except BaseException:
        connection.execute("rollback")
        raise
    connection.execute("commit")


def replace_day(connection, task: Task, flights, statistics) -> str:
    """Replaces the day by these flights and statistics. Returns `loaded`, `replaced` (an older load) or `repeated`
    (this attempt's own). Raises `Failure` if a newer attempt has loaded the day: then nothing but the record changes."""
    with transaction(connection):
        live = connection.execute("select fence from loads where day = ?", (task.day,)).fetchone()
        outcome = decide(None if live is None else live[0], task.fence)
        record(connection, task, outcome, live)
        if outcome != "rejected":
            for table in ("flights", "delays", "loads"):
                connection.execute(f"delete from {table} where day = ?", (task.day,))
            insert_day(connection, task, flights, statistics)
    if outcome == "rejected":
        raise Failure(f"{task.day} was loaded under fence {live[0]}, newer than this attempt's {task.fence}")
    return outcome


def decide(live, fence: int) -> str:
    """What a load under `fence` may do to a day that was loaded under `live` (None: not yet)."""
    if live is None:
        return "loaded"
    if live > fence:
        return "rejected"
    return "repeated" if live == fence else "replaced"


def record(connection, task: Task, outcome: str, live) -> None:
    connection.execute(
        "insert into load_attempts (day, fence, run_id, attempt, outcome, live_fence, at) values (?, ?, ?, ?, ?, ?, ?)",
        (task.day, task.fence, task.run_id, task.attempt, outcome, live and live[0], utc_now()),
    )


def insert_day(connection, task: Task, flights, statistics) -> None:
    connection.executemany(
        f"insert into flights values ({', '.join('?' * 14)})", (flight(task.day, row) for row in flights)
    )
    connection.executemany(
        f"insert into delays values ({', '.join('?' * (3 + len(DELAYS)))})",
        (
            (task.day, part["origin"], carrier, *(numbers[name] for name in DELAYS))
            for part in statistics
            for carrier, numbers in part["carriers"].items()
        ),
    )
    connection.execute(
        "insert into loads values (?, ?, ?, ?, ?, ?, ?)",
        (task.day, task.fence, task.run_id, task.attempt, len(flights), sum(map(cancelled, flights)), utc_now()),
    )


def flight(day: str, row) -> tuple:
    """A staged row in the order of the table's columns."""
    dep_time, dep_delay, arr_time, arr_delay, air_time = (whole(row, name) for name in FLIGHT_NUMBERS)
    return (
        day, row["origin"], row["carrier"], whole(row, "flight"), whole(row, "sched_dep_time"), row["dest"],
        None if row["tailnum"] == "NA" else row["tailnum"], dep_time, dep_delay, arr_time, arr_delay, air_time,
        whole(row, "distance"), row["time_hour"],
    )


def name_carriers(connection, path) -> None:
    """Loads the names of the airlines. The same for every day, so any attempt may write them."""
    with open(path, encoding="utf-8", newline="") as file:
        names = [(row["carrier"], row["name"]) for row in csv.DictReader(file)]
    with transaction(connection):
        connection.executemany("insert or replace into carriers values (?, ?)", names)


def counts_of(connection, day: str) -> tuple:
    """(flights, cancelled) of `day` as the rows themselves have it."""
    return connection.execute(
        "select count(*), count(*) - count(dep_time) from flights where day = ?", (day,)
    ).fetchone()


def statistics_of(connection, day: str) -> tuple:
    """(flights, cancelled) of `day` as the statistics have it."""
    return connection.execute(
        "select coalesce(sum(flights), 0), coalesce(sum(cancelled), 0) from delays where day = ?", (day,)
    ).fetchone()


def read_counts(path) -> dict:
    """day -> (flights, cancelled): what a correct warehouse must hold."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {row["day"]: (int(row["flights"]), int(row["cancelled"])) for row in rows}


def utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
