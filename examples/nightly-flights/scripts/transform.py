"""Delay statistics per carrier for one origin and day, joined with the hour's weather at that airport.

The work goes in slices. With param `pace` the slices are spread over that time, so that a demonstration has
something to interrupt; the statistics are the same at any pace.
"""

from __future__ import annotations

import json
import re
import time

from flights import bad_weather, cancelled, read_rows, value
from task import Failure, Task, main

SLICES = 10
# A flight counts as delayed from 15 minutes on, as the Bureau of Transportation Statistics has it.
DELAYED_MINUTES = 15
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def transform(task: Task) -> dict:
    """Outputs the path of the origin's statistics and the number of flights behind them."""
    staged, origin = task.input("extract"), task.input("origin")
    pause = seconds(task.input("pace")) / SLICES
    weather = {row["time_hour"]: row for row in read_rows(staged["weather_file"]) if row["origin"] == origin}
    flights = [row for row in read_rows(staged["flights_file"]) if row["origin"] == origin]
    carriers = {}
    for part in range(SLICES):
        for row in flights[part::SLICES]:
            add(carriers.setdefault(row["carrier"], new_statistics()), row, weather.get(row["time_hour"]))
        if pause:
            task.note("working")
            time.sleep(pause)
    with task.staged(f"delays-{origin}", ".json") as (file, path):
        json.dump({"origin": origin, "carriers": {name: carriers[name] for name in sorted(carriers)}}, file)
    return {"origin": origin, "stats_file": str(path), "flights": len(flights)}


def new_statistics() -> dict:
    """Sums rather than means: they stay exact, and days can be added up."""
    return {
        "flights": 0,
        "cancelled": 0,
        "delayed": 0,
        "dep_delay_minutes": 0,
        "bad_weather": 0,
        "bad_weather_delayed": 0,
        "no_weather": 0,
    }


def add(statistics: dict, row, hour) -> None:
    """Counts one flight; `hour` is the weather at its scheduled hour, None where the station was silent."""
    delay = value(row, "dep_delay") or 0
    delayed = not cancelled(row) and delay >= DELAYED_MINUTES
    bad = hour is not None and bad_weather(hour)
    statistics["flights"] += 1
    statistics["cancelled"] += cancelled(row)
    statistics["delayed"] += delayed
    statistics["dep_delay_minutes"] += int(delay)
    statistics["bad_weather"] += bad
    statistics["bad_weather_delayed"] += bad and delayed
    statistics["no_weather"] += hour is None


def seconds(text: str) -> float:
    """Reads a duration of the workflow language: `500ms`, `10s`, `1h30m`."""
    if not re.fullmatch(r"(\d+(ms|s|m|h|d|w))+", text):
        raise Failure(f"`{text}` is no duration: write 500ms, 10s or 1m30s")
    return sum(int(count) * SECONDS[unit] for count, unit in re.findall(r"(\d+)(ms|s|m|h|d|w)", text))


if __name__ == "__main__":
    main(transform)
