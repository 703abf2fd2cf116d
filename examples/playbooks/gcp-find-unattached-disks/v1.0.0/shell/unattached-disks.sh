#!/usr/bin/env bash
# List persistent disks without users; optionally snapshot and delete the old ones.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: unattached-disks.sh --project ID [--older-than-days N] [--delete]

A disk counts as unattached when no instance uses it, and as old when it was last detached (or, if
it never was attached, created) more than N days ago (default 30). --delete snapshots it first.
Disks labelled keep=true are never deleted.
USAGE
}

project="" days=30 delete=false
while (($#)); do
  case "$1" in
    --project) project="${2:?}"; shift 2 ;;
    --older-than-days) days="${2:?}"; shift 2 ;;
    --delete) delete=true; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
  esac
done
[[ -n "$project" ]] || { usage >&2; exit 2; }
limit=$(($(date -u +%s) - days * 86400))

epoch() { date -d "$1" +%s 2>/dev/null || date -j -f '%Y-%m-%dT%H:%M:%S' "${1:0:19}" +%s; }

rows="$(gcloud compute disks list --project "$project" --filter='-users:*' \
  --format='csv[no-heading](name, zone.basename(), region.basename(), sizeGb, creationTimestamp,
    lastDetachTimestamp, labels.keep)')"
while IFS=, read -r disk zone region size created detached keep; do
  [[ -n "$disk" ]] || continue
  since="${detached:-$created}"
  printf '%s\t%s\t%s GB\tunused since %s\n' "${zone:-$region}" "$disk" "$size" "$since"
  [[ "$delete" == true && "$keep" != "true" ]] && (($(epoch "$since") < limit)) || continue
  place=(--zone "$zone")
  [[ -n "$zone" ]] || place=(--region "$region")
  snapshot="before-delete-${disk:0:40}-$(date -u +%Y%m%d)"
  gcloud compute disks snapshot "$disk" --project "$project" "${place[@]}" \
    --snapshot-names "$snapshot" --quiet < /dev/null
  gcloud compute disks delete "$disk" --project "$project" "${place[@]}" --quiet < /dev/null
  echo "deleted $disk, kept as snapshot $snapshot"
done <<< "$rows"
