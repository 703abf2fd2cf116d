#!/usr/bin/env bash
# List the largest CloudWatch log groups, and those that keep their entries for ever.
set -euo pipefail
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"

usage() {
  cat <<'USAGE'
Usage: main.sh --region REGION [--top N]

Zeigt die N größten Log-Gruppen (20) mit ihrer Aufbewahrungsfrist. Ändert nichts.
USAGE
}

region="" top=20
while (($#)); do
  case "$1" in
    --region) region="${2:?}"; shift 2 ;;
    --top) top="${2:?}"; shift 2 ;;
    -h | --help) usage; exit 0 ;;
    *) echo "unbekannte Option: $1" >&2; usage >&2; exit 2 ;;
  esac
done
[[ -n "$region" && "$top" =~ ^[0-9]+$ ]] || { usage >&2; exit 2; }

aws logs describe-log-groups --region "$region" \
  --query 'logGroups[].[storedBytes, retentionInDays, logGroupName]' --output text |
  sort -rn | awk -v top="$top" 'NR <= top' |
  while IFS=$'\t' read -r bytes days name; do
    [[ "$days" != "None" ]] || days="für immer"
    printf '%-10s %-10s %s\n' "$("$here/lib/lesbar" "$bytes")" "$days" "$name"
  done
