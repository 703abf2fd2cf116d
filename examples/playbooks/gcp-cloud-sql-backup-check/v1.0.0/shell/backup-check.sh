#!/usr/bin/env bash
# Check each Cloud SQL instance for automated backups, point-in-time recovery and a fresh backup.
set -euo pipefail

usage() { echo "Usage: backup-check.sh [--max-age-hours N] PROJECT [PROJECT...]   (default 30 h)"; }

hours=30
projects=()
while (($#)); do
  case "$1" in
    --max-age-hours) hours="${2:?}"; shift 2 ;;
    -h | --help) usage; exit 0 ;;
    -*) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
    *) projects+=("$1"); shift ;;
  esac
done
((${#projects[@]})) || { usage >&2; exit 2; }
limit=$(($(date -u +%s) - hours * 3600))
oldest="$(date -u -d "@$limit" +%Y-%m-%dT%H:%M:%S 2>/dev/null || date -u -r "$limit" +%Y-%m-%dT%H:%M:%S)"

bad=0
for project in "${projects[@]}"; do
  # replicas are not backed up: their primary is
  rows="$(gcloud sql instances list --project "$project" \
    --filter='instanceType=CLOUD_SQL_INSTANCE' --format="csv[no-heading](name,
      settings.backupConfiguration.enabled,
      settings.backupConfiguration.pointInTimeRecoveryEnabled,
      settings.backupConfiguration.binaryLogEnabled)")"
  while IFS=, read -r instance enabled pitr binlog; do
    [[ -n "$instance" ]] || continue
    problems=()
    [[ "$enabled" == "True" ]] || problems+=("automated backups are off")
    [[ "$pitr" == "True" || "$binlog" == "True" ]] || problems+=("no point-in-time recovery")
    last="$(gcloud sql backups list --project "$project" --instance "$instance" \
      --filter='status=SUCCESSFUL' --sort-by='~endTime' --limit 1 --format='value(endTime)' < /dev/null)"
    if [[ -z "$last" ]]; then
      problems+=("no successful backup")
    elif [[ "$last" < "$oldest" ]]; then
      problems+=("the last backup is of $last")
    fi
    if ((${#problems[@]})); then
      bad=$((bad + 1))
      printf 'BAD  %s/%s:' "$project" "$instance"
      printf ' %s;' "${problems[@]}"
      printf '\n'
    else
      echo "ok   $project/$instance: $last"
    fi
  done <<< "$rows"
done
echo "$bad instances need attention" >&2
((bad == 0))
