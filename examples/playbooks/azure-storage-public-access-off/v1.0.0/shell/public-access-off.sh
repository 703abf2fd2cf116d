#!/usr/bin/env bash
# Turn off anonymous blob access on storage accounts, and require TLS 1.2 and https.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: public-access-off.sh --subscription ID [--resource-group NAME] [--apply]

Without --apply it lists the accounts and the containers that are readable by anyone now. An
account with the tag public-blob-approved=true is reported and left alone.
USAGE
}

subscription="" group="" apply=false
while (($#)); do
  case "$1" in
    --subscription) subscription="${2:?}"; shift 2 ;;
    --resource-group) group="${2:?}"; shift 2 ;;
    --apply) apply=true; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
  esac
done
[[ -n "$subscription" ]] || { usage >&2; exit 2; }

list=(az storage account list --subscription "$subscription" --output tsv)
[[ -z "$group" ]] || list+=(--resource-group "$group")
accounts="$("${list[@]}" --query "[?allowBlobPublicAccess!=\`false\`].[id, name,
  tags.\"public-blob-approved\" || 'no']")"
[[ -n "$accounts" ]] || { echo "no storage account allows anonymous access"; exit 0; }

while IFS=$'\t' read -r id name approved; do
  # container-rm asks the control plane, so no account key is needed
  public="$(az storage container-rm list --storage-account "$id" --output tsv \
    --query "[?publicAccess!=null && publicAccess!='None'].name" | tr '\n' ' ')"
  echo "$name: public containers: ${public:-none}"
  if [[ "$approved" == "true" ]]; then
    echo "  left alone: public-blob-approved=true"
  elif [[ "$apply" == true ]]; then
    az storage account update --ids "$id" --allow-blob-public-access false \
      --min-tls-version TLS1_2 --https-only true --output none
    echo "  anonymous access is off"
  else
    echo "  would turn anonymous access off"
  fi
done <<< "$accounts"
