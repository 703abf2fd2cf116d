#!/usr/bin/env bash
# Disable (not delete) enabled firewall rules that allow SSH or RDP from 0.0.0.0/0.
set -euo pipefail

if (($# < 1)) || [[ "$1" == -h || "$1" == --help ]]; then
  echo "Usage: disable-open-ssh.sh PROJECT [--apply]   (dry run without --apply)"
  exit $(($# < 1 ? 2 : 0))
fi
project="$1"
mode="${2:-}"

rules="$(gcloud compute firewall-rules list --project "$project" \
  --filter='direction=INGRESS AND disabled=false AND sourceRanges:("0.0.0.0/0") AND allowed[].ports:("22" "3389")' \
  --format='value(name)')"
[[ -n "$rules" ]] || { echo "no rule in $project opens SSH or RDP to the internet"; exit 0; }
while read -r rule; do
  if [[ "$mode" == "--apply" ]]; then
    gcloud compute firewall-rules update "$rule" --project "$project" --disabled --quiet < /dev/null
    echo "disabled $rule (undo: gcloud compute firewall-rules update $rule --no-disabled)"
  else
    echo "would disable $rule"
  fi
done <<< "$rules"
