"""What a row of flights or weather means: keys, missing values, cancelled flights, bad weather."""

from __future__ import annotations

import csv

from task import Failure

MISSING = ("", "NA")


def read_rows(path) -> list:
    """The rows of a staged csv file, each a dict."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise Failure(f"{path} does not exist: do all executors share the folder `staging`?") from None


def key_of(row) -> tuple:
    """Tells one flight of a day from all others."""
    return row["origin"], row["carrier"], row["flight"], row["sched_dep_time"]


def cancelled(row) -> bool:
    """A flight without a departure never left."""
    return row["dep_time"] in MISSING


def value(row, column: str, read=float):
    """A number, or None where the source has none."""
    text = row.get(column)
    if text in MISSING:
        return None
    try:
        return read(text)
    except (TypeError, ValueError):
        raise Failure(f"column {column} holds `{text}`, which is no number") from None


def whole(row, column: str):
    """A whole number, or None where the source has none."""
    return value(row, column, int)


def bad_weather(hour) -> bool:
    """Rain or snow, or less than 3 miles of sight, or wind from 25 mph. What was not measured was not bad."""
    rain, sight, wind = (value(hour, column) for column in ("precip", "visib", "wind_speed"))
    return (
        (rain is not None and rain > 0)
        or (sight is not None and sight < 3)
        or (wind is not None and wind >= 25)
    )
