"""Settings: what is accepted, and what each mistake is told."""

from datetime import timedelta
from pathlib import Path

import pytest

import settings
from settings import SettingsError, load_environment_variables

GOOD = {
    "DB_HOST": "db.internal",
    "DB_USER": "reader",
    "DB_PASSWORD": "s3cret-password",
    "DB_NAME": "iterable_challenge",
    "ITERABLE_API_KEY": "0123456789abcdef",
    "ITERABLE_API_BASE_URL": "https://api.iterable.com",
    "LOG_LEVEL": "INFO",
    "LOG_FILE": "integration.log",
}


def problems_of(environ=None, env_file=None):
    with pytest.raises(SettingsError) as caught:
        load_environment_variables(env_file, environ or {})
    return caught.value


def test_the_eight_variables_are_enough():
    loaded = load_environment_variables(None, GOOD)
    assert loaded.db_port == 3306
    assert loaded.db_password.get_secret_value() == "s3cret-password"
    assert loaded.utc_offset.utcoffset(None) == timedelta(0)


def test_the_real_environment_wins_over_the_file(tmp_path):
    env_file = tmp_path / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in GOOD.items()))
    loaded = load_environment_variables(env_file, {"DB_HOST": "other"})
    assert (loaded.db_host, loaded.db_user) == ("other", "reader")


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_a_file_from_any_editor_is_read(tmp_path, prefix, end):
    lines = [f"{name}={value}".encode() for name, value in GOOD.items()]
    env_file = tmp_path / ".env"
    env_file.write_bytes(prefix + b"# a comment" + end + end.join(lines) + end)
    assert load_environment_variables(env_file, {}).db_host == "db.internal"


def test_a_password_is_taken_as_it_is_written(tmp_path):
    env_file = tmp_path / ".env"
    env_file.write_text("DB_PASSWORD='a b#c${HOME}'\n")
    environ = {name: value for name, value in GOOD.items() if name != "DB_PASSWORD"}
    loaded = load_environment_variables(env_file, environ)
    assert loaded.db_password.get_secret_value() == "a b#c${HOME}"


def test_an_empty_password_is_allowed_and_an_absent_one_is_not():
    loaded = load_environment_variables(None, GOOD | {"DB_PASSWORD": ""})
    assert loaded.db_password.get_secret_value() == ""
    del (environ := dict(GOOD))["DB_PASSWORD"]
    assert problems_of(environ).problems == ["DB_PASSWORD is missing"]


