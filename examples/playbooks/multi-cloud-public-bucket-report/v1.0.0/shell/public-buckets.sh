#!/usr/bin/env bash
# One report of publicly readable object storage in AWS, Azure and GCP. Read-only.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: public-buckets.sh [--aws] [--azure SUBSCRIPTION] [--gcp PROJECT]

Prints cloud, bucket or container, and why it counts as public, separated by tabs. Exits 1 when
something is public. Each option needs that cloud's CLI, logged in.
USAGE
}

found=0
report() {
  printf '%s\t%s\t%s\n' "$1" "$2" "$3"
  found=$((found + 1))
}

check_aws() {
  local names bucket public grants
  names="$(aws s3api list-buckets --query 'Buckets[].Name' --output text)"
  for bucket in $names; do
    public="$(aws s3api get-bucket-policy-status --bucket "$bucket" \
      --query PolicyStatus.IsPublic --output text 2>/dev/null || echo False)"
    [[ "$public" != "True" ]] || report aws "$bucket" "bucket policy"
    grants="$(aws s3api get-bucket-acl --bucket "$bucket" --output text --query \
      "Grants[?ends_with(not_null(Grantee.URI, ''), '/AllUsers')].Permission" 2>/dev/null || true)"
    [[ -z "$grants" ]] || report aws "$bucket" "ACL ${grants//$'\t'/,}"
  done
}

check_azure() {
  local accounts rows account container access
  accounts="$(az storage account list --subscription "$1" --output tsv \
    --query "[?allowBlobPublicAccess==\`true\`].id")"
  while read -r account; do
    [[ -n "$account" ]] || continue
    rows="$(az storage container-rm list --storage-account "$account" --output tsv --query \
      "[?publicAccess!=null && publicAccess!='None'].[name, publicAccess]" < /dev/null)"
    while IFS=$'\t' read -r container access; do
      [[ -n "$container" ]] || continue
      report azure "${account##*/}/$container" "public access: $access"
    done <<< "$rows"
  done <<< "$accounts"
}

check_gcp() {
  local rows bucket members
  rows="$(gcloud storage buckets list --project "$1" --format='value(storage_url)')"
  while read -r bucket; do
    [[ -n "$bucket" ]] || continue
    members="$(gcloud storage buckets get-iam-policy "$bucket" --format='value(bindings[].members)' \
      < /dev/null | grep -oE 'allUsers|allAuthenticatedUsers' | sort -u | tr '\n' ' ' || true)"
    [[ -z "$members" ]] || report gcp "$bucket" "IAM: $members"
  done <<< "$rows"
}

(($#)) || { usage >&2; exit 2; }
while (($#)); do
  case "$1" in
    --aws) check_aws; shift ;;
    --azure) check_azure "${2:?--azure needs a subscription}"; shift 2 ;;
    --gcp) check_gcp "${2:?--gcp needs a project}"; shift 2 ;;
    -h | --help) usage; exit 0 ;;
    *) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
  esac
done
echo "$found public buckets or containers" >&2
((found == 0))
