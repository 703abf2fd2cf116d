"""Report resources that lack required tags, as CSV. Read-only.

The Resource Groups Tagging API lists only what has or once had a tag; with --config the AWS Config
inventory is asked too, which also knows resources that never had one.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator

import boto3


def tagged(session: boto3.Session, types: list[str]) -> Iterator[tuple[str, set[str]]]:
    client = session.client("resourcegroupstaggingapi")
    arguments = {"ResourceTypeFilters": types} if types else {}
    for page in client.get_paginator("get_resources").paginate(**arguments):
        for resource in page["ResourceTagMappingList"]:
            yield resource["ResourceARN"], {tag["Key"] for tag in resource["Tags"]}


def recorded(session: boto3.Session) -> Iterator[tuple[str, set[str]]]:
    client = session.client("config")
    pages = client.get_paginator("select_resource_config").paginate(
        Expression="SELECT arn, tags WHERE arn LIKE 'arn:%'"
    )
    for page in pages:
        for row in page["Results"]:
            resource = json.loads(row)
            yield resource["arn"], {tag["key"] for tag in resource.get("tags") or []}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--region", required=True)
    parser.add_argument("--require", action="append", required=True, metavar="TAG")
    parser.add_argument("--type", action="append", default=[], help="like ec2:instance")
    parser.add_argument("--config", action="store_true", help="ask AWS Config too")
    parser.add_argument("--fail", action="store_true", help="exit 1 when something is missing")
    options = parser.parse_args()

    session = boto3.Session(region_name=options.region)
    resources = dict(tagged(session, options.type))
    if options.config:
        for arn, tags in recorded(session):
            resources.setdefault(arn, tags)

    writer = csv.writer(sys.stdout)
    writer.writerow(["arn", "missing"])
    missing_by_tag: Counter[str] = Counter()
    incomplete = 0
    for arn, tags in sorted(resources.items()):
        missing = [tag for tag in options.require if tag not in tags]
        if missing:
            incomplete += 1
            missing_by_tag.update(missing)
            writer.writerow([arn, " ".join(missing)])
    print(f"{incomplete} of {len(resources)} resources lack a tag", file=sys.stderr)
    for tag, count in missing_by_tag.most_common():
        print(f"  {tag}: {count}", file=sys.stderr)
    return 1 if options.fail and incomplete else 0


if __name__ == "__main__":
    sys.exit(main())
