"""Copies one day of flights and weather, rows unchanged, from the source into staging."""

from __future__ import annotations

import csv
import gzip
from datetime import date
from pathlib import Path

from task import Failure, Task, main


def extract(task: Task) -> dict:
    """Outputs the paths of the staged rows, the day's origins, and how many rows there are."""
    day = task.date
    source = Path(task.input("source"))
    columns, flights = rows_of(source, "flights", day)
    if not flights:
        raise Failure(f"the source has no flights on {day}")
    weather_columns, weather = rows_of(source, "weather", day)
    return {
        "flights_file": stage(task, "flights", columns, flights),
        "weather_file": stage(task, "weather", weather_columns, weather),
        "origins": sorted({row["origin"] for row in flights}),
        "flights": len(flights),
        "weather": len(weather),
    }


def rows_of(source: Path, table: str, day: date):
    """The columns of a table, and its rows of `day`. The source keeps one file per table and month."""
    path = source / f"{table}-{day:%Y-%m}.csv.gz"
    if not path.exists():
        raise Failure(f"the source has no {table} of {day:%Y-%m}: {path} does not exist")
    wanted = (str(day.year), str(day.month), str(day.day))
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        try:
            reader = csv.DictReader(file)
            rows = [row for row in reader if (row["year"], row["month"], row["day"]) == wanted]
        except (EOFError, KeyError, csv.Error) as problem:
            raise Failure(f"cannot read {path}: {problem}") from None
    return reader.fieldnames, rows


def stage(task: Task, table: str, columns, rows) -> str:
    with task.staged(table, ".csv") as (file, path):
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


if __name__ == "__main__":
    main(extract)
