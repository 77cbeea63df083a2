#!/usr/bin/env bash
# Usage: scripts/setup.sh VENV LEVEL
# Makes the virtual environment VENV fit for LEVEL, and does nothing when it already is:
#   core       the package alone, as a user installs it
#   check      core, linters and type checker
#   test-core  core and the tests' needs; no torch
#   dev        all of these, torch and Ultralytics
#   peers      core and the servers and load generators that benchmarks are paired with
# Versions are pinned by constraints.txt, of the peers by constraints-peers.txt. PYTHON names the
# interpreter (default python3).
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$1
level=$2
python=${PYTHON:-python3}

case $level in
  core)      package=.                      groups=()           services=no ;;
  check)     package='.[postgres,redis,s3,grpc,otel,gcp]' groups=(check)      services=no ;;
  test-core) package='.[tune,postgres,redis,s3,grpc,otel,gcp]' groups=(test generate) services=yes ;;
  dev)       package='.[torch,ultralytics,timm,transformers,keras,openvino,litert,mlflow,wandb,notebook,tune,prune,postgres,redis,s3,grpc,otel,gcp]' groups=(test check generate) services=yes ;;
  peers)     package=.                      groups=(peers)      services=no ;;
  *) echo "setup.sh: no level '$level'; choose core, check, test-core, dev or peers." >&2; exit 2 ;;
esac

# The stamp names what was installed, so that a changed pin or dependency installs again. The
# version file is part of it: an editable install keeps the version it was made with.
wanted=$(cat pyproject.toml constraints*.txt scripts/setup.sh src/visiondyno/__init__.py \
  | sha256sum | cut -c1-64)
is_ready() { [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.ready-$1" 2>/dev/null)" = "$wanted" ]; }
if is_ready "$level" || { [[ $level != test-core && $level != peers ]] && is_ready dev; }; then
  exit 0
fi

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "setup.sh: '$python' is not Python 3.11 or later; install it, or name one: make PYTHON=python3.12 …" >&2
  exit 2
fi
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
  scripts/install_system.sh python3-venv
fi
if [ "$services" = yes ]; then
  missing=()
  command -v chromium >/dev/null || missing+=(chromium fonts-dejavu-core)
  command -v redis-server >/dev/null || missing+=(redis-server)
  compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
  command -v promtool >/dev/null || missing+=(prometheus)
  command -v npm >/dev/null || missing+=(nodejs npm)
  [ ${#missing[@]} = 0 ] || scripts/install_system.sh "${missing[@]}"
fi

if [ "$level" = peers ]; then
  missing=()
  command -v wrk >/dev/null || missing+=(wrk)
  command -v ab >/dev/null || missing+=(apache2-utils)
  [ ${#missing[@]} = 0 ] || scripts/install_system.sh "${missing[@]}"
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check)

# Read here rather than by `pip install --group`, which needs pip 25.1 (Debian 12 has 23.0).
mapfile -t requirements < <("$venv/bin/python" - "${groups[@]}" <<'PYTHON'
import sys, tomllib
groups = tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]
for name in sys.argv[1:]:
    print(*groups[name], sep="\n")
PYTHON
)

echo "Setting up $venv ($level), which can take minutes the first time …"
constraints=constraints.txt
# The peers disagree with some of our pins, and with each other's newest versions.
[ "$level" != peers ] || constraints=constraints-peers.txt
"${pip[@]}" install -qq --constraint "$constraints" --editable "$package" \
  "${requirements[@]}"
if [ "$level" = dev ]; then
  # Ultralytics brings opencv-python, which lands on the same files as opencv-python-headless and
  # needs an X library that servers lack: put the headless files back on top.
  headless=$(grep '^opencv-python-headless==' constraints.txt)
  "${pip[@]}" install -qq --force-reinstall --no-deps "$headless"
fi
printf '%s\n' "$wanted" > "$venv/.ready-$level"