def test_all_problems_are_told_at_once_and_no_value_is_shown():
    error = problems_of(
        {
            "DB_HOST": " ",
            "DB_PORT": "sEcReT-port",
            "DB_PASSWORD": "sEcReT-password",
            "DB_TIME_ZONE": "sEcReT-zone",
            "ITERABLE_API_KEY": "sEcReT key",
            "ITERABLE_API_BASE_URL": "ftp://sEcReT",
            "LOG_LEVEL": "sEcReT",
        }
    )
    named = [problem.split()[0] for problem in error.problems]
    assert named == [
        "DB_HOST",
        "DB_PORT",
        "DB_USER",
        "DB_NAME",
        "DB_TIME_ZONE",
        "ITERABLE_API_KEY",
        "ITERABLE_API_BASE_URL",
        "LOG_LEVEL",
    ]
    assert "secret" not in str(error).lower()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("DB_PORT", "0", "must be greater than or equal to 1"),
        ("DB_PORT", "65536", "must be less than or equal to 65535"),
        ("DB_PORT", "3306a", "must be a valid integer"),
        ("DB_SSL_CA", "no-such-ca.pem", "does not point to a file"),
        ("DB_TIME_ZONE", "Europe/Madrid", "must be an offset from UTC"),
        ("DB_TIME_ZONE", "+15:00", "must be an offset from UTC"),
        ("DB_QUERY_TIMEOUT_SECONDS", "-1", "must be greater than or equal to 1"),
        ("ITERABLE_API_KEY", "key\nX-Other: 1", "must be the key alone"),
        ("ITERABLE_API_KEY", "schlüssel", "must be the key alone"),
        ("ITERABLE_API_BASE_URL", "api.iterable.com", "must start with https://"),
        ("ITERABLE_API_BASE_URL", "https://", "must start with https://"),
        ("ITERABLE_API_BASE_URL", "http://api.iterable.com", "must use https://"),
        ("ITERABLE_API_BASE_URL", "https://a:b@api.iterable.com", "must not hold a user name"),
        ("ITERABLE_API_BASE_URL", "https://api.iterable.com/v2", "must end after the host"),
        ("ITERABLE_TIMEOUT_SECONDS", "0", "must be greater than 0"),
        ("ITERABLE_TIMEOUT_SECONDS", "nan", "must be"),
        ("ITERABLE_MAX_ATTEMPTS", "21", "must be less than or equal to 20"),
        ("LOG_LEVEL", "LOUD", "must be 'DEBUG', 'INFO'"),
    ],
)
def test_a_value_out_of_range_is_told_what_to_change(name, value, told):
    (problem,) = problems_of(GOOD | {name: value}).problems
    assert problem.startswith(f"{name} {told}")


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("https://api.iterable.com/", "https://api.iterable.com"),
        ("https://api.eu.iterable.com/api/", "https://api.eu.iterable.com"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_base_urls_that_mean_the_same_place(given, used):
    loaded = load_environment_variables(None, GOOD | {"ITERABLE_API_BASE_URL": given})
    assert loaded.iterable_api_base_url == used


def test_a_blank_optional_variable_means_its_default():
    loaded = load_environment_variables(None, GOOD | {"DB_PORT": "", "DB_SSL_CA": " "})
    assert (loaded.db_port, loaded.db_ssl_ca) == (3306, None)


def test_an_offset_west_of_greenwich():
    loaded = load_environment_variables(None, GOOD | {"DB_TIME_ZONE": "-05:30"})
    assert loaded.utc_offset.utcoffset(None) == -timedelta(hours=5, minutes=30)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("DB_HOTS=x", ".env line 2: DB_HOTS is no setting; did you mean DB_HOST?"),
        ("PATH_TO_NOWHERE=x", ".env line 2: PATH_TO_NOWHERE is no setting"),
        ("DB_HOST=again", ".env line 2: DB_HOST is set a second time"),
        ("'unclosed", ".env line 2 is not NAME=value"),
    ],
)
def test_a_broken_line_of_the_file_is_named(tmp_path, line, told):
    env_file = tmp_path / ".env"
    env_file.write_text(f"DB_HOST=x\n{line}\n")
    environ = {name: value for name, value in GOOD.items() if name != "DB_HOST"}
    assert problems_of(environ, env_file).problems == [told]


def test_a_file_that_is_not_utf8(tmp_path):
    env_file = tmp_path / ".env"
    env_file.write_bytes(b"DB_USER=J\xf6rg\n")
    assert "is not UTF-8" in str(problems_of(GOOD, env_file))


def test_a_named_file_that_is_not_there_is_an_error(tmp_path):
    assert "cannot be read: No such file" in str(problems_of(GOOD, tmp_path / "nowhere.env"))


def test_without_any_settings_the_message_names_them_and_the_demo(monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "DEFAULT_ENV_FILE", tmp_path / ".env")
    error = problems_of({}, tmp_path / ".env")
    for name in list(GOOD)[:6]:
        assert f"{name} is missing" in error.problems
    assert "--demo" in str(error)


def test_relative_paths_start_beside_main(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    loaded = load_environment_variables(None, GOOD | {"RESULTS_DIR": "out"})
    here = Path(settings.__file__).parent
    assert (loaded.log_file, loaded.results_dir) == (here / "integration.log", here / "out")


def test_secrets_do_not_print():
    shown = repr(load_environment_variables(None, GOOD))
    assert GOOD["DB_PASSWORD"] not in shown
    assert GOOD["ITERABLE_API_KEY"] not in shown
