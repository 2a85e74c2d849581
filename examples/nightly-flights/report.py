#!/usr/bin/env python3
"""Says whether the warehouse is right, from the files alone: it never asks the engine.

    python3 report.py [--warehouse FILE] [--staging DIR] [--counts FILE] [--json]

Exit status 0: every expected day is there with the right rows, each run of a day was loaded by the newest of its
attempts, and no two attempts of one task ran at the same time. 1: something is wrong, and `wrong` says what.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "scripts"))

from task import JOURNAL, Failure  # noqa: E402
from warehouse import connect_to_read, counts_of, read_counts, statistics_of  # noqa: E402


def report(warehouse, staging, counts) -> dict:
    """Everything there is to say, as one JSON object."""
    expected = read_counts(counts)
    with connect_to_read(warehouse) as connection:
        wrong, days = compare(connection, expected)
        loads = connection.execute(
            "select day, run_id, attempt, fence, outcome, live_fence from load_attempts order by id"
        ).fetchall()
        rows = connection.execute("select count(*) from flights").fetchone()[0]
        final = dict(connection.execute("select day, fence from loads"))
    outcomes = {"loaded": 0, "replaced": 0, "repeated": 0, "rejected": 0}
    newest = {}
    for day, _, _, fence, outcome, _ in loads:
        outcomes[outcome] += 1
        if outcome != "rejected":
            newest[day] = max(fence, newest.get(day, fence))
    wrong += [
        f"{day}: loaded under fence {final.get(day)}, but {fence} was the newest"
        for day, fence in sorted(newest.items())
        if final.get(day) != fence
    ]
    repeated, overlapping = ran_twice(read_journal(Path(staging) / JOURNAL))
    wrong += [f"two attempts ran at once: {line}" for line in overlapping]
    return {
        "days": days,
        "daysExpected": len(expected),
        "rows": rows,
        "rowsExpected": sum(flights for flights, _ in expected.values()),
        "loads": outcomes,
        "notFirst": [
            dict(zip(("day", "run", "attempt", "fence", "outcome", "liveFence"), load))
            for load in loads
            if load[4] != "loaded"
        ],
        "ranTwice": repeated,
        "overlapping": overlapping,
        "wrong": wrong,
    }


def compare(connection, expected: dict):
    """What is wrong with the days, and how many are right."""
    wrong, right = [], 0
    for day, counts in expected.items():
        found = {"flights": counts_of(connection, day), "delays": statistics_of(connection, day)}
        faults = [
            f"{day}: table {table} has {got[0]} flights ({got[1]} cancelled), expected {counts[0]} ({counts[1]})"
            for table, got in found.items()
            if got != counts
        ]
        wrong += faults
        right += not faults
    others = connection.execute("select day from loads order by day").fetchall()
    wrong += [f"{day}: was loaded, but was not expected" for (day,) in others if day not in expected]
    return wrong, right


def read_journal(path) -> list:
    """The journal's lines; a line cut short by a full disk is a fault that must be seen, so it raises."""
    try:
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except ValueError as problem:
        raise Failure(f"{path} is damaged: {problem}") from None


def ran_twice(journal):
    """Tasks that were started more than once within a run, and those whose attempts were alive at the same time."""
    tasks = {}
    for line in journal:
        address = (line["day"], line["run"], line["task"], line["item"])
        first, last = tasks.setdefault(address, {}).get(line["fence"], (line["monotonic"], line["monotonic"]))
        span = (min(first, line["monotonic"]), max(last, line["monotonic"]))
        tasks[address][line["fence"]] = span
    repeated, overlapping = [], []
    for (day, run, task, item), spans in tasks.items():
        if len(spans) < 2:
            continue
        # MATINS_TASK of an item may or may not carry its number already.
        name = task if not item or task.endswith(f".{item}") else f"{task}.{item}"
        fences = sorted(spans)
        repeated.append({"day": day, "run": run, "task": name, "fences": fences})
        for older, newer in zip(fences, fences[1:]):
            if spans[newer][0] < spans[older][1]:
                overlapping.append(f"{run}/{name} ({day}), fences {older} and {newer}")
    return repeated, overlapping


def show(found: dict) -> None:
    loads = found["loads"]
    print(f"days right      {found['days']} of {found['daysExpected']}")
    print(f"rows loaded     {found['rows']} of {found['rowsExpected']}")
    print(f"loads           {', '.join(f'{count} {outcome}' for outcome, count in loads.items())}")
    for load in found["notFirst"]:
        print(f"                {load['day']} {load['outcome']}: {load['run']} attempt {load['attempt']}, "
              f"fence {load['fence']} met {load['liveFence']}")
    print(f"ran twice       {len(found['ranTwice'])} tasks, {len(found['overlapping'])} of them at the same time")
    for task in found["ranTwice"]:
        print(f"                {task['run']}/{task['task']} ({task['day']}), fences {task['fences']}")
    for line in found["wrong"]:
        print(f"wrong           {line}")
    print("nothing is wrong" if not found["wrong"] else f"{len(found['wrong'])} things are wrong")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--warehouse", default="/tmp/nightly-flights/warehouse.sqlite")
    parser.add_argument("--staging", default="/tmp/nightly-flights/staging")
    parser.add_argument("--counts", default=str(HERE / "data" / "counts.tsv"))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    try:
        found = report(options.warehouse, options.staging, options.counts)
    except (Failure, OSError, sqlite3.Error) as problem:
        sys.exit(f"report: {problem}")
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)
    sys.exit(1 if found["wrong"] else 0)


if __name__ == "__main__":
    main()
