#!/usr/bin/env bash
# List inbound Allow rules from anywhere to SSH or RDP, with the Azure CLI alone. Read-only.
# Port ranges other than the exact port and * are not expanded here; the Python script does that.
set -euo pipefail

if (($# < 1)) || [[ "$1" == -h || "$1" == --help ]]; then
  echo "Usage: nsg-audit.sh SUBSCRIPTION [SUBSCRIPTION...]"
  exit $(($# < 1 ? 2 : 0))
fi

for subscription in "$@"; do
  az network nsg list --subscription "$subscription" --output tsv --query "
    [].{nsg: name, group: resourceGroup, rules: securityRules[?direction=='Inbound' && access=='Allow'
      && (sourceAddressPrefix=='*' || sourceAddressPrefix=='Internet' || sourceAddressPrefix=='0.0.0.0/0')
      && (destinationPortRange=='22' || destinationPortRange=='3389' || destinationPortRange=='*'
          || contains(destinationPortRanges, '22') || contains(destinationPortRanges, '3389'))]}
    [?rules[0]].[group, nsg, join(' ', rules[].name)]"
done
