"""The webhook's certificate, and the authority that the API server knows it by.

An authority signs one certificate and its key is thrown away at once: there is nothing that could sign a second one.
To renew is to make both anew; the API server is told both authorities then, so that whoever still answers with the old
certificate is believed until it has read the new one. Nothing here reads or writes a file.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

AUTHORITIES_MAX: Final = 3
"""How many authorities the API server is told of at most: the newest ones."""

CLOCK_SKEW: Final = timedelta(minutes=5)
"""How far behind ours the API server's clock may be."""

NAME_CHARACTERS_MAX: Final = 64
"""Of a common name (RFC 5280, ub-common-name); the names that count are the alternative ones."""


class Issued(Struct, frozen=True):
    """A certificate, its key, and the authorities by which it and the one before it are known; all PEM."""

    certificate: bytes
    key: bytes
    authorities: bytes


def service_names(service: str, namespace: str) -> list[str]:
    """The names by which an API server, or a person in the cluster, asks for a Service's port."""
    full = f"{service}.{namespace}.svc"
    return [full, f"{full}.cluster.local", f"{service}.{namespace}", service]


def issue(names: Sequence[str], days: int, now: datetime, before: bytes = b"") -> Issued:
    """Make an authority and a certificate by it, for so many days; `before` are the authorities that stay believed."""
    until = now + timedelta(days=days)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name = _name(f"TokenGate injector, {now:%Y-%m-%d %H:%M:%S}")
    authority = (
        _builder(authority_name, authority_name, authority_key.public_key(), now, until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        _builder(_name(names[0]), authority_name, key.public_key(), now, until)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return Issued(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        bundle([authority.public_bytes(serialization.Encoding.PEM), before], now),
    )


def bundle(parts: Iterable[bytes], now: datetime) -> bytes:
    """The authorities of several bundles as one: each once, none that is over, the newest first, bounded."""
    found = {}
    for part in parts:
        for each in _certificates(part):
            if each.not_valid_after_utc > now:
                found[each.fingerprint(hashes.SHA256())] = each
    newest = sorted(found.values(), key=lambda each: each.not_valid_before_utc, reverse=True)
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in newest[:AUTHORITIES_MAX])


def fault(issued: Issued, names: Sequence[str], now: datetime, renew_before_days: int) -> str:
    """Why a certificate has to be made anew, in words; empty if it has not."""
    try:
        certificate = x509.load_pem_x509_certificate(issued.certificate)
        key = serialization.load_pem_private_key(issued.key, password=None)
    except (ValueError, TypeError):
        return "there is none that can be read"
    if certificate.public_key() != key.public_key():
        return "its key is not the certificate's"
    left = certificate.not_valid_after_utc - now
    if left < timedelta(days=renew_before_days):
        return f"it ends in {max(left.days, 0)} days" if left > timedelta(0) else "it has ended"
    try:
        known = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "it has no names"
    missing = set(names) - set(known.get_values_for_type(x509.DNSName))
    if missing:
        return f"it does not name {', '.join(sorted(missing))}"
    if not any(_signed(certificate, authority) for authority in _certificates(issued.authorities)):
        return "its authority is not known"
    return ""


def expires(certificate: bytes) -> datetime:
    """When a certificate ends.

    Raises:
        ValueError: it is none.
    """
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def _signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        return []


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:NAME_CHARACTERS_MAX])])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(until)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
