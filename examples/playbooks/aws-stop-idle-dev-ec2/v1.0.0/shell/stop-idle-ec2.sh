#!/usr/bin/env bash
# Stop tagged EC2 instances whose CPU stayed below a threshold.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: stop-idle-ec2.sh --region REGION [--tag KEY=VALUE] [--hours N] [--max-cpu PERCENT] [--apply]

Defaults: --tag environment=dev, --hours 12, --max-cpu 3. Dry run without --apply. Instances that
run for less than the given hours, or have no datapoints, are kept, and so are members of an Auto
Scaling group (it would replace them) and instances whose instance store would be lost.
USAGE
}

region="" tag="environment=dev" hours=12 max_cpu=3 apply=false
while (($#)); do
  case "$1" in
    --region) region="${2:?}"; shift 2 ;;
    --tag) tag="${2:?}"; shift 2 ;;
    --hours) hours="${2:?}"; shift 2 ;;
    --max-cpu) max_cpu="${2:?}"; shift 2 ;;
    --apply) apply=true; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
  esac
done
[[ -n "$region" ]] || { usage >&2; exit 2; }

now="$(date -u +%s)"
iso() { date -u -d "@$1" +%Y-%m-%dT%H:%M:%SZ 2>/dev/null || date -u -r "$1" +%Y-%m-%dT%H:%M:%SZ; }
start="$(iso $((now - hours * 3600)))"
end="$(iso "$now")"

instances="$(aws ec2 describe-instances --region "$region" \
  --filters "Name=tag:${tag%%=*},Values=${tag#*=}" Name=instance-state-name,Values=running \
  --query "Reservations[].Instances[?RootDeviceType=='ebs' && LaunchTime<='${start}'
    && !not_null(Tags[?Key=='aws:autoscaling:groupName'].Value | [0])][].[InstanceId, InstanceType]" \
  --output text)"
[[ -n "$instances" ]] || { echo "no running instance with tag $tag is older than $hours h"; exit 0; }

idle=()
while IFS=$'\t' read -r instance type; do
  cpu="$(aws cloudwatch get-metric-statistics --region "$region" --namespace AWS/EC2 \
    --metric-name CPUUtilization --dimensions "Name=InstanceId,Value=$instance" \
    --start-time "$start" --end-time "$end" --period 3600 --statistics Maximum \
    --query 'max(Datapoints[].Maximum)' --output text)"
  if [[ "$cpu" == "None" ]]; then
    echo "keep    $instance $type: no datapoints"
  elif awk -v cpu="$cpu" -v limit="$max_cpu" 'BEGIN { exit !(cpu < limit) }'; then
    echo "idle    $instance $type: CPU at most $cpu %"
    idle+=("$instance")
  else
    echo "keep    $instance $type: CPU up to $cpu %"
  fi
done <<< "$instances"

if ((${#idle[@]} == 0)); then
  echo "nothing to stop"
elif [[ "$apply" == true ]]; then
  aws ec2 stop-instances --region "$region" --instance-ids "${idle[@]}" \
    --query 'StoppingInstances[].[InstanceId, CurrentState.Name]' --output text
else
  echo "dry run: ${#idle[@]} would be stopped; repeat with --apply"
fi
