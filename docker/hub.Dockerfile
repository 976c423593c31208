# The hub's image. `make images` builds it, in two calls: the first, with a network, ends at `tools` (Debian's packages);
# the second runs with --network=none, so pip has the signed wheelhouse and nothing else. The build context is
# out/wheelhouse/hub, mounted while it is needed: no layer keeps a wheel.
FROM docker.io/library/debian:bookworm-slim AS python
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3.11

FROM python AS tools
RUN DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3.11-venv \
 && python3.11 -m venv /opt/pip \
 && python3.11 -m venv --without-pip /opt/archipel

# What the image keeps of Debian: Python and what it stands on. Nothing that installs, mounts, logs in or changes users.
# /var/lib/dpkg/status stays true, for scanners.
FROM python AS root
RUN groupadd --gid 10001 archipel \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/archipel --shell /usr/sbin/nologin archipel \
 && install -d -m 0700 -o archipel -g archipel /var/lib/archipel \
 && install -d -o archipel -g archipel /data /post \
 # Without their scripts, which talk to services that are not here.
 && rm -f /var/lib/dpkg/info/*.prerm /var/lib/dpkg/info/*.postrm \
 && dpkg --purge --force-all --force-remove-essential --no-triggers \
      adduser apt bsdutils debconf debian-archive-keyring e2fsprogs gpgv init-system-helpers libapt-pkg6.0 libext2fs2 \
      login logsave mount passwd sysvinit-utils util-linux util-linux-extra perl-base >/dev/null 2>&1 \
 && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
 && find /usr/share/doc -type f ! -name copyright -delete \
 && rm -rf /usr/share/man /usr/share/info /usr/share/locale /usr/share/lintian /var/lib/apt /var/cache/* /var/log/* \
      /var/lib/dpkg/info /var/lib/dpkg/*-old /var/lib/systemd /etc/apt /etc/cron.* /etc/*- /root/.[a-z]*

FROM tools AS build
# Names the content of the mounted folder, for the cache as for the check.
ARG REQUIREMENTS_SHA256
RUN --mount=type=bind,source=.,target=/wheelhouse \
    echo "${REQUIREMENTS_SHA256}  /wheelhouse/requirements.txt" | sha256sum --check --quiet \
 && /opt/pip/bin/pip --python /opt/archipel/bin/python install --quiet --no-cache-dir --no-compile --no-deps \
      --no-index --find-links /wheelhouse --require-hashes -r /wheelhouse/requirements.txt \
 && cd /opt/archipel/lib/python3.11/site-packages \
 # Tests and headers of the packages serve nobody here.
 && find . -type d \( -name tests -o -name SelfTest -o -name include \) -prune -exec rm -rf {} + \
 && find . -type f \( -name '*.a' -o -name '*.pyi' -o -name '*.pxd' -o -name '*.pyx' \) -delete \
 && find /opt/archipel/bin -type f ! -name 'python*' -delete \
 # The root file system is read-only later. By hash and unchecked: file dates mean nothing in an image.
 && /opt/archipel/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash .
ARG LIST_SHA256
RUN --mount=type=bind,source=.,target=/wheelhouse \
    echo "${LIST_SHA256}  /wheelhouse/wheelhouse.json" | sha256sum --check --quiet \
 && /opt/pip/bin/pip --python /opt/archipel/bin/python install --quiet --no-cache-dir --no-compile --no-deps \
      --no-index --find-links /wheelhouse --require-hashes -r /wheelhouse/archipel.txt \
 && cd /opt/archipel/lib/python3.11/site-packages \
 && /opt/archipel/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash archipel client models privacy schemas server

FROM scratch
COPY --from=root / /
COPY --from=build /opt/archipel /opt/archipel
ENV PATH=/opt/archipel/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONWARNINGS=ignore::DeprecationWarning \
    HOME=/tmp \
    FLWR_HOME=/tmp/flwr \
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    ARCHIPEL_HUB_HOME=/var/lib/archipel
USER 10001:10001
WORKDIR /tmp
VOLUME /var/lib/archipel
# For sites: the fleet API and health. The internal port is on loopback and is not for anybody outside.
EXPOSE 8443
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["archipel", "hub", "health"]
ENTRYPOINT ["archipel"]
CMD ["hub", "up"]
ARG VERSION
ARG SOURCE_COMMIT
ARG LIST_SHA256
LABEL org.opencontainers.image.title="Archipel hub" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${SOURCE_COMMIT}" \
      archipel.role="hub" \
      archipel.wheelhouse="${LIST_SHA256}"
