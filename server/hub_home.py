"""The hub's folder: settings, certificates and secrets, made once and checked at every start.

    DIR/hub.toml            settings (kind "hub"), which `server.hub_settings` reads
    DIR/sites.json          enrolled sites: [{"name", "node_public_key"}], written by enrolment
    DIR/keys/               authority, server certificate, the two local secrets (0600)
    DIR/run/                pid files, nodes.json (which connection is which site now)
    DIR/logs/               one log per process

No Flower here, and no process is started: `server.hub_process` does that.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import secrets
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from privacy.storage import write_durably
from schemas.errors import Fault, FaultsError
from schemas.operation import port_problem
from schemas.processes import run_folder
from server.hub_settings import HOST_REMEDY, HubPlaces, HubSettings, is_host, load_hub_settings

__all__ = ["HubSettings", "check_folder", "check_hub", "free_port", "hub_init", "load_hub_settings", "write_private"]

_AUTHORITY_DAYS = 3650
_SERVER_DAYS = 825
_QUIET_PORTS = range(20_000, 32_768)


def check_hub(settings: HubSettings) -> list[Fault]:
    """Returns everything that would keep the hub from starting, all at once."""
    return [*check_folder(settings), *_port_faults(settings)]


def check_folder(places: HubPlaces) -> list[Fault]:
    """Returns what is wrong with keys, certificates and the list of sites, whatever the settings say."""
    faults = []
    for path, private in (
        (places.authority, False),
        (places.server_certificate, False),
        (places.server_key, True),
        (places.superexec_secret, True),
        (places.control_token, True),
    ):
        if not path.is_file():
            faults.append(Fault(str(path), "is missing", "restore it from backup or run `archipel hub init`"))
        elif private and path.stat().st_mode & 0o077:
            faults.append(Fault(str(path), "can be read by other users", f"chmod 600 {path}"))
    if places.server_certificate.is_file():
        faults += _certificate_faults(places)
    try:
        read_sites(places)
    except (ValueError, KeyError, TypeError):
        faults.append(Fault(str(places.sites_file), "is not a list of sites", "restore it from backup"))
    return faults


def _port_faults(settings: HubSettings) -> list[Fault]:
    faults = []
    for name, host, port in (
        ("public_port", settings.listen, settings.public_port),
        ("internal_port", "127.0.0.1", settings.internal_port),
        ("metrics_port", settings.metrics_listen, settings.metrics_port),
    ):
        problem = port_problem(host, port) if port else None
        if problem:
            faults.append(
                Fault(f"hub.toml, {name}", f"{host}:{port} {problem}", "stop what uses it or change the port")
            )
    return faults


def _certificate_faults(places: HubPlaces) -> list[Fault]:
    where = str(places.server_certificate)
    try:
        certificate = x509.load_pem_x509_certificate(places.server_certificate.read_bytes())
    except ValueError:
        return [Fault(where, "is not a certificate", "run `archipel hub init`")]
    end = certificate.not_valid_after_utc
    if end < datetime.datetime.now(datetime.UTC):
        return [Fault(where, f"expired on {end:%Y-%m-%d}", "issue a new one: `archipel hub init --renew`")]
    return []


def read_sites(places: HubPlaces) -> dict[str, str]:
    """Returns the public key of each enrolled site by name; empty before the first enrolment."""
    try:
        entries = json.loads(places.sites_file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    return {str(entry["name"]): str(entry["node_public_key"]) for entry in entries}


# ---------------------------------------------------------------- making it
def hub_init(
    home: Path,
    host: str = "127.0.0.1",
    public_port: int = 8443,
    internal_port: int = 8000,
    *,
    listen: str | None = None,
    names: tuple[str, ...] = (),
    renew: bool = False,
) -> HubSettings:
    """Makes a hub's folder: settings, authority, server certificate and secrets.

    What is there already is kept, so a second call repairs and does not disturb.

    Args:
        home: The folder to make.
        host: Name or address by which sites reach the hub.
        public_port: Port for sites; 0 takes a free one.
        internal_port: Port on loopback; 0 takes a free one.
        listen: Address to bind; by default `host` where that is loopback, else every address.
        names: Further names or addresses for the certificate.
        renew: Issues the server certificate again (same authority, so sites change nothing).

    Raises:
        FaultsError: When the settings (given or already there) are wrong.
    """
    home = home.resolve()
    wrong = [name for name in (host, *names) if not is_host(name)]
    if wrong:
        what = "is no host name and no address"
        raise FaultsError("the names of the hub", [Fault(repr(name), what, HOST_REMEDY) for name in wrong])
    (home / "keys").mkdir(mode=0o700, parents=True, exist_ok=True)
    run_folder(home)
    (home / "logs").mkdir(mode=0o700, exist_ok=True)
    if not (home / "hub.toml").exists():
        public_port = public_port or free_port()
        internal_port = internal_port or free_port()
        listen = listen or (host if _is_loopback(host) else "0.0.0.0")
        (home / "hub.toml").write_text(
            f'kind = "hub"\nversion = 1\n\n'
            f"# Sites reach the hub under this name; it stands in the certificate.\nhost = {json.dumps(host)}\n"
            f"# The public listener: the fleet API and health, nothing else.\n"
            f"listen = {json.dumps(listen)}\npublic_port = {public_port}\n"
            f"# The hub's own processes, on loopback only.\ninternal_port = {internal_port}\n",
            "utf-8",
        )
    settings = load_hub_settings(home)
    if not settings.authority.exists():
        _make_authority(settings)
    if renew or not settings.server_certificate.exists():
        _make_server_certificate(settings, (settings.host, *names))
    for path in (settings.superexec_secret, settings.control_token):
        if not path.exists():
            write_private(path, secrets.token_hex(32).encode())
    return settings


def free_port() -> int:
    """Returns a port of loopback that nothing uses at this moment.

    Drawn from below those that Linux gives to outgoing calls: while the hub is down, one of these could take its
    port, and a site that calls it in vain could even be connected with itself.

    Raises:
        OSError: Of a hundred none is free.
    """
    for _ in range(100):
        port = secrets.choice(_QUIET_PORTS)
        if port_problem("127.0.0.1", port) is None:
            return port
    raise OSError(f"no port from {_QUIET_PORTS[0]} to {_QUIET_PORTS[-1]} is free on this machine")


def write_private(path: Path, content: bytes) -> None:
    """Writes a file that was never readable by others, not even for an instant, and is never there by half.

    Raises:
        StorageError: The disk does not take it; what was there before still is.
    """
    write_durably(path, content)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _make_authority(settings: HubSettings) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Archipel hub authority")])
    certificate = (
        _builder(name, name, key.public_key(), _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA384())
    )
    write_private(settings.home / "keys" / "hub-ca.key", _private_pem(key))
    settings.authority.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _make_server_certificate(settings: HubSettings, names: tuple[str, ...]) -> None:
    authority = x509.load_pem_x509_certificate(settings.authority.read_bytes())
    signer = serialization.load_pem_private_key((settings.home / "keys" / "hub-ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, settings.host)])
    # The launcher and the server app come in over loopback and check the same certificate.
    alternatives = [_general_name(name) for name in dict.fromkeys((*names, "localhost", "127.0.0.1", "::1"))]
    certificate = (
        _builder(subject, authority.subject, key.public_key(), _SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA384())
    )
    write_private(settings.server_key, _private_pem(key))
    settings.server_certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # A day back: a site whose clock runs behind must still be able to connect and be told so.
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
