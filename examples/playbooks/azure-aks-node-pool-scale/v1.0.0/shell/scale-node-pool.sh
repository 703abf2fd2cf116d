#!/usr/bin/env bash
# Scale an AKS node pool: by hand, or by moving the bounds of its autoscaler.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: scale-node-pool.sh --resource-group RG --cluster NAME --pool NAME
                          (--count N | --min N --max N) [--apply]

--count sets a fixed size and refuses a pool with an autoscaler (it would scale it back).
--min/--max set the autoscaler's bounds and switch it on where it is off. Dry run without --apply.
A System pool is never taken below one node.
USAGE
}

group="" cluster="" pool="" count="" min="" max="" apply=false
while (($#)); do
  case "$1" in
    --resource-group) group="${2:?}"; shift 2 ;;
    --cluster) cluster="${2:?}"; shift 2 ;;
    --pool) pool="${2:?}"; shift 2 ;;
    --count) count="${2:?}"; shift 2 ;;
    --min) min="${2:?}"; shift 2 ;;
    --max) max="${2:?}"; shift 2 ;;
    --apply) apply=true; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
  esac
done
[[ -n "$group" && -n "$cluster" && -n "$pool" ]] || { usage >&2; exit 2; }
[[ -n "$count" || (-n "$min" && -n "$max") ]] || { usage >&2; exit 2; }
for number in "$count" "$min" "$max"; do
  [[ "$number" =~ ^[0-9]*$ ]] || { echo "not a number: $number" >&2; exit 2; }
done

where=(--resource-group "$group" --cluster-name "$cluster" --name "$pool")
IFS=$'\t' read -r current autoscaling mode state < <(az aks nodepool show "${where[@]}" \
  --query "[count, enableAutoScaling || \`false\`, mode, provisioningState]" --output tsv | paste -s -)
echo "pool $pool: $current nodes, autoscaler $autoscaling, mode $mode, $state"
[[ "$state" == "Succeeded" ]] || { echo "the pool is busy ($state); try again later" >&2; exit 1; }

lowest="${count:-$min}"
if [[ "$mode" == "System" ]] && ((lowest < 1)); then
  echo "a System pool needs at least one node" >&2
  exit 1
fi
if [[ -n "$count" ]]; then
  if [[ "${autoscaling,,}" == "true" ]]; then
    echo "the autoscaler is on: give --min and --max" >&2
    exit 1
  fi
  change=(az aks nodepool scale "${where[@]}" --node-count "$count")
elif ((min > max)); then
  echo "--min is above --max" >&2
  exit 2
elif [[ "${autoscaling,,}" == "true" ]]; then
  change=(az aks nodepool update "${where[@]}" --update-cluster-autoscaler --min-count "$min" --max-count "$max")
else
  change=(az aks nodepool update "${where[@]}" --enable-cluster-autoscaler --min-count "$min" --max-count "$max")
fi
if [[ "$apply" == true ]]; then
  "${change[@]}" --output none
  az aks nodepool show "${where[@]}" --query '{count: count, min: minCount, max: maxCount}' --output table
else
  echo "would run: ${change[*]}"
fi
