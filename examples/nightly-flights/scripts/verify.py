"""Compares one day in the warehouse, its rows and its statistics, with the counts published for it."""

from __future__ import annotations

from pathlib import Path

from task import Failure, Task, main
from warehouse import connect_to_read, counts_of, read_counts, statistics_of

COUNTS = Path(__file__).parent.parent / "data" / "counts.tsv"


def verify(task: Task) -> dict:
    """Outputs the numbers of flights and of cancelled ones."""
    expected = read_counts(COUNTS).get(task.day)
    if expected is None:
        raise Failure(f"{COUNTS.name} has no counts of {task.day}")
    with connect_to_read(task.input("warehouse")) as connection:
        found = {"flights": counts_of(connection, task.day), "delays": statistics_of(connection, task.day)}
    for table, counts in found.items():
        if counts != expected:
            raise Failure(
                f"{task.day}: table {table} has {counts[0]} flights ({counts[1]} cancelled), "
                f"expected {expected[0]} ({expected[1]})"
            )
    return {"flights": expected[0], "cancelled": expected[1]}


if __name__ == "__main__":
    main(verify)
