#!/usr/bin/env bash
set -euo pipefail
printf '<%s>' "$@"
