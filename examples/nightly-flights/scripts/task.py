"""One attempt of a Matins task as its script sees it: input, fence, outputs, staged files and journal.

Nothing here knows what the task does. Start reading at `main`, which every script calls.

The journal is a file of one JSON object a line that all attempts of all tasks append to. No task reads it: it lets
`report.py` say from outside, without asking the engine, which tasks ran twice, and whether two attempts
of one task ever ran at the same time.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

JOURNAL = "attempts.jsonl"


class Failure(Exception):
    """Why this attempt failed, in one line for the person who reads the log."""


class Task:
    """An attempt: who it is (`MATINS_*`), what it was given (`with`), and where it may write."""

    def __init__(self, env: dict, given: dict):
        self.given = given
        self.run_id = required(env, "MATINS_RUN_ID")
        self.name = required(env, "MATINS_TASK")
        self.item = env.get("MATINS_ITEM_INDEX", "")
        self.attempt = number(env, "MATINS_ATTEMPT")
        self.fence = number(env, "MATINS_FENCE")
        # The day names a folder, so nothing but a day may come this far.
        self.date = read_day(self.input("day"))
        self.day = str(self.date)
        self.staging = Path(self.input("staging"))
        if not self.staging.is_absolute():
            # Every attempt has a working directory of its own: nobody else would find the files.
            raise Failure(f"param `staging` must be an absolute path, not `{self.staging}`")
        self.folder = self.staging / self.day
        self.folder.mkdir(parents=True, exist_ok=True)

    def input(self, key: str):
        """The value of `key` in the task's `with`."""
        if key not in self.given:
            raise Failure(f"the task was given no `{key}`: it belongs under `with`")
        return self.given[key]

    @contextmanager
    def staged(self, stem: str, suffix: str):
        """Yields (file, path): `path` comes to be when the block ends well, whole and on disk, or never.

        The fence in the name makes it this attempt's own: no other attempt writes or overwrites it.
        """
        path = self.folder / f"{stem}-{self.fence}{suffix}"
        part = self.folder / f".{path.name}.part"
        try:
            with open(part, "w", encoding="utf-8", newline="") as file:
                yield file, path
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def note(self, event: str) -> None:
        """Appends `event` (started, working, finished or failed) to the journal."""
        line = {
            "event": event,
            "day": self.day,
            "run": self.run_id,
            "task": self.name,
            "item": self.item,
            "attempt": self.attempt,
            "fence": self.fence,
            # One clock for all processes of a machine, which no one can set: it orders attempts.
            "monotonic": time.clock_gettime(time.CLOCK_MONOTONIC),
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        data = (json.dumps(line) + "\n").encode()
        # One write to a file opened for appending: lines of different processes never mix.
        file = os.open(self.staging / JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, data)
        finally:
            os.close(file)


def perform(task: Task, work) -> dict:
    """Does `work(task)`, which returns the outputs, and journals how it went."""
    task.note("started")
    try:
        outputs = work(task)
    except BaseException:
        task.note("failed")
        raise
    task.note("finished")
    return outputs


def main(work) -> None:
    """Runs `work` as the task that the environment describes. A failure is one line on stderr and status 1."""
    try:
        task = Task(dict(os.environ), read_json(required(os.environ, "MATINS_INPUT")))
        outputs = perform(task, work)
        with open(required(os.environ, "MATINS_OUTPUT"), "w", encoding="utf-8") as file:
            json.dump(outputs, file)
    except (Failure, OSError, sqlite3.Error) as problem:
        sys.exit(f"{Path(sys.argv[0]).stem}: {problem}")
    print(json.dumps(outputs))


def read_json(path) -> dict:
    """The JSON object in the file `path`."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except ValueError as problem:
        raise Failure(f"{path} is not JSON: {problem}") from None
    if not isinstance(value, dict):
        raise Failure(f"{path} does not hold one JSON object")
    return value


def read_day(text):
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except (TypeError, ValueError):
        raise Failure(f"`{text}` is no day: write it as 2013-01-31") from None


def required(env, name: str) -> str:
    value = env.get(name)
    if not value:
        raise Failure(f"{name} is not set: this script runs as a task of Matins")
    return value


def number(env, name: str) -> int:
    text = required(env, name)
    try:
        return int(text)
    except ValueError:
        raise Failure(f"{name} is `{text}`, which is no number") from None
