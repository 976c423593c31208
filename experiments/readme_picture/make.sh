#!/usr/bin/env bash
# Draws docs/report.png, the picture in the README, from the report of a real run:
#   make demo SERVE=no && experiments/readme_picture/make.sh [REPORT] [PICTURE]
set -euo pipefail
cd "$(dirname "$0")/../.."
report=$(realpath "${1:-out/demo/report.html}")
picture=$(realpath -m "${2:-docs/report.png}")
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) ||
  { echo "A browser is missing. On Debian: apt install chromium"; exit 1; }
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT

# Nothing is fetched: the report forbids itself every request, and the browser's own are switched off.
"$browser" --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking \
  --disable-component-update --disable-sync --hide-scrollbars --user-data-dir="$profile" \
  --window-size=1100,1400 --screenshot="$picture" "file://$report" >/dev/null 2>"$profile/log" ||
  { cat "$profile/log"; exit 1; }
test -s "$picture" || { cat "$profile/log"; exit 1; }
echo "$picture"
