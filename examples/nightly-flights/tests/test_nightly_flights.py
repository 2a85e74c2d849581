"""The scripts of the nightly load, without an engine: `python3 -m unittest discover examples/nightly-flights/tests`.

`Runs` does what an executor does: it hands each script its environment and input, and takes its outputs.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import unittest
from contextlib import closing
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(EXAMPLE), str(EXAMPLE / "scripts")]

import report as reporting  # noqa: E402
from check import check  # noqa: E402
from extract import extract  # noqa: E402
from load import load  # noqa: E402
from task import JOURNAL, Failure, Task, perform  # noqa: E402
from transform import seconds, transform  # noqa: E402
from verify import verify  # noqa: E402
from warehouse import read_counts  # noqa: E402

COUNTS = read_counts(EXAMPLE / "data" / "counts.tsv")


class Runs:
    """Runs of the workflow for one day each, task after task, with one rising fence for all."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.staging = self.folder / "staging"
        self.warehouse = self.folder / "warehouse.sqlite"
        self.fence = 0

    def env(self, name, fence=None, item=""):
        self.fence += 1
        return {
            "MATINS_RUN_ID": "run-1", "MATINS_TASK": name, "MATINS_ITEM_INDEX": str(item), "MATINS_ATTEMPT": "1",
            "MATINS_FENCE": str(fence or self.fence),
        }

    def given(self, day, **more):
        return {"day": day, "staging": str(self.staging), "warehouse": str(self.warehouse),
                "source": str(EXAMPLE / "data"), "pace": "0s", **more}

    def attempt(self, work, day, fence=None, item="", **given):
        return perform(Task(self.env(work.__name__, fence, item), self.given(day, **given)), work)

    def prepare(self, day):
        staged = self.attempt(extract, day)
        self.attempt(check, day, extract=staged)
        parts = [
            self.attempt(transform, day, item=index, extract=staged, origin=origin)
            for index, origin in enumerate(staged["origins"])
        ]
        return {"extract": staged, "transform": parts}

    def day(self, day):
        self.attempt(load, day, **self.prepare(day))
        return self.attempt(verify, day)

    def report(self):
        return reporting.report(self.warehouse, self.staging, EXAMPLE / "data" / "counts.tsv")

    def rows(self, query):
        with closing(sqlite3.connect(self.warehouse)) as connection:
            return connection.execute(query).fetchall()


