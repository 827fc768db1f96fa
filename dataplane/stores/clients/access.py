"""Region and kind of credentials that the standard chain gives for S3; never a secret.

For messages, and found as `credentials.py` finds the client's options: the environment first, then
the files of `~/.aws` where botocore can read them. Nothing here makes a request or starts a
program: the role of an instance or container, a `credential_process` and the credentials that a
role is assumed with are only asked for when a client needs them. No state.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dataplane.errors import ConfigError
from dataplane.extras import install_hint
from dataplane.stores.base import StoreConfig
from dataplane.stores.clients.credentials import CLIENT_READS, DEFAULT_REGION
from dataplane.stores.urls import s3_endpoint

__all__ = ["Access", "s3_access"]

_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "keys",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "a web identity token",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "the container's role",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "the container's role",
}
_METHODS = {
    "shared-credentials-file": "keys in the credentials file",
    "config-file": "keys in the configuration file",
    "assume-role-with-web-identity": "a role with web identity",
    "sso": "single sign-on",
    "login": "a login",
    "boto-config": "keys in the boto file",
}
_ABSENT = ("not found", "not usable", "none found", "the instance's role, if it has one")
_ASKS_OTHERS = ("assume-role", "custom-process", "container-role", "iam-role")
"""Providers of botocore that start a program or make a request; that of an assumed role asks at
once for the credentials to assume it with."""


@dataclass(frozen=True, slots=True)
class Access:
    """Access to S3: region, credentials and their origins.

    Attributes:
        region: region that requests are signed for, or None where none is set.
        region_origin: setting that names the region.
        credentials: kind of credentials, or the reason that there are none.
        credentials_origin: origin of the credentials: a variable, or a profile.
        endpoint_error: reason that the endpoint cannot be used, or None.
    """

    region: str | None
    region_origin: str
    credentials: str
    credentials_origin: str
    endpoint_error: str | None = None

    @property
    def has_credentials(self) -> bool:
        """Whether there are credentials, or none are needed, as far as is known without asking."""
        return not self.credentials.startswith(_ABSENT)


def s3_access(
    config: StoreConfig, region_origin: str, environ: Mapping[str, str] | None = None
) -> Access:
    """Return the access to S3 that the settings and the environment give.

    Args:
        config: configuration of the store.
        region_origin: origin of `config.region`.
        environ: the environment.
    """
    environ = os.environ if environ is None else environ
    kind, origin, profile_region = _credentials(config, environ)
    endpoint, error = None, None
    try:
        endpoint = s3_endpoint(config, environ)
    except ConfigError as err:
        error = str(err)
    variables = ("AWS_REGION", "AWS_DEFAULT_REGION")
    named = next((name for name in variables if environ.get(name)), None)
    region: tuple[str | None, str] = (None, "")
    if config.region:
        region = config.region, region_origin
    elif named is not None:
        region = environ[named], named
    elif profile_region:
        region = profile_region, origin
    elif endpoint is not None:
        region = DEFAULT_REGION, "default"
    return Access(*region, kind, origin, error)


def _credentials(config: StoreConfig, environ: Mapping[str, str]) -> tuple[str, str, str | None]:
    """Return kind and origin of the credentials, and the region of a profile that was read."""
    if config.anonymous:
        return "none are sent (anonymous)", "", None
    for name in CLIENT_READS:
        if environ.get(name):
            return _ENVIRONMENT[name], name, None
    profile = environ.get("AWS_PROFILE")
    where = f"profile {profile or 'default'}"
    try:
        import botocore.exceptions
        import botocore.session
    except ModuleNotFoundError:
        hint = install_hint("s3")
        if profile:
            return f"not found: reading profiles needs botocore ({hint})", where, None
        return f"the instance's role, if it has one; ~/.aws needs botocore ({hint})", "", None
    session = botocore.session.Session(profile=profile or None)
    try:
        kind = _kind(session)
        region: str | None = session.get_config_variable("region")
    except botocore.exceptions.ProfileNotFound:
        return "not found: there is no such profile", where, None
    except botocore.exceptions.BotoCoreError as err:
        return f"not usable: {err}", where, None
    if kind is None:
        return "none found; on a cloud instance its role is asked for", "", region
    return kind, where, region


def _kind(session: Any) -> str | None:
    """Return the kind of credentials that botocore finds without a request."""
    profile = session.get_scoped_config()
    # As botocore tells the two kinds of roles apart.
    if "role_arn" in profile and "web_identity_token_file" not in profile:
        return "an assumed role"
    resolver = session.get_component("credential_provider")
    for name in _ASKS_OTHERS:
        resolver.remove(name)
    credentials = session.get_credentials()
    if credentials is not None:
        return _METHODS.get(credentials.method, str(credentials.method))
    return "a program" if profile.get("credential_process") else None
