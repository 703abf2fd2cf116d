#!/usr/bin/env bash
# List ACM certificates that expire soon, and whether ACM will renew them by itself. Read-only.
set -euo pipefail

usage() { echo "Usage: expiring-certificates.sh [--days N] REGION [REGION...]   (default 30 days)"; }

days=30
regions=()
while (($#)); do
  case "$1" in
    --days) days="${2:?--days needs a number}"; shift 2 ;;
    -h | --help) usage; exit 0 ;;
    -*) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
    *) regions+=("$1"); shift ;;
  esac
done
((${#regions[@]})) || { usage >&2; exit 2; }

limit=$(($(date -u +%s) + days * 86400))
until="$(date -u -d "@$limit" +%Y-%m-%dT%H:%M:%S 2>/dev/null || date -u -r "$limit" +%Y-%m-%dT%H:%M:%S)"

found=0
for region in "${regions[@]}"; do
  # CloudFront's certificates are in us-east-1: name that region, too.
  rows="$(aws acm list-certificates --region "$region" --certificate-statuses ISSUED \
    --includes keyTypes=RSA_1024,RSA_2048,RSA_3072,RSA_4096,EC_prime256v1,EC_secp384r1,EC_secp521r1 \
    --query "CertificateSummaryList[?NotAfter<='${until}'].[NotAfter, DomainName, Type,
      RenewalEligibility, InUse, CertificateArn]" --output text)"
  while IFS=$'\t' read -r expires domain type eligibility in_use arn; do
    [[ -n "$arn" ]] || continue
    found=$((found + 1))
    if [[ "$type" == "AMAZON_ISSUED" && "$eligibility" == "ELIGIBLE" ]]; then
      advice="ACM renews it if its DNS validation record is still there"
    elif [[ "$in_use" == "False" ]]; then
      advice="not in use: delete it or let it expire"
    else
      advice="renew and import it by hand"
    fi
    printf '%s\t%s\t%s\t%s\t%s\n' "$expires" "$region" "$domain" "$arn" "$advice"
  done <<< "$rows"
done
echo "$found certificates expire within $days days" >&2
((found == 0))
