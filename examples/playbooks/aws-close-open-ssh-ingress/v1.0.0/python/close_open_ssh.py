"""Revoke security-group ingress that opens a port to the whole internet, in one or all regions.

Dry run unless --apply is given. With --restrict-to CIDR the rule is replaced, not only removed:
the new rule is added first, so that nobody inside CIDR is cut off in between.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import boto3
from botocore.exceptions import ClientError

WORLD = {"0.0.0.0/0", "::/0"}


def open_rules(ec2, port: int) -> Iterator[dict]:
    for page in ec2.get_paginator("describe_security_group_rules").paginate():
        for rule in page["SecurityGroupRules"]:
            source = rule.get("CidrIpv4") or rule.get("CidrIpv6")
            if rule["IsEgress"] or source not in WORLD:
                continue
            if rule["IpProtocol"] == "tcp" and rule["FromPort"] <= port <= rule["ToPort"]:
                yield rule


def restrict(ec2, rule: dict, cidr: str) -> None:
    try:
        ec2.authorize_security_group_ingress(
            GroupId=rule["GroupId"],
            IpPermissions=[
                {
                    "IpProtocol": rule["IpProtocol"],
                    "FromPort": rule["FromPort"],
                    "ToPort": rule["ToPort"],
                    "IpRanges": [{"CidrIp": cidr, "Description": "replaces a world-open rule"}],
                }
            ],
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "InvalidPermission.Duplicate":
            raise


def regions(session: boto3.Session, wanted: str) -> list[str]:
    if wanted != "all":
        return [wanted]
    ec2 = session.client("ec2", region_name=session.region_name or "us-east-1")
    return [region["RegionName"] for region in ec2.describe_regions()["Regions"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--region", required=True, help="a region, or 'all'")
    parser.add_argument("--port", type=int, default=22)
    parser.add_argument("--restrict-to", metavar="CIDR", help="allow this network instead")
    parser.add_argument("--apply", action="store_true", help="change the rules")
    options = parser.parse_args()

    session = boto3.Session()
    failed = 0
    for region in regions(session, options.region):
        ec2 = session.client("ec2", region_name=region)
        for rule in open_rules(ec2, options.port):
            source = rule.get("CidrIpv4") or rule.get("CidrIpv6")
            where = f"{region} {rule['GroupId']} {rule['SecurityGroupRuleId']} {source}"
            if not options.apply:
                print(f"would revoke {where}")
                continue
            try:
                if options.restrict_to:
                    restrict(ec2, rule, options.restrict_to)
                ec2.revoke_security_group_ingress(
                    GroupId=rule["GroupId"], SecurityGroupRuleIds=[rule["SecurityGroupRuleId"]]
                )
                print(f"revoked {where}")
            except ClientError as error:
                failed += 1
                print(f"FAILED {where}: {error.response['Error']['Code']}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
