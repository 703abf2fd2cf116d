#!/usr/bin/env bash
# Reset the break-glass administrator of an Azure SQL server and keep the new password in Key Vault.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: reset-admin.sh --resource-group RG --server NAME --vault NAME [--secret NAME] [--apply]

Generates a password, writes it to the vault first (so it cannot be lost), then sets it on the
server. It is printed nowhere. Dry run without --apply.
USAGE
}

group="" server="" vault="" entry="" apply=false
while (($#)); do
  case "$1" in
    --resource-group) group="${2:?}"; shift 2 ;;
    --server) server="${2:?}"; shift 2 ;;
    --vault) vault="${2:?}"; shift 2 ;;
    --secret) entry="${2:?}"; shift 2 ;;
    --apply) apply=true; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
  esac
done
[[ -n "$group" && -n "$server" && -n "$vault" ]] || { usage >&2; exit 2; }
entry="${entry:-sql-$server-admin}"

login="$(az sql server show --resource-group "$group" --name "$server" --query administratorLogin --output tsv)"
if [[ "$apply" == false ]]; then
  echo "would reset $login on $server and store the password as $vault/$entry"
  exit 0
fi
umask 077
file="$(mktemp)"
trap 'rm -f "$file"' EXIT
# base64 of 30 bytes has no padding; the prefix meets the server's rule on character classes
printf 'Aa1-%s' "$(openssl rand -base64 30)" > "$file"
az keyvault secret set --vault-name "$vault" --name "$entry" --file "$file" --encoding utf-8 --output none
# the CLI reads @file itself, so the password is not among the process's arguments
az sql server update --resource-group "$group" --name "$server" --admin-password "@$file" --output none
echo "reset $login on $server; the password is in $vault/$entry"
