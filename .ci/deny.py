#!/usr/bin/env python3
"""The bans, licenses and sources of deny.toml, for machines without cargo-deny, whose own build takes minutes.

Reads the rules from deny.toml and the tree from `cargo metadata`, once per target. Exit status 1: a rule is broken.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def rules() -> dict:
    """The lists of deny.toml that are checked here. An empty one means that this reader no longer fits the file."""
    text = re.sub(r"^\s*#.*$", "", (ROOT / "deny.toml").read_text(encoding="utf-8"), flags=re.M)
    found = {
        "targets": strings(text, r"^targets = \[(.*?)\]"),
        "banned": re.findall(r'\{ crate = "([^"]+)" \}', text),
        "licenses": strings(text, r"^\[licenses\].*?^allow = \[(.*?)^\]"),
        "registries": strings(text, r"^allow-registry = \[(.*?)\]"),
    }
    for name, values in found.items():
        if not values:
            sys.exit(f"deny: found no {name} in deny.toml")
    return found


def strings(text: str, pattern: str) -> list:
    match = re.search(pattern, text, flags=re.M | re.S)
    return re.findall(r'"([^"]+)"', match[1]) if match else []


def tree(target: str) -> list:
    """The packages that a build for `target` uses."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    used = {node["id"] for node in metadata["resolve"]["nodes"]}
    return [package for package in metadata["packages"] if package["id"] in used]


def permitted(expression: str, allowed) -> bool:
    """Whether an SPDX expression can be met by the allowed licenses. `/` is an old spelling of `OR`."""
    words = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))

    def either():
        met = both()
        while words and words[0] == "OR":
            words.pop(0)
            met = both() or met
        return met

    def both():
        met = one()
        while words and words[0] == "AND":
            words.pop(0)
            met = one() and met
        return met

    def one():
        word = words.pop(0)
        if word == "(":
            met = either()
            words.pop(0)
            return met
        if words and words[0] == "WITH":
            # An exception only adds rights, but the pair is a license of its own to cargo-deny.
            words.pop(0)
            word = f"{word} WITH {words.pop(0)}"
        return word in allowed

    return either()


def faults_of(package, rule) -> list:
    name = f"{package['name']} {package['version']}"
    faults = []
    if package["name"] in rule["banned"]:
        faults.append(f"{name} is banned")
    if not package["license"]:
        faults.append(f"{name} names no license")
    elif not permitted(package["license"], rule["licenses"]):
        faults.append(f"{name}: license {package['license']} is not allowed")
    source = package["source"]
    if source is None:
        # A path: must lie in this repository.
        if ROOT not in Path(package["manifest_path"]).parents:
            faults.append(f"{name} comes from {package['manifest_path']}, outside the repository")
        faults += [
            f"{name}: dependency {dependency['name']} takes any version"
            for dependency in package["dependencies"]
            if dependency["req"] == "*" and not dependency.get("path")
        ]
    elif source.replace("registry+", "", 1) not in rule["registries"]:
        faults.append(f"{name} comes from {source}")
    return faults


def main() -> None:
    rule = rules()
    faults, packages = set(), set()
    for target in rule["targets"]:
        for package in tree(target):
            packages.add(package["id"])
            faults.update(faults_of(package, rule))
    for fault in sorted(faults):
        print(f"deny: {fault}", file=sys.stderr)
    if faults:
        sys.exit(1)
    print(f"deny: {len(packages)} packages keep to deny.toml")


if __name__ == "__main__":
    main()
