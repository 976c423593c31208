#!/usr/bin/env bash
# Builds the images from the signed wheelhouse; `make images` calls it. ENGINE=podman|docker chooses, else what is there.
# The first call of each pair may use the network (Debian's packages), the second has none (Python's).
set -euo pipefail
cd "$(dirname "$0")/.."

engine="${ENGINE:-$(command -v podman || command -v docker || true)}"
if [ -z "$engine" ]; then
  echo "Neither podman nor docker is here. On Debian: apt install podman" >&2
  exit 1
fi
wheelhouse="${WHEELHOUSE:-out/wheelhouse}"
# Elsewhere than in a checkout with .venv: Debian's python3-cryptography and python3-packaging are enough.
python=.venv/bin/python
[ -x "$python" ] || python=python3
roles=("${@:-}")
[ -n "${roles[0]}" ] || roles=(hub site site-network)

version="$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml | head -n 1)"
formats=()
# podman's own format has no health check.
case "$engine" in *podman*) formats=(--format docker) ;; esac

for role in "${roles[@]}"; do
  folder="$wheelhouse/$role"
  "$python" docker/wheelhouse.py verify "$folder"
  file="docker/${role%%-*}.Dockerfile"
  name="localhost/archipel-$role"
  "$engine" build "${formats[@]}" --quiet --target tools -f "$file" "$folder" >/dev/null
  "$engine" build "${formats[@]}" --quiet --network=none -f "$file" -t "$name:$version" -t "$name:latest" \
    --build-arg ROLE="$role" \
    --build-arg VERSION="$version" \
    --build-arg SOURCE_COMMIT="$(sed -n 's/^ "source_commit": "\(.*\)",$/\1/p' "$folder/wheelhouse.json")" \
    --build-arg REQUIREMENTS_SHA256="$(sha256sum <"$folder/requirements.txt" | cut -d' ' -f1)" \
    --build-arg LIST_SHA256="$(sha256sum <"$folder/wheelhouse.json" | cut -d' ' -f1)" \
    "$folder" >/dev/null
  "$engine" image inspect "$name:$version" --format "$name:$version {{.Size}}" | awk '{printf "%s: %.0f MB\n", $1, $2 / 1e6}'
done
