#!/usr/bin/env bash
# Usage: scripts/setup_node.sh FOLDER
# Makes the npm project in FOLDER fit to build and test, and does nothing when it already is.
# Versions are pinned by its package-lock.json. Node.js 18 or later comes from the system.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$1
if ! command -v npm >/dev/null; then
  scripts/install_system.sh nodejs npm
fi
major=$(node --print 'process.versions.node.split(".")[0]')
if [ "$major" -lt 18 ]; then
  echo "setup_node.sh: Node.js $major is too old; install 18 or later." >&2
  exit 2
fi

wanted=$(cat "$folder/package.json" "$folder/package-lock.json" | sha256sum | cut -c1-64)
stamp=$folder/node_modules/.ready
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  (cd "$folder" && npm ci --no-fund --no-audit --loglevel=error)
  printf '%s\n' "$wanted" > "$stamp"
fi
