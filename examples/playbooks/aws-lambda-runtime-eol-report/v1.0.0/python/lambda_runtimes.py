"""List Lambda functions whose runtime is deprecated or soon will be. Read-only.

Dates are those of AWS's "Lambda runtimes" page when this was written; give --dates FILE
({"python3.9": "2025-12-15", ...}) to use newer ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date, timedelta
from pathlib import Path

import boto3

DEPRECATED_ON = {
    "dotnet6": "2024-12-20",
    "go1.x": "2024-01-08",
    "java8": "2024-01-08",
    "nodejs14.x": "2023-12-04",
    "nodejs16.x": "2024-06-12",
    "nodejs18.x": "2025-09-01",
    "nodejs20.x": "2026-04-30",
    "provided": "2024-01-08",
    "python3.7": "2023-12-04",
    "python3.8": "2024-10-14",
    "python3.9": "2025-12-15",
    "ruby2.7": "2023-12-07",
    "ruby3.2": "2026-03-31",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--region", action="append", required=True, help="may be repeated")
    parser.add_argument("--within-days", type=int, default=180)
    parser.add_argument("--dates", type=Path)
    options = parser.parse_args()

    dates = dict(DEPRECATED_ON)
    if options.dates:
        dates.update(json.loads(options.dates.read_text(encoding="utf-8")))
    today = date.today()
    limit = today + timedelta(days=options.within_days)
    found = []
    for region in options.region:
        client = boto3.client("lambda", region_name=region)
        for page in client.get_paginator("list_functions").paginate():
            for function in page["Functions"]:
                runtime = function.get("Runtime")  # container images have none
                if runtime in dates and date.fromisoformat(dates[runtime]) <= limit:
                    found.append((dates[runtime], runtime, region, function["FunctionArn"]))
    for day, runtime, region, arn in sorted(found):
        state = "deprecated" if date.fromisoformat(day) <= today else "ends"
        print(f"{state} {day}\t{runtime}\t{region}\t{arn}")
    print(f"{len(found)} functions to move to a newer runtime", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
