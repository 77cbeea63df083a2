#!/bin/sh
# For continuous integration: fail when a model has become less accurate than its baseline.
#   gate.sh BASELINE MODEL DATA
# Exit code 3 where mAP fell by more than one hundredth; the message names model and change.
# Make a baseline with: dyno compare MODEL --data DATA --out baseline  (baseline/report.json)
set -eu
dyno compare "$2" --data "$3" --duration 1 --out "${OUT:-gate-report}" \
  --baseline "$1" --fail-if "map_50_95<-0.01"
