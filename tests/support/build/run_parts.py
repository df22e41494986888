# SPDX-License-Identifier: Apache-2.0
"""Runs parts of the checks one after another and ends with a table of what each took.

Usage: run_parts.py NAME PART...      make PART each, until one fails; keeps build/parts/NAME.json
       run_parts.py --report NAME...  the table of what was run
The last line counts tests, and a part that failed with none of them as one.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
RECORDS = ROOT / "build/parts"
# pytest's closing line, and the one that ends a table here.
_SUMMARY = re.compile(r"^(?:=+ )?(?=\d+ \w+)(.*\b(?:passed|failed|error|errors|skipped)\b.*)$")
_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped)\b")
KINDS = ("passed", "failed", "skipped")


def count_tests(line: str) -> dict[str, int]:
    """The counts of a closing line of pytest; empty for any other line."""
    match = _SUMMARY.match(line.strip())
    if match is None or " in " not in line:
        return {}
    counts = dict.fromkeys(KINDS, 0)
    for number, kind in _COUNT.findall(match[1]):
        counts["failed" if kind.startswith("error") else kind] += int(number)
    return counts


def run_part(part: str) -> dict:
    """`make PART`, its output passed on."""
    print(f"--- {part}", flush=True)
    begin = time.monotonic()
    words = ["make", "--no-print-directory", part]
    record = dict.fromkeys(KINDS, 0)
    skipped = ""  # the reason of a part that lacks something
    pipe = subprocess.PIPE
    with subprocess.Popen(
        words, cwd=ROOT, stdout=pipe, stderr=subprocess.STDOUT, text=True
    ) as make:
        for line in make.stdout:
            print(line, end="", flush=True)
            for kind, number in count_tests(line).items():
                record[kind] += number
            if line.startswith(f"{part}: skipped, "):
                skipped = line.split(", ", 1)[1].strip()
    failed = make.returncode != 0
    if failed and record["failed"] == 0:
        record["failed"] = 1
    outcome = "failed" if failed else f"skipped: {skipped}" if skipped else "passed"
    return {
        "part": part,
        "outcome": outcome,
        "seconds": round(time.monotonic() - begin, 1),
        **record,
    }


def print_table(records: list[dict]) -> None:
    """One line per part, their sum, and the closing line."""
    width = max(len(record["part"]) for record in records)
    print(f"\n{'part':<{width}}  seconds  tests  result")
    for record in records:
        tests = sum(record[kind] for kind in KINDS) or ""
        print(
            f"{record['part']:<{width}}  {record['seconds']:7.1f}  {tests:>5}  {record['outcome']}"
        )
    print(f"{'all':<{width}}  {sum(record['seconds'] for record in records):7.1f}")
    print(", ".join(f"{sum(record[kind] for record in records)} {kind}" for kind in KINDS))


def main(words: list[str]) -> int:
    """1 if a part failed."""
    if words[0] == "--report":
        files = [RECORDS / f"{name}.json" for name in words[1:]]
        print_table([record for file in files for record in json.loads(file.read_text())])
        return 0
    name, *parts = words
    RECORDS.mkdir(parents=True, exist_ok=True)
    records: list[dict] = []
    for part in parts:
        records.append(run_part(part))
        (RECORDS / f"{name}.json").write_text(json.dumps(records, indent=1) + "\n")
        if records[-1]["outcome"] == "failed":
            break
    print_table(records)
    return 1 if records[-1]["outcome"] == "failed" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
