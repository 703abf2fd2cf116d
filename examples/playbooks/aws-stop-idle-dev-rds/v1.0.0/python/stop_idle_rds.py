"""Stop RDS instances of a development environment that nobody has connected to lately.

Dry run unless --apply is given. AWS starts a stopped instance again after seven days, so run this
on a schedule. Read replicas, instances with replicas and Aurora members are left out: RDS does
not stop them this way.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timedelta, timezone

import boto3
from botocore.exceptions import ClientError


def has_tag(resource: dict, key: str, value: str) -> bool:
    return any(tag["Key"] == key and tag["Value"] == value for tag in resource.get("TagList", []))


def most_connections(cloudwatch, dimension: str, name: str, hours: int) -> float | None:
    """The most connections at one time, or None without any datapoint (then do not touch it)."""
    now = datetime.now(timezone.utc)
    answer = cloudwatch.get_metric_statistics(
        Namespace="AWS/RDS",
        MetricName="DatabaseConnections",
        Dimensions=[{"Name": dimension, "Value": name}],
        StartTime=now - timedelta(hours=hours),
        EndTime=now,
        Period=3600,
        Statistics=["Maximum"],
    )
    return max((point["Maximum"] for point in answer["Datapoints"]), default=None)


def can_stop(instance: dict) -> bool:
    return (
        instance["DBInstanceStatus"] == "available"
        and not instance.get("DBClusterIdentifier")
        and not instance.get("ReadReplicaSourceDBInstanceIdentifier")
        and not instance.get("ReadReplicaDBInstanceIdentifiers")
    )


def stop_instances(rds, cloudwatch, options: argparse.Namespace) -> int:
    failed = 0
    for page in rds.get_paginator("describe_db_instances").paginate():
        for instance in page["DBInstances"]:
            name = instance["DBInstanceIdentifier"]
            if not has_tag(instance, options.tag_key, options.tag_value) or not can_stop(instance):
                continue
            most = most_connections(cloudwatch, "DBInstanceIdentifier", name, options.idle_hours)
            if most is None or most > 0:
                print(f"keep {name}: connections {most}")
            elif not options.apply:
                print(f"would stop {name} ({instance['DBInstanceClass']})")
            else:
                try:
                    rds.stop_db_instance(DBInstanceIdentifier=name)
                    print(f"stopping {name}")
                except ClientError as error:
                    failed += 1
                    print(f"FAILED {name}: {error.response['Error']['Code']}", file=sys.stderr)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--region", required=True)
    parser.add_argument("--tag-key", default="environment")
    parser.add_argument("--tag-value", default="dev")
    parser.add_argument("--idle-hours", type=int, default=24)
    parser.add_argument("--apply", action="store_true")
    options = parser.parse_args()

    rds = boto3.client("rds", region_name=options.region)
    cloudwatch = boto3.client("cloudwatch", region_name=options.region)
    return 1 if stop_instances(rds, cloudwatch, options) else 0


if __name__ == "__main__":
    sys.exit(main())
