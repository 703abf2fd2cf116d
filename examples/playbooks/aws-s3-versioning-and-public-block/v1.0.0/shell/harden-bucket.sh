#!/usr/bin/env bash
# Turn on versioning and the public access block for one bucket, or for all of an account.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: harden-bucket.sh (--bucket NAME | --all) [--apply]

Without --apply it reports what is missing. A bucket that serves a static website is reported and
left alone, since the public access block would take the site down.
USAGE
}

bucket="" all=false apply=false
while (($#)); do
  case "$1" in
    --bucket) bucket="${2:?}"; shift 2 ;;
    --all) all=true; shift ;;
    --apply) apply=true; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
  esac
done
if [[ "$all" == true ]]; then
  names="$(aws s3api list-buckets --query 'Buckets[].Name' --output text | tr '\t' ' ')"
  read -ra buckets <<< "$names"
elif [[ -n "$bucket" ]]; then
  buckets=("$bucket")
else
  usage >&2
  exit 2
fi

for name in "${buckets[@]}"; do
  if aws s3api get-bucket-website --bucket "$name" > /dev/null 2>&1; then
    echo "review  $name serves a website"
    continue
  fi
  versioning="$(aws s3api get-bucket-versioning --bucket "$name" --query Status --output text)"
  blocked="$(aws s3api get-public-access-block --bucket "$name" --output text --query \
    'PublicAccessBlockConfiguration.[BlockPublicAcls, IgnorePublicAcls, BlockPublicPolicy, RestrictPublicBuckets]' \
    2>/dev/null || true)"
  if [[ "$versioning" != "Enabled" ]]; then
    if [[ "$apply" == true ]]; then
      aws s3api put-bucket-versioning --bucket "$name" --versioning-configuration Status=Enabled
    fi
    echo "$([[ "$apply" == true ]] && echo enabled || echo missing) versioning $name"
  fi
  if [[ "$blocked" != $'True\tTrue\tTrue\tTrue' ]]; then
    if [[ "$apply" == true ]]; then
      aws s3api put-public-access-block --bucket "$name" --public-access-block-configuration \
        BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true
    fi
    echo "$([[ "$apply" == true ]] && echo enabled || echo missing) public access block $name"
  fi
done
