#!/usr/bin/env bash
# Attach a snapshot schedule to every zonal disk of a region that has none.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: attach-schedule.sh --project ID --region REGION [--policy NAME] [--retention-days N]
                          [--start-time HH:00] [--apply]

Makes the schedule when it is missing. Disks labelled snapshot=none are left out. Dry run without
--apply.
USAGE
}

project="" region="" policy="daily-snapshots" days=14 start="03:00" apply=false
while (($#)); do
  case "$1" in
    --project) project="${2:?}"; shift 2 ;;
    --region) region="${2:?}"; shift 2 ;;
    --policy) policy="${2:?}"; shift 2 ;;
    --retention-days) days="${2:?}"; shift 2 ;;
    --start-time) start="${2:?}"; shift 2 ;;
    --apply) apply=true; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
  esac
done
[[ -n "$project" && -n "$region" ]] || { usage >&2; exit 2; }

if ! gcloud compute resource-policies describe "$policy" --project "$project" --region "$region" \
  > /dev/null 2>&1; then
  echo "schedule $policy is missing in $region"
  if [[ "$apply" == true ]]; then
    gcloud compute resource-policies create snapshot-schedule "$policy" --project "$project" \
      --region "$region" --daily-schedule --start-time "$start" --max-retention-days "$days" \
      --on-source-disk-delete keep-auto-snapshots
  fi
fi

rows="$(gcloud compute disks list --project "$project" \
  --filter="zone~^.*/${region}-[a-z]\$ AND -resourcePolicies:* AND NOT labels.snapshot=none" \
  --format='value(name, zone.basename())')"
while IFS=$'\t' read -r disk zone; do
  [[ -n "$disk" ]] || continue
  if [[ "$apply" == true ]]; then
    gcloud compute disks add-resource-policies "$disk" --project "$project" --zone "$zone" \
      --resource-policies "$policy" < /dev/null
  else
    echo "would attach $policy to $disk in $zone"
  fi
done <<< "$rows"
