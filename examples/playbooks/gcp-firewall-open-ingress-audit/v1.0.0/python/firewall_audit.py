"""List VPC firewall rules that let the internet reach given ports. Read-only.

Needs google-cloud-compute. Prints CSV; exits 1 when an enabled rule was found. Hierarchical
firewall policies are not read.
"""

from __future__ import annotations

import argparse
import csv
import sys

from google.cloud import compute_v1

WORLD = {"0.0.0.0/0", "::/0"}


def covers(allowed, port: int) -> bool:
    if allowed.I_p_protocol not in {"tcp", "6", "all"}:
        return False
    if not allowed.ports:
        return True  # no ports named means all of them
    for text in allowed.ports:
        low, _, high = text.partition("-")
        if int(low) <= port <= int(high or low):
            return True
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", nargs="+")
    parser.add_argument("--port", type=int, action="append", help="default: 22, 3389, 3306, 5432")
    parser.add_argument("--include-disabled", action="store_true")
    options = parser.parse_args()
    ports = options.port or [22, 3389, 3306, 5432]

    client = compute_v1.FirewallsClient()
    writer = csv.writer(sys.stdout)
    writer.writerow(["project", "rule", "network", "priority", "ports", "targets", "disabled"])
    found = 0
    for project in options.project:
        for rule in client.list(project=project):
            if rule.direction != "INGRESS" or not WORLD.intersection(rule.source_ranges):
                continue
            if rule.disabled and not options.include_disabled:
                continue
            hit = [port for port in ports if any(covers(entry, port) for entry in rule.allowed)]
            if not hit:
                continue
            found += not rule.disabled
            targets = [*rule.target_tags, *rule.target_service_accounts] or ["all instances"]
            writer.writerow(
                [
                    project,
                    rule.name,
                    rule.network.rsplit("/", 1)[-1],
                    rule.priority,
                    " ".join(map(str, hit)),
                    " ".join(targets),
                    rule.disabled,
                ]
            )
    print(f"{found} enabled rules open a port to the internet", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
