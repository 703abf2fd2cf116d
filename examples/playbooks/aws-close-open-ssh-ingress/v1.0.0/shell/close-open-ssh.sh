#!/usr/bin/env bash
# Revoke security-group ingress rules that open a port (22 by default) to the whole internet.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: close-open-ssh.sh [--region REGION] [--port PORT] [--exclude-tag KEY=VALUE]
                         [--include-all-traffic] [--apply]

Finds ingress rules from 0.0.0.0/0 or ::/0 that cover PORT (default 22). Without --apply it only
prints what it would revoke. Rules for all protocols (-1) also carry other traffic, so they are
reported and left alone unless --include-all-traffic is given.
USAGE
}

region="${AWS_REGION:-${AWS_DEFAULT_REGION:-}}"
port=22
exclude_tag=""
include_all=false
apply=false
while (($#)); do
  case "$1" in
    --region) region="${2:?--region needs a value}"; shift 2 ;;
    --port) port="${2:?--port needs a value}"; shift 2 ;;
    --exclude-tag) exclude_tag="${2:?--exclude-tag needs KEY=VALUE}"; shift 2 ;;
    --include-all-traffic) include_all=true; shift ;;
    --apply) apply=true; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
  esac
done
[[ -n "$region" ]] || { echo "give --region or set AWS_REGION" >&2; exit 2; }
[[ "$port" =~ ^[0-9]+$ ]] && ((port >= 1 && port <= 65535)) || { echo "not a port: $port" >&2; exit 2; }

excluded_groups=""
if [[ -n "$exclude_tag" ]]; then
  excluded_groups="$(aws ec2 describe-security-groups --region "$region" \
    --filters "Name=tag:${exclude_tag%%=*},Values=${exclude_tag#*=}" \
    --query 'SecurityGroups[].GroupId' --output text)"
fi

# The CLI follows the pages of describe-security-group-rules by itself.
rules="$(aws ec2 describe-security-group-rules --region "$region" --output text --query "
  SecurityGroupRules[?IsEgress==\`false\`
    && (CidrIpv4=='0.0.0.0/0' || CidrIpv6=='::/0')
    && (IpProtocol=='-1'
        || (IpProtocol=='tcp' && FromPort<=\`${port}\` && ToPort>=\`${port}\`))
  ].[GroupId, SecurityGroupRuleId, IpProtocol, FromPort, ToPort, CidrIpv4 || CidrIpv6]")"

if [[ -z "$rules" ]]; then
  echo "no ingress rule in $region opens port $port to the internet"
  exit 0
fi

found=0 revoked=0
while IFS=$'\t' read -r group rule protocol from to cidr; do
  found=$((found + 1))
  if [[ " ${excluded_groups//$'\t'/ } " == *" $group "* ]]; then
    echo "skip    $group $rule $cidr (excluded by tag)"
    continue
  fi
  if [[ "$protocol" == "-1" && "$include_all" == false ]]; then
    echo "review  $group $rule $cidr allows all traffic; narrow it by hand or use --include-all-traffic"
    continue
  fi
  if [[ "$apply" == false ]]; then
    echo "would revoke $group $rule $protocol $from-$to $cidr"
    continue
  fi
  aws ec2 revoke-security-group-ingress --region "$region" --group-id "$group" \
    --security-group-rule-ids "$rule" > /dev/null
  echo "revoked $group $rule $protocol $from-$to $cidr"
  revoked=$((revoked + 1))
done <<< "$rules"
echo "found $found, revoked $revoked$([[ "$apply" == true ]] || echo ' (dry run: repeat with --apply)')"
