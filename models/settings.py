"""All settings, read once from the environment at the start of a process.

A missing or wrong setting stops the start with its name: see `load_settings`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.enums import Channel
from models.errors import Refused

_KNOWN_PROVIDERS = {
    Channel.EMAIL: {"smtp", "sendgrid", "ses"},
    Channel.SMS: {"twilio", "sns"},
    Channel.PUSH: {"fcm", "apns"},
}

Port = Annotated[int, Field(ge=0, le=65535)]
#: A comma-separated list in the environment.
Names = Annotated[tuple[str, ...], NoDecode]
#: Comma-separated pairs in the environment, as in `sendgrid=70,ses=30`.
Weights = Annotated[dict[str, Annotated[float, Field(ge=0, le=1_000_000)]], NoDecode]
Pairs = Annotated[dict[str, str], NoDecode]


class RetryPolicy(BaseModel):
    """Attempts and waits of one channel; `base_seconds` doubles with each attempt up to `ceiling_seconds`.

    Set as `EMAIL_RETRY__MAX_ATTEMPTS`, `EMAIL_RETRY__BASE_SECONDS`, `EMAIL_RETRY__CEILING_SECONDS`, and so on.
    """

    model_config = ConfigDict(frozen=True)

    max_attempts: int = Field(default=6, ge=1, le=50)
    base_seconds: float = Field(default=2.0, gt=0, le=3600)
    ceiling_seconds: float = Field(default=3600.0, gt=0, le=86400)


class Settings(BaseSettings):
    """The environment of CONTRACT section 9, and what tunes the lanes."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_nested_delimiter="__")

    # Servers
    kafka_bootstrap_servers: str = "kafka:9092"
    kafka_security_protocol: str = Field(default="PLAINTEXT", pattern=r"^(PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL)$")
    kafka_sasl_mechanism: str = "PLAIN"
    kafka_sasl_username: str | None = None
    kafka_sasl_password: str | None = Field(default=None, repr=False)
    kafka_ssl_cafile: str | None = None
    kafka_ssl_certfile: str | None = None
    kafka_ssl_keyfile: str | None = None
    kafka_topic_prefix: str = Field(default="", pattern=r"^[a-zA-Z0-9._-]{0,100}$")
    kafka_partitions: int = Field(default=8, ge=1, le=1000)
    kafka_replication_factor: int = Field(default=3, ge=1, le=9)
    database_url: str = Field(repr=False)
    database_pool_size: int = Field(default=10, ge=1, le=500)
    redis_url: str = Field(default="redis://valkey:6379/0", repr=False)
    redis_key_prefix: str = "comms:"
    identity_service_url: str = "http://identity-service:8001"
    identity_cache_seconds: float = Field(default=30.0, ge=0, le=300)

    # This service's own doors
    host: str = "0.0.0.0"  # noqa: S104  a container listens on all its addresses
    port: Port = 8002
    metrics_port: Port = 9102
    root_path: str = ""
    trusted_proxies: str = "127.0.0.1"
    public_url: str = "http://localhost:8002"
    secret_key: str | None = Field(default=None, repr=False)
    log_level: str = Field(default="INFO", pattern=r"^(DEBUG|INFO|WARNING|ERROR)$")

    # Providers
    email_providers: Names = ("smtp",)
    sms_providers: Names = ()
    push_providers: Names = ()
    #: Shares of the traffic among the providers of a chain that work; empty: all to the first.
    email_weights: Weights = Field(default_factory=dict)
    sms_weights: Weights = Field(default_factory=dict)
    email_from: str = "notifications@example.com"
    smtp_host: str | None = None
    smtp_port: Port = 25
    smtp_username: str | None = None
    smtp_password: str | None = Field(default=None, repr=False)
    smtp_tls: str = Field(default="none", pattern=r"^(none|starttls|tls)$")
    smtp_connections: int = Field(default=50, ge=1, le=500)
    sendgrid_api_key: str | None = Field(default=None, repr=False)
    sendgrid_base_url: str = "https://api.sendgrid.com"
    #: Of the signed event webhook, as SendGrid's console shows it (base64 of a DER key).
    sendgrid_webhook_public_key: str | None = None
    #: Of both AWS services; their keys come as AWS's own libraries find them (AWS_ACCESS_KEY_ID, a role, …).
    aws_ses_region: str | None = None
    aws_ses_configuration_set: str | None = None
    aws_sns_region: str | None = None
    aws_endpoint_url: str | None = None
    #: The only topics whose messages are believed.
    sns_topic_arns: Names = ()
    #: A folder with SNS's signing certificates (`SimpleNotificationService-….pem`), where this process may not fetch
    #: them from AWS itself.
    sns_certificates: str | None = None
    twilio_account_sid: str | None = None
    twilio_auth_token: str | None = Field(default=None, repr=False)
    twilio_from: str | None = None
    twilio_base_url: str = "https://api.twilio.com"
    #: Sender by country, as in `US=+15005550006,DE=ACME`; the others get the provider's own.
    sms_senders: Pairs = Field(default_factory=dict)
    #: The JSON of a service account, or its path.
    fcm_server_key: str | None = Field(default=None, repr=False)
    fcm_base_url: str = "https://fcm.googleapis.com"
    apns_topic: str | None = None
    apns_cert_path: str | None = None
    apns_key_path: str | None = None
    apns_key_id: str | None = None
    apns_team_id: str | None = None
    apns_base_url: str = "https://api.push.apple.com"

    # What comes back
    #: A callback whose signed time is older, or as far ahead, is refused.
    webhook_tolerance_seconds: float = Field(default=3600.0, gt=0, le=7 * 86400)
    #: So many soft bounces in a row within `soft_bounce_days` suppress an address.
    soft_bounce_threshold: int = Field(default=5, ge=1, le=100)
    soft_bounce_days: int = Field(default=7, ge=1, le=90)
    #: Of a category's e-mails within `bounce_rate_hours`: from here on operators are warned, or its bulk is paused.
    bounce_rate_warning: float = Field(default=0.05, gt=0, le=1)
    bounce_rate_pause: float = Field(default=0.10, gt=0, le=1)
    bounce_rate_least_sent: int = Field(default=1000, ge=1)
    bounce_rate_hours: int = Field(default=24, ge=1, le=24 * 7)

    # Attachments
    #: Of all files of one message together.
    attachment_bytes: int = Field(default=10 * 1024 * 1024, ge=1024, le=25 * 1024 * 1024)
    #: Hosts (`files.internal`, `files.internal:8443`) that files may come from although their address is private.
    attachment_hosts: Names = ()

    # The lanes
    #: Worker processes that share the limits, until they have counted themselves.
    workers: int = Field(default=1, ge=1, le=1000)
    default_locale: str = Field(default="en", pattern=r"^[A-Za-z]{2,3}([_-][A-Za-z0-9]{2,8})*$")
    request_batch: int = Field(default=250, ge=1, le=2000)
    calls_in_flight: int = Field(default=400, ge=1, le=2000)
    provider_timeout_seconds: float = Field(default=10.0, gt=0, le=10)
    claim_grace_seconds: float = Field(default=2.0, gt=0, le=60)
    accept_deadline_seconds: float = Field(default=2.0, gt=0, le=10)
    email_retry: RetryPolicy = RetryPolicy()
    sms_retry: RetryPolicy = RetryPolicy()
    push_retry: RetryPolicy = RetryPolicy()
    in_app_retry: RetryPolicy = RetryPolicy()

    @field_validator(
        "email_providers", "sms_providers", "push_providers", "sns_topic_arns", "attachment_hosts", mode="before"
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("email_weights", "sms_weights", "sms_senders", mode="before")
    @classmethod
    def _split_pairs(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        if not all(separator for _, separator, _ in pairs):
            raise ValueError("must be pairs, as in name=value,name=value")
        return {name.strip(): text.strip() for name, _, text in pairs}

    @field_validator("workers", mode="before")
    @classmethod
    def _absent(cls, value: Any) -> Any:
        return 1 if value == "" else value  # as `comms up` reads it

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, value: str) -> str:
        scheme, separator, rest = value.partition("://")
        if scheme not in ("postgresql", "postgres", "postgresql+asyncpg") or not separator or not rest:
            raise ValueError("must be a postgresql:// URL")
        return f"postgresql+asyncpg://{rest}"

    @model_validator(mode="after")
    def _providers_are_known(self) -> Self:
        for channel, known in _KNOWN_PROVIDERS.items():
            unknown = [name for name in self.providers(channel) if name not in known]
            if unknown:
                choice = ", ".join(sorted(known)) or "none yet"
                raise ValueError(f"{channel.upper()}_PROVIDERS: unknown provider {unknown[0]} (known: {choice})")
        return self

    @model_validator(mode="after")
    def _weights_are_of_the_chain(self) -> Self:
        for channel in Channel:
            chain = self.providers(channel)
            for name in self.weights(channel):
                if name not in chain:
                    choice = ", ".join(chain) or "nobody"
                    raise ValueError(f"{channel.upper()}_WEIGHTS: {name} is not in the chain (there is: {choice})")
        return self

    def providers(self, channel: Channel) -> tuple[str, ...]:
        """The fail-over chain of a channel, first choice first; in-app needs none from outside."""
        if channel is Channel.IN_APP:
            return ("in_app",)
        names: tuple[str, ...] = getattr(self, f"{channel}_providers")
        return names

    def retry_policy(self, channel: Channel) -> RetryPolicy:
        """Attempts, base and ceiling of a channel."""
        policy: RetryPolicy = getattr(self, f"{channel}_retry")
        return policy

    def weights(self, channel: Channel) -> dict[str, float]:
        """The shares of a channel's traffic by provider; empty where all goes to the first that works."""
        found: dict[str, float] = getattr(self, f"{channel}_weights", {})
        return found

    @property
    def claim_lease(self) -> timedelta:
        """How long a claimed attempt without outcome is another worker's: longer than any provider call."""
        return timedelta(seconds=self.provider_timeout_seconds + self.claim_grace_seconds)


def load_settings() -> Settings:
    """Reads the environment.

    Raises:
        Refused: naming the first missing or wrong setting, never its value.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = "__".join(str(part) for part in first["loc"]).upper()
        if first["type"] == "missing":
            raise Refused(name, "is not set") from None
        raise Refused(name, first["msg"].removeprefix("Value error, ")) from None
