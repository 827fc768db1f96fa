"""Where S3 credentials come from, and that they go nowhere else."""

from __future__ import annotations

import builtins
import logging
from pathlib import Path

import pytest

from dataplane.errors import ConfigError, Denied, MissingPackage
from dataplane.stores import StoreConfig, open_store
from dataplane.stores.clients.credentials import s3_options

_KEYS = {"AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "topsecret"}


def _options(config: StoreConfig | None = None, **environ: str) -> dict[str, object]:
    return s3_options("s3://bucket", config or StoreConfig(), environ)


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("botocore")
    (tmp_path / "aws-credentials").write_text(
        "[work]\naws_access_key_id = AKIDPROFILE\naws_secret_access_key = profilesecret\n"
        "[temporary]\naws_access_key_id = AKIDTEMP\naws_secret_access_key = tempsecret\n"
        "aws_session_token = token\n"
    )
    (tmp_path / "aws-config").write_text("[profile work]\nregion = eu-north-1\n")
    monkeypatch.setenv("AWS_PROFILE", "work")
    return "work"


@pytest.fixture
def no_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    import_module = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.split(".")[0] == "botocore":
            raise ModuleNotFoundError(name=name)
        return import_module(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)


def test_the_environments_keys_are_left_to_the_client() -> None:
    assert _options(**_KEYS) == {"disable_bulk_delete": True}


def test_anonymous_access_signs_nothing_and_looks_for_nothing() -> None:
    assert _options(StoreConfig(anonymous=True))["skip_signature"] is True


def test_another_endpoint_means_path_style_and_a_region() -> None:
    options = _options(StoreConfig(endpoint_url="http://127.0.0.1:9000"), **_KEYS)
    assert options["endpoint"] == "http://127.0.0.1:9000"
    assert options["aws_endpoint_url_s3"] == "http://127.0.0.1:9000"
    assert options["virtual_hosted_style_request"] is False
    assert options["region"] == "us-east-1"


@pytest.mark.parametrize(
    ("region", "environ", "expected"),
    [
        ("eu-west-1", {"AWS_REGION": "other"}, "eu-west-1"),
        (None, {"AWS_REGION": "one", "AWS_DEFAULT_REGION": "two"}, "one"),
        (None, {"AWS_DEFAULT_REGION": "two"}, "two"),
    ],
)
def test_the_region_comes_from_the_call_before_the_environment(region, environ, expected) -> None:
    assert _options(StoreConfig(region=region), **_KEYS, **environ)["region"] == expected


def test_a_profile_gives_keys_and_region(profile: str) -> None:
    options = _options(AWS_PROFILE=profile)
    assert options["region"] == "eu-north-1"
    assert options["credential_provider"]() == {
        "access_key_id": "AKIDPROFILE",
        "secret_access_key": "profilesecret",
        "token": None,
        "expires_at": None,
    }


def test_temporary_keys_are_asked_for_again(profile: str, monkeypatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "temporary")
    provided = _options(AWS_PROFILE="temporary")["credential_provider"]()
    assert provided["token"] == "token"
    assert provided["expires_at"] is not None


def test_a_missing_profile_is_named(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigError, match="nobody"):
        _options(AWS_PROFILE="nobody")


def test_no_credentials_at_all_is_denied_before_any_request() -> None:
    pytest.importorskip("botocore")
    store = open_store("s3://bucket/x", StoreConfig(endpoint_url="http://127.0.0.1:1"))
    with pytest.raises(Denied, match=r"no AWS credentials were found for s3://bucket/x"):
        store.head("k")


def test_a_profile_without_botocore_says_what_to_install(no_botocore: None) -> None:
    with pytest.raises(MissingPackage, match=r"pip install .\.\[s3\]"):
        _options(AWS_PROFILE="work")


def test_without_botocore_the_client_goes_on_by_itself(no_botocore: None) -> None:
    assert _options() == {"disable_bulk_delete": True}


def test_secrets_stay_out_of_logs_and_descriptions(
    moto_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "topsecret")
    with caplog.at_level(logging.DEBUG, logger="dataplane"):
        store = open_store(moto_url)
        store.put("k", b"1")
        store.head("k")
    for text in (repr(store), str(store), store.url, store.identity, caplog.text):
        assert "topsecret" not in text


def test_options_of_a_failing_file_system_are_not_repeated() -> None:
    config = StoreConfig(storage_options={"username": "topsecret", "key": "topsecret"})
    with pytest.raises(ConfigError, match=r"options given: .*username") as caught:
        open_store("s3://bucket/x", config).head("k")
    chain = [str(caught.value), str(caught.value.__cause__)]
    assert "topsecret" not in "".join(chain)
