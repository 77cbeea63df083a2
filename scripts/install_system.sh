#!/usr/bin/env bash
# Usage: scripts/install_system.sh PACKAGE…
# Installs Debian packages, as root or through sudo. Called only for what is missing.
set -euo pipefail

if ! command -v apt-get >/dev/null; then
  echo "install_system.sh: no apt-get here; install the equivalent of: $*" >&2
  exit 2
fi
if [ "$(id -u)" = 0 ]; then
  as_root=()
elif command -v sudo >/dev/null; then
  as_root=(sudo)
else
  echo "install_system.sh: needs root or sudo to install: $*" >&2
  exit 2
fi

echo "Installing system packages: $* …"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# dpkg's thousand lines matter only when something went wrong.
install() {
  "${as_root[@]}" apt-get update -qq &&
    "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@"
}
if ! install "$@" >"$log" 2>&1; then
  cat "$log" >&2
  echo "install_system.sh: apt-get failed; its output is above." >&2
  exit 1
fi
