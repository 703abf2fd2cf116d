#!/usr/bin/env bash
# List managed disks that no VM uses; optionally snapshot and delete the old ones.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: unattached-disks.sh --subscription ID [--older-than-days N] [--delete]

--delete makes an incremental snapshot of each unattached disk older than N days (default 30) and
deletes the disk only when the snapshot is complete. Disks tagged keep=true, and disks of Azure
Site Recovery, are never deleted.
USAGE
}

subscription="" days=30 delete=false
while (($#)); do
  case "$1" in
    --subscription) subscription="${2:?}"; shift 2 ;;
    --older-than-days) days="${2:?}"; shift 2 ;;
    --delete) delete=true; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
  esac
done
[[ -n "$subscription" ]] || { usage >&2; exit 2; }
limit=$(($(date -u +%s) - days * 86400))
before="$(date -u -d "@$limit" +%Y-%m-%dT%H:%M:%S 2>/dev/null || date -u -r "$limit" +%Y-%m-%dT%H:%M:%S)"

az disk list --subscription "$subscription" --output tsv --query "
  [?diskState=='Unattached'].[id, name, resourceGroup, location, diskSizeGB, timeCreated, tags.keep || 'no']" |
  while IFS=$'\t' read -r id name group location size created keep; do
    printf '%s\t%s\t%s GiB\t%s\n' "$group" "$name" "$size" "$created"
    [[ "$delete" == true && "$created" < "$before" && "$keep" != "true" && "$name" != asrseeddisk* ]] || continue
    snapshot="before-delete-${name:0:60}"
    az snapshot create --subscription "$subscription" --resource-group "$group" --name "$snapshot" \
      --source "$id" --location "$location" --incremental true --output none < /dev/null
    az snapshot wait --subscription "$subscription" --resource-group "$group" --name "$snapshot" \
      --custom "completionPercent==\`100.0\`" --timeout 3600 < /dev/null
    az disk delete --ids "$id" --yes --output none < /dev/null
    echo "deleted $name, kept as snapshot $snapshot"
  done
