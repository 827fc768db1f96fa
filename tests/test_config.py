"""One assembler: defaults < TOML < environment < arguments."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest

from dataplane.cache import CacheConfig
from dataplane.config import assemble, load_toml, parse_flag, setting
from dataplane.errors import ConfigError
from dataplane.stores.base import StoreConfig
from dataplane.units import parse_bytes


@dataclasses.dataclass(frozen=True)
class Example:
    """Settings of every sort."""

    size_bytes: int = setting(1024, env="EXAMPLE_SIZE", parse=parse_bytes)
    is_fast: bool = setting(False, env="EXAMPLE_FAST", parse=parse_flag)
    name: str | None = setting(None)
    count: int = setting(1, env="EXAMPLE_COUNT", parse=int)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError("example.count must be at least 1")


def _write(folder: Path, text: str) -> dict[str, str]:
    path = folder / "dataplane.toml"
    path.write_text(text)
    return {"DATAPLANE_CONFIG": str(path)}


@pytest.fixture(autouse=True)
def _no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_defaults_hold_when_nothing_is_given() -> None:
    resolved = assemble(Example, "example", environ={})
    assert resolved.value == Example()
    assert set(resolved.origins.values()) == {"default"}


def test_each_source_outranks_the_one_before(tmp_path: Path) -> None:
    environ = _write(tmp_path, '[example]\nsize_bytes = "2k"\ncount = 2\nname = "file"\n')
    environ |= {"EXAMPLE_COUNT": "3", "EXAMPLE_SIZE": "3k"}
    resolved = assemble(Example, "example", {"size_bytes": 4096, "name": None}, environ=environ)
    assert resolved.value == Example(size_bytes=4096, count=3, name="file")
    assert resolved.origins == {
        "size_bytes": "argument",
        "is_fast": "default",
        "name": environ["DATAPLANE_CONFIG"],
        "count": "EXAMPLE_COUNT",
    }


def test_an_argument_of_none_counts_as_not_given() -> None:
    environ = {"EXAMPLE_FAST": "yes"}
    assert assemble(Example, "example", {"is_fast": None}, environ=environ).value.is_fast


def test_an_empty_variable_counts_as_not_set() -> None:
    assert assemble(Example, "example", environ={"EXAMPLE_COUNT": ""}).value.count == 1


def test_an_unknown_name_in_the_file_is_refused_and_the_known_are_listed(tmp_path: Path) -> None:
    environ = _write(tmp_path, "[example]\nsize = 1\n")
    with pytest.raises(ConfigError, match=r"unknown setting example\.size .*size_bytes"):
        assemble(Example, "example", environ=environ)


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting example\.size"):
        assemble(Example, "example", {"size": 1}, environ={})


def test_tables_of_others_are_not_read(tmp_path: Path) -> None:
    environ = _write(tmp_path, "[store]\nsize = 1\n")
    assert assemble(Example, "example", environ=environ).value == Example()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[stor]\nregion = 'x'\n", r"\[stor\] .*did you mean \[store\]\?"),
        ("region = 'x'\n[store]\n", r"'region' outside of a table .*\[cache\], .*\[store\]"),
    ],
)
def test_what_nothing_reads_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=f"nothing reads {complaint}"):
        assemble(StoreConfig, "store", environ=_write(tmp_path, text))


def test_a_table_must_be_a_table(tmp_path: Path) -> None:
    environ = _write(tmp_path, "example = 1\n")
    with pytest.raises(ConfigError, match=r"\[example\] must be a table"):
        assemble(Example, "example", environ=environ)


@pytest.mark.parametrize(
    ("variable", "text", "complaint"),
    [
        ("EXAMPLE_SIZE", "many", "EXAMPLE_SIZE: not a size"),
        ("EXAMPLE_FAST", "perhaps", "EXAMPLE_FAST: not a yes or no"),
        ("EXAMPLE_COUNT", "three", "EXAMPLE_COUNT: invalid literal"),
        ("EXAMPLE_COUNT", "0", "must be at least 1"),
    ],
)
def test_a_bad_value_is_named_with_its_source(variable: str, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        assemble(Example, "example", environ={variable: text})


def test_a_bad_value_in_the_file_is_named_with_file_and_setting(tmp_path: Path) -> None:
    environ = _write(tmp_path, '[example]\nsize_bytes = "many"\n')
    with pytest.raises(ConfigError, match=r"dataplane\.toml: example\.size_bytes: not a size"):
        assemble(Example, "example", environ=environ)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names a missing file"):
        load_toml({"DATAPLANE_CONFIG": str(tmp_path / "none.toml")})


def test_a_named_file_must_be_readable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration file"):
        load_toml({"DATAPLANE_CONFIG": str(tmp_path)})


def test_a_file_must_be_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load_toml(_write(tmp_path, "[example\n"))


def test_the_users_file_is_optional_and_read(tmp_path: Path) -> None:
    assert load_toml({})[0] == {}
    folder = tmp_path / "home" / ".config" / "dataplane"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text("[example]\ncount = 5\n")
    assert assemble(Example, "example", environ={}).value.count == 5


@pytest.mark.parametrize("text", ["1", "true", "Yes", " ON "])
def test_a_yes_is_read(text: str) -> None:
    assert parse_flag(text)


@pytest.mark.parametrize("text", ["0", "False", "no", "off "])
def test_a_no_is_read(text: str) -> None:
    assert not parse_flag(text)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_attempts": 0},
        {"max_concurrency": 0},
        {"deadline_s": 0.0},
        {"timeout_s": -1.0},
        {"timeout_s": float("nan")},
        {"anonymous": True, "storage_options": {"secret": "x", "key": "y"}},
    ],
)
def test_a_store_configuration_out_of_range_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"store\.") as caught:
        StoreConfig(**settings)
    assert "x" not in str(caught.value).split("secret")[0].split()


def test_a_store_configuration_comes_from_the_usual_variables() -> None:
    environ = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000", "DATAPLANE_ANONYMOUS": "1"}
    config = assemble(StoreConfig, "store", environ=environ).value
    assert (config.endpoint_url, config.anonymous) == ("http://127.0.0.1:9000", True)


def test_options_that_may_hold_secrets_are_not_shown() -> None:
    config = StoreConfig(storage_options={"secret": "HIDDEN"})
    assert "HIDDEN" not in repr(config)


def test_a_directory_may_be_text() -> None:
    assert CacheConfig(dir="~/x").dir == Path("~/x").expanduser()


def test_the_first_variable_that_is_set_counts() -> None:
    both = {"AWS_ENDPOINT_URL": "http://one", "AWS_ENDPOINT_URL_S3": "http://two"}
    resolved = assemble(StoreConfig, "store", environ=both)
    assert resolved.value.endpoint_url == "http://two"
    assert resolved.origins["endpoint_url"] == "AWS_ENDPOINT_URL_S3"
    del both["AWS_ENDPOINT_URL_S3"]
    assert assemble(StoreConfig, "store", environ=both).value.endpoint_url == "http://one"


def test_sizes_may_be_text_as_in_the_file(tmp_path: Path) -> None:
    config = CacheConfig(dir=tmp_path, size_bytes="200GiB", block_bytes="1MiB")
    assert (config.size_bytes, config.block_bytes) == (200 << 30, 1 << 20)
    with pytest.raises(ConfigError, match="lots"):
        CacheConfig(dir=tmp_path, size_bytes="lots")


def test_a_relative_path_is_tied_to_where_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"DATAPLANE_CACHE_DIR": "a", "DATAPLANE_CACHE_KEY_FILE": "../k"}
    configs = [
        assemble(CacheConfig, "cache", environ=given).value,
        assemble(CacheConfig, "cache", {"dir": Path("a"), "key_file": "../k"}, environ={}).value,
        CacheConfig(dir=Path("a"), key_file=Path("../k")),
    ]
    monkeypatch.chdir("/")
    for config in configs:
        assert (config.dir, config.key_file) == (tmp_path / "a", tmp_path / "../k")


@pytest.mark.parametrize("name", ["dir", "key_file"])
@pytest.mark.parametrize("text", ["cache", "./cache", ""])
def test_a_relative_path_in_the_file_is_refused(tmp_path: Path, name: str, text: str) -> None:
    environ = _write(tmp_path, f'[cache]\n{name} = "{text}"\n')
    with pytest.raises(ConfigError, match=rf"dataplane\.toml: cache\.{name} must be an absolute"):
        assemble(CacheConfig, "cache", environ=environ)


def test_a_path_in_the_file_is_text_and_may_begin_with_the_home(tmp_path: Path) -> None:
    environ = _write(tmp_path, '[cache]\ndir = "~/c"\n')
    assert assemble(CacheConfig, "cache", environ=environ).value.dir == tmp_path / "home" / "c"
    environ = _write(tmp_path, "[cache]\ndir = 5\n")
    with pytest.raises(ConfigError, match=r"cache\.dir must be text"):
        assemble(CacheConfig, "cache", environ=environ)
    environ = _write(tmp_path, '[cache]\ndir = "~no-such-user/c"\n')
    with pytest.raises(ConfigError, match=r"cache\.dir: '~no-such-user/c'"):
        assemble(CacheConfig, "cache", environ=environ)


def test_a_relative_cache_home_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert CacheConfig().dir == tmp_path / "home" / ".cache" / "dataplane"


@pytest.mark.parametrize("config", [CacheConfig, StoreConfig])
def test_help_names_each_setting_and_what_sets_it(config: type) -> None:
    text = inspect.getdoc(config)
    assert text is not None
    told = " ".join(text.partition("Attributes:")[2].partition("Raises:")[0].split())
    for field in dataclasses.fields(config):
        assert f"{field.name}: {field.metadata['doc']}" in told
        assert all(variable in told for variable in field.metadata["env"])
    assert text.rpartition("Raises:")[2].strip().startswith("ConfigError")
