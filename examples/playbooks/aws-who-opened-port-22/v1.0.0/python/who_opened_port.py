"""Report who opened a port (22 by default) to the whole internet, from CloudTrail's event history.

Read-only. CloudTrail keeps management events for 90 days per region; an older change must be
looked up in a trail's S3 bucket. Prints one line a change: time, who, from which address, what.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import boto3

EVENTS = ("AuthorizeSecurityGroupIngress", "ModifySecurityGroupRules")
WORLD = {"0.0.0.0/0", "::/0"}


def items(value: object) -> list[dict]:
    """CloudTrail writes lists as {"items": [...]}, as lists, or as one object."""
    if isinstance(value, dict):
        value = value.get("items", value)
    if isinstance(value, dict):
        return [value]
    return [item for item in value or [] if isinstance(item, dict)]


def covers(protocol: object, low: object, high: object, port: int) -> bool:
    if str(protocol) == "-1":
        return True
    if str(protocol) not in {"tcp", "6"} or low is None or high is None:
        return False
    return int(low) <= port <= int(high)


def authorized(request: dict, port: int) -> Iterator[tuple[str, str]]:
    permissions = items(request.get("ipPermissions")) or [request]
    for permission in permissions:
        if not covers(
            permission.get("ipProtocol"), permission.get("fromPort"), permission.get("toPort"), port
        ):
            continue
        sources = [entry.get("cidrIp") for entry in items(permission.get("ipRanges"))]
        sources += [entry.get("cidrIpv6") for entry in items(permission.get("ipv6Ranges"))]
        sources.append(permission.get("cidrIp"))
        for source in sources:
            if source in WORLD:
                yield str(request.get("groupId") or request.get("groupName")), source


def modified(request: dict, port: int) -> Iterator[tuple[str, str]]:
    body = request.get("ModifySecurityGroupRulesRequest", request)
    for change in items(body.get("SecurityGroupRule")):
        rule = change.get("SecurityGroupRule", {})
        source = rule.get("CidrIpv4") or rule.get("CidrIpv6")
        if source in WORLD and covers(
            rule.get("IpProtocol"), rule.get("FromPort"), rule.get("ToPort"), port
        ):
            yield str(body.get("GroupId")), source


def changes(trail, name: str, since: datetime, port: int) -> Iterator[dict]:
    pages = trail.get_paginator("lookup_events").paginate(
        LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": name}],
        StartTime=since,
    )
    for page in pages:
        for event in page["Events"]:
            record = json.loads(event["CloudTrailEvent"])
            request = record.get("requestParameters") or {}
            if record.get("errorCode"):
                continue  # the call was refused: nothing was opened
            read = authorized if name == EVENTS[0] else modified
            for group, source in read(request, port):
                identity = record.get("userIdentity", {})
                yield {
                    "time": record["eventTime"],
                    "who": identity.get("arn") or identity.get("principalId") or "unknown",
                    "source_ip": record.get("sourceIPAddress"),
                    "user_agent": record.get("userAgent"),
                    "region": record.get("awsRegion"),
                    "security_group": group,
                    "opened_to": source,
                    "event_id": record.get("eventID"),
                }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--region", action="append", required=True, help="may be repeated")
    parser.add_argument("--port", type=int, default=22)
    parser.add_argument("--days", type=int, default=90, choices=range(1, 91), metavar="1..90")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    options = parser.parse_args()

    since = datetime.now(timezone.utc) - timedelta(days=options.days)
    found = []
    for region in options.region:
        trail = boto3.client("cloudtrail", region_name=region)
        for name in EVENTS:
            found += changes(trail, name, since, options.port)
    for change in sorted(found, key=lambda change: change["time"]):
        if options.json:
            print(json.dumps(change))
        else:
            print(
                f"{change['time']}  {change['who']}  from {change['source_ip']}  opened "
                f"{change['security_group']} to {change['opened_to']} in {change['region']}"
            )
    if not found:
        print(f"nobody opened port {options.port} to the internet in {options.days} days")
    return 0


if __name__ == "__main__":
    sys.exit(main())
