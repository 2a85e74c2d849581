"""Replaces one day in the warehouse, all or nothing, unless a newer attempt already loaded it."""

from __future__ import annotations

from pathlib import Path

from flights import read_rows
from task import Failure, Task, main, read_json
from warehouse import connect, name_carriers, replace_day

AIRLINES = Path(__file__).parent.parent / "data" / "airlines.csv"


def load(task: Task) -> dict:
    """Outputs what became of the day, and how many flights it has."""
    staged = task.input("extract")
    flights = read_rows(staged["flights_file"])
    statistics = [read_json(part["stats_file"]) for part in task.input("transform")]
    counted = sum(numbers["flights"] for part in statistics for numbers in part["carriers"].values())
    if counted != len(flights):
        raise Failure(f"the statistics count {counted} flights, staging has {len(flights)}")
    with connect(task.input("warehouse")) as connection:
        name_carriers(connection, AIRLINES)
        outcome = replace_day(connection, task, flights, statistics)
    return {"outcome": outcome, "flights": len(flights)}


if __name__ == "__main__":
    main(load)