class NightlyFlights(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.runs = Runs(folder.name)

    def test_the_whole_month_has_the_published_counts(self):
        for day, (flights, cancelled) in COUNTS.items():
            self.assertEqual(self.runs.day(day), {"flights": flights, "cancelled": cancelled})
        found = self.runs.report()
        self.assertEqual(found["wrong"], [])
        self.assertEqual((found["days"], found["rows"], found["rowsExpected"]), (31, 27004, 27004))
        self.assertEqual(found["loads"], {"loaded": 31, "replaced": 0, "repeated": 0, "rejected": 0})
        self.assertEqual(found["ranTwice"], [])
        # Facts of January 2013 that a wrong join or a doubled row would change.
        totals = self.runs.rows("select sum(flights), sum(cancelled), sum(no_weather) from delays")
        self.assertEqual(totals, [(27004, 521, 52)])

    def test_a_stale_fence_is_rejected_and_changes_nothing(self):
        day = "2013-01-05"
        ready = self.runs.prepare(day)
        self.runs.attempt(load, day, fence=90, **ready)
        before = self.runs.rows("select * from loads")
        with self.assertRaisesRegex(Failure, "loaded under fence 90, newer than this attempt's 89"):
            self.runs.attempt(load, day, fence=89, **ready)
        self.assertEqual(self.runs.rows("select * from loads"), before)
        found = self.runs.report()
        self.assertEqual(found["loads"]["rejected"], 1)
        self.assertEqual(found["notFirst"][0]["liveFence"], 90)

    def test_loading_again_leaves_the_same_rows(self):
        day = "2013-01-05"
        ready = self.runs.prepare(day)
        results = [self.runs.attempt(load, day, fence=fence, **ready)["outcome"] for fence in (90, 90, 91)]
        self.assertEqual(results, ["loaded", "repeated", "replaced"])
        self.assertEqual(self.runs.rows("select count(*) from flights"), [(720,)])
        self.assertEqual(self.runs.rows("select day, fence from loads"), [(day, 91)])

    def test_a_load_that_fails_half_way_writes_nothing(self):
        day = "2013-01-05"
        ready = self.runs.prepare(day)
        part = Path(ready["transform"][2]["stats_file"])
        broken = json.loads(part.read_text())
        # The rows are in and the statistics are half in when this one is refused.
        next(iter(broken["carriers"].values()))["delayed"] = None
        part.write_text(json.dumps(broken))
        with self.assertRaises(sqlite3.IntegrityError):
            self.runs.attempt(load, day, **ready)
        for table in ("flights", "delays", "loads", "load_attempts"):
            self.assertEqual(self.runs.rows(f"select count(*) from {table}"), [(0,)], table)

    def test_a_killed_transform_leaves_nothing_half_written(self):
        day = "2013-01-05"
        staged = self.runs.attempt(extract, day)
        given = self.runs.given(day, extract=staged, origin="EWR", pace="10m")
        process = self.start("transform", given)
        self.wait_for(lambda: '"working"' in (self.runs.staging / JOURNAL).read_text())
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.assertEqual(list((self.runs.staging / day).glob("*delays*")), [])
        # The next attempt does the work, and the journal shows both and no overlap.
        parts = [
            self.runs.attempt(transform, day, item=index, extract=staged, origin=origin)
            for index, origin in enumerate(staged["origins"])
        ]
        self.runs.attempt(load, day, extract=staged, transform=parts)
        self.runs.attempt(verify, day)
        found = self.runs.report()
        self.assertEqual([task["task"] for task in found["ranTwice"]], ["transform.0"])
        self.assertEqual(found["overlapping"], [])

    def test_attempts_at_the_same_time_are_reported(self):
        line = {"day": "2013-01-05", "run": "run-1", "task": "load", "item": ""}
        times = [(1, 10.0), (2, 12.0), (1, 13.0)]
        repeated, overlapping = reporting.ran_twice([{**line, "fence": fence, "monotonic": at} for fence, at in times])
        self.assertEqual(repeated[0]["fences"], [1, 2])
        self.assertEqual(overlapping, ["run-1/load (2013-01-05), fences 1 and 2"])

    def test_a_missing_row_is_found_by_verify_and_report(self):
        day = "2013-01-05"
        self.runs.day(day)
        with closing(sqlite3.connect(self.runs.warehouse)) as connection, connection:
            connection.execute("delete from flights where flight = (select min(flight) from flights)")
        with self.assertRaisesRegex(Failure, "table flights has"):
            self.runs.attempt(verify, day)
        found = [line for line in self.runs.report()["wrong"] if line.startswith(day)]
        self.assertEqual(len(found), 1)
        self.assertIn("table flights has", found[0])

    def test_check_finds_a_doubled_row(self):
        staged = self.runs.attempt(extract, "2013-01-05")
        path = Path(staged["flights_file"])
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:-1] + [lines[1]]))
        with self.assertRaisesRegex(Failure, "is there twice"):
            self.runs.attempt(check, "2013-01-05", extract=staged)

    def test_a_script_reads_its_input_and_writes_its_output(self):
        process = self.start("extract", self.runs.given("2013-01-05"))
        self.assertEqual(process.communicate()[1], "")
        outputs = json.loads((self.runs.folder / "output").read_text())
        self.assertEqual((outputs["flights"], outputs["origins"]), (720, ["EWR", "JFK", "LGA"]))

    def test_a_failure_is_one_line_and_status_1(self):
        for day, words in (("2013-02-01", "the source has no flights of 2013-02"), ("../soon", "is no day")):
            process = self.start("extract", self.runs.given(day))
            stderr = process.communicate()[1]
            self.assertEqual((process.returncode, stderr.count("\n")), (1, 1), stderr)
            self.assertIn(words, stderr)

    def test_a_damaged_number_is_named(self):
        staged = self.runs.attempt(extract, "2013-01-05")
        path = Path(staged["flights_file"])
        lines = path.read_text().splitlines(keepends=True)
        fields = lines[1].split(",")
        fields[5], origin = "late", fields[12]
        path.write_text("".join([lines[0], ",".join(fields), *lines[2:]]))
        with self.assertRaisesRegex(Failure, "column dep_delay holds `late`"):
            self.runs.attempt(transform, "2013-01-05", item=0, extract=staged, origin=origin)
        self.assertEqual(list((self.runs.staging / "2013-01-05").glob("*delays*")), [])

    def test_durations_are_those_of_the_language(self):
        self.assertEqual([seconds(text) for text in ("500ms", "5s", "1m30s", "1h")], [0.5, 5, 90, 3600])
        with self.assertRaisesRegex(Failure, "no duration"):
            seconds("5")

    def start(self, name, given):
        """Starts a script as a process, as an executor would."""
        files = {"MATINS_INPUT": self.runs.folder / "input", "MATINS_OUTPUT": self.runs.folder / "output"}
        files["MATINS_INPUT"].write_text(json.dumps(given))
        item = 0 if name == "transform" else ""
        env = {"PATH": os.environ["PATH"], **self.runs.env(name, item=item), **{k: str(v) for k, v in files.items()}}
        process = subprocess.Popen(
            [sys.executable, EXAMPLE / "scripts" / f"{name}.py"], env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        self.addCleanup(self.end, process)
        return process

    def end(self, process):
        if process.poll() is None:
            process.kill()
        process.communicate()

    def wait_for(self, condition):
        deadline = time.monotonic() + 30
        while not condition():
            self.assertLess(time.monotonic(), deadline, "waited 30 s")
            time.sleep(0.01)


if __name__ == "__main__":
    unittest.main()
