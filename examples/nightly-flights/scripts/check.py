"""Stops the run when the staged rows cannot be right: missing, of another day, doubled, or without weather."""

from __future__ import annotations

from flights import cancelled, key_of, read_rows
from task import Failure, Task, main

# Weather stations fail for an hour now and then; more than this many of 24 would make the join worthless.
HOURS_WITHOUT_WEATHER_MAX = 6


def check(task: Task) -> dict:
    """Outputs the numbers of flights and of cancelled ones."""
    staged = task.input("extract")
    flights = read_rows(staged["flights_file"])
    if len(flights) != staged["flights"]:
        raise Failure(f"{staged['flights_file']} has {len(flights)} rows, extract wrote {staged['flights']}")
    seen = set()
    for row in flights:
        day = f"{row['year']}-{int(row['month']):02}-{int(row['day']):02}"
        if day != task.day:
            raise Failure(f"flight {row['carrier']}{row['flight']} is of {day}, not of {task.day}")
        if key_of(row) in seen:
            raise Failure(f"flight {' '.join(key_of(row))} is there twice")
        seen.add(key_of(row))
    weather = read_rows(staged["weather_file"])
    for origin in staged["origins"]:
        hours = len({row["time_hour"] for row in weather if row["origin"] == origin})
        if hours < 24 - HOURS_WITHOUT_WEATHER_MAX:
            raise Failure(f"only {hours} hours of weather at {origin} on {task.day}")
    return {"flights": len(flights), "cancelled": sum(map(cancelled, flights))}


if __name__ == "__main__":
    main(check)
