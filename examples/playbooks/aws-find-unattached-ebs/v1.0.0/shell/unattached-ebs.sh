#!/usr/bin/env bash
# List EBS volumes that are attached to nothing; optionally snapshot and delete the old ones.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: unattached-ebs.sh [--region REGION | --all-regions] [--older-than-days N] [--delete]

Prints region, volume, type, GiB, creation time and Name tag of each volume in state "available".
--delete takes a snapshot of each volume older than N days (default 30), waits for it to complete,
and deletes the volume only then. Volumes tagged keep=true are never deleted.
USAGE
}

region="${AWS_REGION:-${AWS_DEFAULT_REGION:-}}" all=false days=30 delete=false
while (($#)); do
  case "$1" in
    --region) region="${2:?}"; shift 2 ;;
    --all-regions) all=true; shift ;;
    --older-than-days) days="${2:?}"; shift 2 ;;
    --delete) delete=true; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
  esac
done

if [[ "$all" == true ]]; then
  names="$(aws ec2 describe-regions --query 'Regions[].RegionName' --output text | tr '\t' ' ')"
  read -ra regions <<< "$names"
else
  [[ -n "$region" ]] || { usage >&2; exit 2; }
  regions=("$region")
fi
limit=$(($(date -u +%s) - days * 86400))
before="$(date -u -d "@$limit" +%Y-%m-%dT%H:%M:%S 2>/dev/null || date -u -r "$limit" +%Y-%m-%dT%H:%M:%S)"

total=0
for region in "${regions[@]}"; do
  rows="$(aws ec2 describe-volumes --region "$region" \
    --filters Name=status,Values=available --output text --query "
      Volumes[].[VolumeId, VolumeType, Size, CreateTime,
        Tags[?Key=='Name'].Value | [0], Tags[?Key=='keep'].Value | [0]]")"
  while IFS=$'\t' read -r volume type size created name keep; do
    [[ -n "$volume" ]] || continue
    total=$((total + size))
    printf '%s\t%s\t%s\t%s GiB\t%s\t%s\n' "$region" "$volume" "$type" "$size" "$created" "$name"
    if [[ "$delete" == true && "$created" < "$before" && "$keep" != "true" ]]; then
      snapshot="$(aws ec2 create-snapshot --region "$region" --volume-id "$volume" \
        --description "before deleting unattached $volume" --query SnapshotId --output text)"
      aws ec2 wait snapshot-completed --region "$region" --snapshot-ids "$snapshot"
      aws ec2 delete-volume --region "$region" --volume-id "$volume"
      echo "deleted $volume, kept as $snapshot"
    fi
  done <<< "$rows"
done
echo "unattached: $total GiB"
