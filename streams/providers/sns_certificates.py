"""The certificates that SNS signs with: from a folder, or from AWS, and kept while they are valid."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import aiohttp
from cachetools import TTLCache
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509.oid import NameOID
from yarl import URL

from models.errors import Unavailable
from streams.providers.callbacks import NotVerified

#: No other address is ever fetched from: https, one of SNS's own hosts, a file of this name, nothing more.
_URL = re.compile(
    r"https://(?P<host>sns\.[a-z]{2}(?:-[a-z]+){1,3}-[0-9]{1,2}\.amazonaws\.com(?:\.cn)?)"
    r"/(?P<file>SimpleNotificationService-[0-9a-f]{8,64}\.pem)"
)
_SUBJECT = re.compile(r"sns(\.[a-z0-9-]+)?\.amazonaws\.com(\.cn)?")
_MOST_BYTES = 64 * 1024
_FETCH_SECONDS = 2.0
#: For so long a name that led to nothing, or to nothing good, is not fetched again.
_REMEMBERED_SECONDS = 60.0
#: A forged message may name any file; SNS itself changes its certificate once in a year.
_MOST_FETCHES = 10
_FETCHES_WITHIN_SECONDS = 60.0

#: Asks one address once and gives the answer's body, if it was a 200 without redirects.
Fetch = Callable[[str], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class CertificateName:
    """Where a certificate is: a host of AWS's, and a file there."""

    host: str
    file: str

    @property
    def url(self) -> str:
        """Its address, put together by us."""
        return f"https://{self.host}/{self.file}"


def certificate_name(url: str) -> CertificateName:
    """What a message's SigningCertURL names.

    Raises:
        NotVerified: when it isn't the address of a certificate of SNS.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise NotVerified("SigningCertURL is none of SNS's")
    return CertificateName(match["host"], match["file"])


class SnsCertificates:
    """Finds certificates by name. One fetch at a time; whoever asks for the same meanwhile shares its answer."""

    def __init__(self, *, folder: str | None, fetch: Fetch, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = Path(folder) if folder else None
        self._fetch = fetch
        self._clock = clock
        self._lock = asyncio.Lock()
        self._found: dict[CertificateName, x509.Certificate] = {}
        self._bad: TTLCache[CertificateName, None] = TTLCache(1000, _REMEMBERED_SECONDS, timer=clock)
        self._fetched_at: list[float] = []

    async def key(self, name: CertificateName, *, now: datetime) -> RSAPublicKey:
        """The public key of a certificate that is SNS's and valid at `now`.

        Raises:
            NotVerified: when it isn't.
            Unavailable: when it can't be had now.
        """
        certificate = self._found.get(name)
        if certificate is None:
            async with self._lock:
                certificate = self._found.get(name) or await self._find(name, now=now)
        return _usable_key(certificate, now=now)

    async def _find(self, name: CertificateName, *, now: datetime) -> x509.Certificate:
        if name in self._bad:
            raise NotVerified("the certificate is none of SNS's")
        pem = self._read(name) if self._folder is not None else await self._load(name)
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            _usable_key(certificate, now=now)
        except (ValueError, NotVerified):
            self._bad[name] = None
            raise NotVerified("the certificate is none of SNS's") from None
        self._found = {**dict(list(self._found.items())[-7:]), name: certificate}
        return certificate

    def _read(self, name: CertificateName) -> bytes:
        assert self._folder is not None
        try:
            return (self._folder / name.file).read_bytes()[:_MOST_BYTES]
        except OSError:
            # Where nothing may be fetched, what isn't in the folder is nobody's.
            raise NotVerified("the certificate is not in SNS_CERTIFICATES") from None

    async def _load(self, name: CertificateName) -> bytes:
        now = self._clock()
        self._fetched_at = [at for at in self._fetched_at if now - at < _FETCHES_WITHIN_SECONDS]
        if len(self._fetched_at) >= _MOST_FETCHES:
            raise Unavailable("sns", "too many certificates asked for")
        self._fetched_at.append(now)
        try:
            return await self._fetch(name.url)
        except FileNotFoundError:
            self._bad[name] = None
            raise NotVerified("the certificate is none of SNS's") from None


def _usable_key(certificate: x509.Certificate, *, now: datetime) -> RSAPublicKey:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1 or not _SUBJECT.fullmatch(str(names[0].value)):
        raise NotVerified("the certificate is none of SNS's")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise NotVerified("the certificate is not valid now")
    key = certificate.public_key()
    if not isinstance(key, RSAPublicKey):
        raise NotVerified("the certificate is none of SNS's")
    return key


async def fetch(url: str) -> bytes:
    """One GET: no redirect is followed, no cookie kept, two seconds and 64 KiB at most.

    Raises:
        FileNotFoundError: when the answer is a plain no.
        Unavailable: when there is no good answer now.
    """
    timeout = aiohttp.ClientTimeout(total=_FETCH_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.get(URL(url, encoded=True), allow_redirects=False) as response,
        ):
            if 400 <= response.status < 500 and response.status not in (408, 429):
                raise FileNotFoundError
            if response.status != 200:
                raise Unavailable("sns", "answers with an error")
            body = b""
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > _MOST_BYTES:
                    raise Unavailable("sns", "answers with too much")
            return body
    except FileNotFoundError:
        raise
    except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
        raise Unavailable("sns", type(error).__name__) from None
