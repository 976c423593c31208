#!/bin/sh
# What the people at the hub do, in the demo of docker/compose.yaml alone: here a script stands in for them. At a real
# hub the administrator compares fingerprints on the phone, and the data scientist launches when everybody is there.
# A second start of the container goes on where the first one was.
set -eu
sites="site-a site-b site-c site-d"
study="${STUDY:-/configs/acc/study.toml}"
home="$ARCHIPEL_HUB_HOME"
results="$home/results/demo"
post=/post # stands for mail, and for the phone

# A file appears in the post whole or not at all.
send() { cat >"$post/.$1" && mv "$post/.$1" "$post/$1"; }

administrator() {
  for site in $sites; do
    [ -e "$post/$site.kit.json" ] && continue
    until [ -e "$post/$site.request.json" ]; do sleep 1; done
    archipel hub enrol "$post/$site.request.json" --out /tmp/kit.json >/tmp/said
    cat /tmp/said
    if ! grep -qF "$(cat "$post/$site.fingerprint")" /tmp/said; then
      archipel hub revoke "$site"
      echo "The fingerprint of $site is not the one that $site reads out: revoked." && return 1
    fi
    send "$site.kit.json" </tmp/kit.json
  done
}

data_scientist() {
  [ -e "$results/report.html" ] && return
  until archipel hub health >/dev/null 2>&1; do sleep 1; done
  mkdir -p "$results"
  [ -s "$results/run" ] || archipel launch "$study" | sed -n 's/^Launched: //p' >"$results/run"
  archipel runs watch "$(cat "$results/run")" && archipel runs report "$(cat "$results/run")" --out "$results"
}

archipel hub init --host hub | tee /tmp/said >&2
sed -n 's/^Fingerprint of the hub.*: //p' /tmp/said | send hub.fingerprint
{ administrator && data_scientist; } >&2 &
exec archipel hub up
