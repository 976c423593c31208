#!/bin/sh
# What the people at a hospital do, in the demo of docker/compose.yaml alone: here a script stands in for them. At a
# real site the administrator compares fingerprints on the phone, and whoever answers for the data reads the data-use
# card before approving. A second start of the container goes on where the first one was.
#
# usage: site.sh NAME TITLE
set -eu
name="$1" title="$2"
study="${STUDY:-/configs/acc/study.toml}"
home="$ARCHIPEL_SITE_HOME"
post=/post # stands for mail, and for the phone

# A file appears in the post whole or not at all.
send() { cat >"$post/.$1" && mv "$post/.$1" "$post/$1"; }

administrator() {
  archipel site init --name "$name" --title "$title" --tables /data | tee /tmp/said >&2
  sed -n 's/^Fingerprint of this site: //p' /tmp/said | send "$name.fingerprint"
  send "$name.request.json" <"$home/request.json"
  until [ -e "$post/$name.kit.json" ]; do sleep 1; done
  # Without an answer nothing is joined yet: it shows the fingerprint and ends.
  archipel site join "$post/$name.kit.json" </dev/null >/tmp/said 2>&1 || true
  if ! grep -qF "$(cat "$post/hub.fingerprint")" /tmp/said; then
    echo "The fingerprint of the hub is not the one that the hub reads out: not joined." >&2 && return 1
  fi
  archipel site join "$post/$name.kit.json" --yes >&2
}

data_officer() {
  [ -e "$home/state/approvals.json" ] && return
  archipel site check "$study"
  until ls "$home"/state/rosters/*/* >/dev/null 2>&1; do sleep 1; done
  plan="$(basename "$(ls "$home"/state/plans/*.json)" .json)"
  archipel site approve "$plan" --yes --by "the demo's script"
}

until [ -e /data/clinical.csv ]; do sleep 1; done
[ -e "$home/keys/hub.json" ] || administrator
data_officer >&2 &
exec archipel site up
