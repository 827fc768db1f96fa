"""Presigned URLs of the embedded endpoint, for clients that cannot sign requests themselves."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["presigned_url"]

_EXPIRES_S = 24 * 3600


def presigned_url(environment: Mapping[str, str], bucket: str, key: str) -> str:
    """Make a URL that reads one object for a day without credentials.

    Args:
        environment: variables of the endpoint, as `S3Endpoint.environment()` returns them.
        bucket: bucket of the object.
        key: key of the object.
    """
    from botocore.config import Config
    from botocore.session import Session

    client = Session().create_client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment.get("AWS_REGION", "us-east-1"),
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    parameters = {"Bucket": bucket, "Key": key}
    return str(client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=_EXPIRES_S))
