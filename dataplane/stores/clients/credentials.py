"""Client options of an S3 bucket, with the credentials of the standard chain.

obstore itself reads the environment (`AWS_ACCESS_KEY_ID` …), web identity, container and instance
credentials. It does not read `~/.aws/credentials` and `~/.aws/config`; where those decide
(profiles, single sign-on, assumed roles), botocore does it, which the extra `s3` installs. Without
botocore a set `AWS_PROFILE` is an error that says so, and the files are not read.

Secrets pass through here on their way to the client; they are never kept, shown or logged. Called
once per client, at its first use. No state.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from dataplane.errors import ConfigError, Denied, MissingPackage
from dataplane.extras import install_hint
from dataplane.stores.base import StoreConfig
from dataplane.stores.urls import s3_endpoint

__all__ = ["CLIENT_READS", "DEFAULT_REGION", "s3_options"]

_REFRESH = timedelta(minutes=5)
"""botocore hands out temporary credentials with at least 10 minutes left; ask it again sooner."""

DEFAULT_REGION = "us-east-1"
CLIENT_READS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


def s3_options(
    url: str, config: StoreConfig, environ: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the keyword arguments of obstore's `S3Store`, but for bucket and client options.

    Args:
        url: URL of the store, for messages.
        config: endpoint, region, anonymity.
        environ: the environment.

    Raises:
        ConfigError: the profile that is asked for does not exist.
        MissingPackage: a profile is asked for and botocore is missing.
        Denied: there are no credentials, and `anonymous` is not set.
    """
    environ = os.environ if environ is None else environ
    options: dict[str, Any] = {"disable_bulk_delete": True}
    region = config.region or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    endpoint = s3_endpoint(config, environ)
    if endpoint is not None:
        options["endpoint"] = endpoint
        # Else the client takes that variable from the environment, against what was asked for.
        options["aws_endpoint_url_s3"] = endpoint
        options["virtual_hosted_style_request"] = False
    if config.anonymous:
        options["skip_signature"] = True
    elif not any(environ.get(name) for name in CLIENT_READS):
        provider, profile_region = _profile_credentials(url, environ)
        if provider is not None:
            options["credential_provider"] = provider
        region = region or profile_region
    if region or endpoint:
        options["region"] = region or DEFAULT_REGION
    return options


def _profile_credentials(
    url: str, environ: Mapping[str, str]
) -> tuple[Callable[[], dict[str, Any]] | None, str | None]:
    profile = environ.get("AWS_PROFILE")
    try:
        import botocore.exceptions
        import botocore.session
    except ModuleNotFoundError as err:
        if profile:
            raise MissingPackage(
                f"AWS_PROFILE is {profile!r}, and reading profiles needs botocore",
                hint=f"{install_hint('s3')}, or set AWS_ACCESS_KEY_ID",
            ) from err
        return None, None  # obstore goes on to ask the instance's metadata service.
    session = botocore.session.Session(profile=profile or None)
    try:
        credentials = session.get_credentials()
        region = session.get_config_variable("region")
    except botocore.exceptions.ProfileNotFound as err:
        raise ConfigError(f"AWS_PROFILE names no profile of the AWS files: {profile!r}") from err
    except botocore.exceptions.BotoCoreError as err:
        raise Denied(f"cannot get AWS credentials for {url}: {err}") from err
    if credentials is None:
        raise Denied(
            f"no AWS credentials were found for {url}",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; "
            "for a public bucket: --anonymous, or StoreConfig(anonymous=True)",
        )

    def provide() -> dict[str, Any]:
        frozen = credentials.get_frozen_credentials()
        # Only temporary credentials carry a token; the others never expire.
        expires = datetime.now(UTC) + _REFRESH if frozen.token else None
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": expires,
        }

    return provide, region
