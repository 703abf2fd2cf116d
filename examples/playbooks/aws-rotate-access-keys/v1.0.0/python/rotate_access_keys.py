"""Rotate an IAM user's old access keys in two careful steps.

  rotate   makes a new key, stores it in Secrets Manager, and leaves the old one active
  retire   deactivates keys older than --max-age-days that were not used for --unused-days;
           with --delete, deletes those that are already inactive

The new key goes to Secrets Manager only; it is never printed. Dry run unless --apply is given.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timezone

import boto3
from botocore.exceptions import ClientError

MAX_KEYS = 2  # IAM allows two a user


def keys_of(iam, user: str) -> list[dict]:
    pages = iam.get_paginator("list_access_keys").paginate(UserName=user)
    return [key for page in pages for key in page["AccessKeyMetadata"]]


def days_since(moment: datetime) -> int:
    return (datetime.now(timezone.utc) - moment).days


def masked(key_id: str) -> str:
    return f"…{key_id[-4:]}"


def store(secrets, name: str, user: str, key: dict) -> None:
    value = json.dumps(
        {"user": user, "access_key_id": key["AccessKeyId"], "secret": key["SecretAccessKey"]}
    )
    try:
        secrets.put_secret_value(SecretId=name, SecretString=value)
    except secrets.exceptions.ResourceNotFoundException:
        secrets.create_secret(Name=name, SecretString=value)


def rotate(iam, secrets, options: argparse.Namespace) -> int:
    keys = keys_of(iam, options.user)
    old = [key for key in keys if days_since(key["CreateDate"]) >= options.max_age_days]
    if not old:
        print(f"no key of {options.user} is older than {options.max_age_days} days")
        return 0
    if len(keys) >= MAX_KEYS:
        print(f"{options.user} has {MAX_KEYS} keys already: run retire first", file=sys.stderr)
        return 1
    if not options.apply:
        print(f"would make a new key for {options.user} and store it as {options.secret_name}")
        return 0
    key = iam.create_access_key(UserName=options.user)["AccessKey"]
    try:
        store(secrets, options.secret_name, options.user, key)
    except ClientError:
        # a key nobody holds must not stay behind
        iam.delete_access_key(UserName=options.user, AccessKeyId=key["AccessKeyId"])
        raise
    print(f"made {masked(key['AccessKeyId'])}, stored as {options.secret_name}")
    return 0


def retire(iam, options: argparse.Namespace) -> int:
    for key in keys_of(iam, options.user):
        key_id, age = key["AccessKeyId"], days_since(key["CreateDate"])
        if age < options.max_age_days:
            continue
        used = iam.get_access_key_last_used(AccessKeyId=key_id)["AccessKeyLastUsed"]
        last = used.get("LastUsedDate")
        if last is not None and days_since(last) < options.unused_days:
            print(f"keep {masked(key_id)}: used {days_since(last)} days ago, {used['ServiceName']}")
            continue
        if key["Status"] == "Active":
            if options.apply:
                iam.update_access_key(
                    UserName=options.user, AccessKeyId=key_id, Status="Inactive"
                )
            print(f"{'deactivated' if options.apply else 'would deactivate'} {masked(key_id)}")
        elif options.delete:
            if options.apply:
                iam.delete_access_key(UserName=options.user, AccessKeyId=key_id)
            print(f"{'deleted' if options.apply else 'would delete'} {masked(key_id)}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("rotate", "retire"))
    parser.add_argument("--user", required=True)
    parser.add_argument("--secret-name", help="default: iam/<user>/access-key")
    parser.add_argument("--max-age-days", type=int, default=90)
    parser.add_argument("--unused-days", type=int, default=7)
    parser.add_argument("--delete", action="store_true")
    parser.add_argument("--apply", action="store_true")
    options = parser.parse_args()
    options.secret_name = options.secret_name or f"iam/{options.user}/access-key"

    iam = boto3.client("iam")
    if options.step == "rotate":
        return rotate(iam, boto3.client("secretsmanager"), options)
    return retire(iam, options)


if __name__ == "__main__":
    sys.exit(main())
