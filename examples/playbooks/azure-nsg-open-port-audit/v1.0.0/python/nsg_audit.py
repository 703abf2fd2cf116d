"""List network-security-group rules that let the internet reach management ports. Read-only.

Needs azure-identity and azure-mgmt-network. Prints CSV; exits 1 when a rule was found.
"""

from __future__ import annotations

import argparse
import csv
import sys

from azure.identity import DefaultAzureCredential
from azure.mgmt.network import NetworkManagementClient

ANYWHERE = {"*", "0.0.0.0/0", "::/0", "internet", "any"}


def covers(ranges: list[str], port: int) -> bool:
    for text in ranges:
        low, _, high = text.partition("-")
        if text == "*" or (low.isdigit() and int(low) <= port <= int(high or low)):
            return True
    return False


def opens(rule, port: int) -> bool:
    sources = [rule.source_address_prefix or "", *(rule.source_address_prefixes or [])]
    ports = [rule.destination_port_range or "", *(rule.destination_port_ranges or [])]
    return (
        rule.direction == "Inbound"
        and rule.access == "Allow"
        and rule.protocol.lower() in {"*", "tcp"}
        and any(source.lower() in ANYWHERE for source in sources)
        and covers([text for text in ports if text], port)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscription", action="append", required=True, help="may be repeated")
    parser.add_argument("--port", type=int, action="append", help="default: 22, 3389, 5985, 5986")
    options = parser.parse_args()
    ports = options.port or [22, 3389, 5985, 5986]

    credential = DefaultAzureCredential()
    writer = csv.writer(sys.stdout)
    writer.writerow(["nsg", "rule", "priority", "ports", "subnets", "interfaces"])
    found = 0
    for subscription in options.subscription:
        client = NetworkManagementClient(credential, subscription)
        for nsg in client.network_security_groups.list_all():
            for rule in nsg.security_rules or []:
                hit = [port for port in ports if opens(rule, port)]
                if not hit:
                    continue
                found += 1
                writer.writerow(
                    [
                        nsg.id,
                        rule.name,
                        rule.priority,
                        " ".join(map(str, hit)),
                        len(nsg.subnets or []),
                        len(nsg.network_interfaces or []),
                    ]
                )
    print(f"{found} rules open a port to the internet", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
