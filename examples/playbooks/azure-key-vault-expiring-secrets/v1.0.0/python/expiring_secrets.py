"""List Key Vault secrets, keys and certificates that expire soon or never. Read-only.

Only names and dates are read, no values: the caller needs `list`, and no `get`. Needs
azure-identity, azure-keyvault-secrets, azure-keyvault-keys and azure-keyvault-certificates.
"""

from __future__ import annotations

import argparse
import csv
import sys
from datetime import datetime, timedelta, timezone

from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential
from azure.keyvault.certificates import CertificateClient
from azure.keyvault.keys import KeyClient
from azure.keyvault.secrets import SecretClient


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vault", nargs="+", help="vault names, like team-vault")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--never", action="store_true", help="also those without an expiry date")
    options = parser.parse_args()

    credential = DefaultAzureCredential()
    now = datetime.now(timezone.utc)
    limit = now + timedelta(days=options.days)
    writer = csv.writer(sys.stdout)
    writer.writerow(["vault", "kind", "name", "expires", "state"])
    found, failed = 0, 0
    for vault in options.vault:
        url = f"https://{vault}.vault.azure.net"
        listings = {
            "secret": SecretClient(url, credential).list_properties_of_secrets,
            "key": KeyClient(url, credential).list_properties_of_keys,
            "certificate": CertificateClient(url, credential).list_properties_of_certificates,
        }
        for kind, listing in listings.items():
            try:
                for item in listing():
                    if not item.enabled or getattr(item, "managed", False):
                        continue  # a certificate's own key and secret follow the certificate
                    if item.expires_on is None:
                        state = "never" if options.never else None
                    elif item.expires_on <= now:
                        state = "expired"
                    else:
                        state = "soon" if item.expires_on <= limit else None
                    if state:
                        found += 1
                        writer.writerow([vault, kind, item.name, item.expires_on or "", state])
            except HttpResponseError as error:
                failed += 1
                print(f"{vault}: cannot list {kind}s ({error.status_code})", file=sys.stderr)
    print(f"{found} to look after, {failed} listings failed", file=sys.stderr)
    return 2 if failed else int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
