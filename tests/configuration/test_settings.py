"""Settings: what is accepted, and what each mistake is told."""

import traceback
from datetime import timedelta
from pathlib import Path

import pytest
import trustme

from configuration import settings
from configuration.env_file import SettingsError
from configuration.settings import load_environment_variables, load_results_dir
from tests.conftest import ROOT

GOOD = {
    "DB_HOST": "db.internal",
    "DB_USER": "reader",
    "DB_PASSWORD": "s3cret-password",
    "DB_NAME": "iterable_challenge",
    "ITERABLE_API_KEY": "0123456789abcdef",
    "ITERABLE_API_BASE_URL": "https://api.iterable.com",
    "LOG_LEVEL": "INFO",
    "LOG_FILE": "iterable_integration.log",
}


def problems_of(environ=None, env_file=None):
    with pytest.raises(SettingsError) as caught:
        load_environment_variables(env_file, environ or {})
    return caught.value


def without(*names):
    return {name: value for name, value in GOOD.items() if name not in names}


def test_the_eight_variables_are_enough():
    loaded = load_environment_variables(None, GOOD)
    assert (loaded.time_zone.utcoffset(None), loaded.create_new_fields) == (timedelta(0), None)


def test_values_are_taken_as_they_are_meant(tmp_path):
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    given = {
        "DB_PORT": " ",
        "DB_TIME_ZONE": "-05:30",
        "ITERABLE_CA_FILE": str(tmp_path / "ca.pem"),
        "ITERABLE_CREATE_FIELDS": "NEVER",
        "ITERABLE_IDENTITY": "User_ID",
        "ITERABLE_PROXY": "http://me:p%40ss@proxy.example:3128/",
        "HEARTBEAT_URL": "https://a.b/sEcReT-uuid",
        "MAX_RUNTIME_SECONDS": "0.5",
        "MIN_ROWS": "10",
        "MAX_ROWS": "10",
    }
    loaded = load_environment_variables(None, GOOD | given)
    assert loaded.db_port == 3306
    assert loaded.time_zone.utcoffset(None) == -timedelta(hours=5, minutes=30)
    assert loaded.iterable_ca_file == tmp_path / "ca.pem"
    assert (loaded.iterable_identity, loaded.create_new_fields) == ("user_id", False)
    assert loaded.iterable_proxy.get_secret_value() == given["ITERABLE_PROXY"]
    assert (loaded.max_runtime_seconds, loaded.min_rows, loaded.max_rows) == (0.5, 10, 10)
    assert loaded.heartbeat_url.get_secret_value() == given["HEARTBEAT_URL"]
    secrets = [GOOD["DB_PASSWORD"], GOOD["ITERABLE_API_KEY"], "sEcReT-uuid", "p%40ss"]
    for shown in (repr(loaded), str(loaded), f"{loaded}", loaded.model_dump_json()):
        assert not [secret for secret in secrets if secret in shown]


def test_an_empty_password_is_one_and_an_absent_one_is_not(tmp_path):
    env_file = tmp_path / ".env"
    env_file.write_text("DB_PASSWORD=of-the-file\n")
    loaded = load_environment_variables(env_file, GOOD | {"DB_PASSWORD": ""})
    assert loaded.db_password.get_secret_value() == ""
    assert problems_of(without("DB_PASSWORD")).problems == ["DB_PASSWORD is missing or empty"]


def test_all_problems_are_told_at_once_and_no_value_is_shown(tmp_path):
    (tmp_path / "job.env").write_text("LOG_FILE='sEcReT\nDB_USERS=sEcReT\n")
    error = problems_of(
        {
            "DB_HOST": " ",
            "DB_PORT": "sEcReT-port",
            "DB_PASSWORD": "sEcReT-password",
            "DB_TIME_ZONE": "sEcReT-zone",
            "ITERABLE_API_KEY": "sEcReT key",
            "ITERABLE_API_BASE_URL": "ftp://sEcReT",
            "LOG_LEVEL": "sEcReT",
            "HEARTBEAT_URL": "https://sEcReT\u2100:1/",
            "METRICS_FILE": "sEcReT",
        },
        tmp_path / "job.env",
    )
    of_file, of_values = error.problems[:2], error.problems[2:]
    assert [problem.partition(":")[0] for problem in of_file] == [
        "job.env line 1",
        "job.env line 2",
    ]
    assert [problem.split()[0] for problem in of_values] == [
        *("DB_HOST", "DB_PORT", "DB_USER", "DB_NAME", "DB_TIME_ZONE", "ITERABLE_API_KEY"),
        *("ITERABLE_API_BASE_URL", "LOG_LEVEL", "HEARTBEAT_URL", "METRICS_FILE"),
    ]
    assert "secret" not in "".join(traceback.format_exception(error)).lower()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("DB_PORT", "0", "must be greater than or equal to 1"),
        ("DB_PORT", "3306a", "must be a valid integer"),
        ("DB_SSL_CA", "/no/ca.pem", "names /no/ca.pem, which cannot be read: No such file"),
        ("LOG_FILE", "~no-such-user/x", "begins with ~ and names a user without a home directory"),
        ("DB_PASSWORD", "\udcff", "is not valid UTF-8"),
        ("DB_NAME", "\udcff", "must be a valid string"),
        ("DB_TIME_ZONE", "Europe/Nowhere", "must be an offset from UTC such as +00:00 or"),
        ("DB_TIME_ZONE", "Europe", "must be an offset from UTC"),
        ("DB_TIME_ZONE", "../zone", "must be an offset from UTC"),
        ("DB_TIME_ZONE", "+15:00", "must be an offset from UTC"),
        ("ITERABLE_API_KEY", "key\nX-Other: 1", "must be only the key"),
        ("ITERABLE_API_BASE_URL", "api.iterable.com", "must be a URL such as https://"),
        ("ITERABLE_API_BASE_URL", "http://api.iterable.com", "must use https://"),
        ("ITERABLE_API_BASE_URL", "https://a:b@api.iterable.com", "must not hold a user name"),
        ("ITERABLE_API_BASE_URL", "https://api.iterable.com/v2", "must end after the host"),
        ("ITERABLE_API_BASE_URL", "https://api:99999", "must be a URL such as https://"),
        ("ITERABLE_API_BASE_URL", "https://[api", "must be a URL such as https://"),
        ("ITERABLE_API_BASE_URL", "https://api iterable.com", "must be a URL such as"),
        ("ITERABLE_TIMEOUT_SECONDS", "nan", "must be"),
        ("MAX_RUNTIME_SECONDS", "inf", "must be less than or equal to 604800"),
        ("ITERABLE_IDENTITY", "phone", "must be 'email' or 'user_id'"),
        ("ITERABLE_CREATE_FIELDS", "yes", "must be 'project', 'always' or 'never'"),
        ("MAX_ROWS", "9", "must not be less than MIN_ROWS"),
        ("LOG_LEVEL", "LOUD", "must be 'DEBUG', 'INFO'"),
        ("ITERABLE_PROXY", "https://sEcReT:sEcReT@p:1", "must be http:// with a host and a port"),
        ("ITERABLE_PROXY", "http://sEcReT", "must be http:// with a host and a port, such as http"),
        ("ITERABLE_PROXY", "sEcReT:3128", "must be a URL such as http://"),
        ("ITERABLE_PROXY", "http://proxy:3128?sEcReT", "must be http:// with a host and a port"),
        ("HEARTBEAT_URL", "hc-ping.com/1", "must be a URL such as https://"),
        ("METRICS_FILE", "/var/lib/metrics.txt", "must end in .prom"),
    ],
)
def test_a_value_out_of_range_is_told_what_to_change(name, value, told):
    (problem,) = problems_of(GOOD | {"MIN_ROWS": "10", name: value}).problems
    assert problem.startswith(f"{name} {told}")
    assert "sEcReT" not in problem


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("https://api.iterable.com/", "https://api.iterable.com"),
        ("https://api.eu.iterable.com/api/", "https://api.eu.iterable.com"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("HTTPS://API.Iterable.com", "https://api.iterable.com"),
    ],
)
def test_base_urls_that_mean_the_same_place(given, used):
    loaded = load_environment_variables(None, GOOD | {"ITERABLE_API_BASE_URL": given})
    assert loaded.iterable_api_base_url == used


def test_a_blank_variable_does_not_override_one_that_is_set(tmp_path):
    env_file = tmp_path / ".env"
    env_file.write_text("MIN_ROWS=10\nDB_HOST=of-the-file\n")
    blank = dict.fromkeys(("MIN_ROWS", "DB_HOST", "MAX_ROWS"), " ")
    loaded = load_environment_variables(env_file, GOOD | blank)
    assert (loaded.min_rows, loaded.db_host, loaded.max_rows) == (10, "of-the-file", None)


def test_without_any_settings_the_message_names_them_and_the_demo(monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "DEFAULT_ENV_FILE", tmp_path / ".env")
    error = problems_of({}, tmp_path / ".env")
    for name in list(GOOD)[:6]:
        assert f"{name} is missing or empty" in error.problems
    assert "--demo" in str(error)


def test_the_files_of_a_run_are_beside_main_whatever_the_working_folder_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    loaded = load_environment_variables(None, without("LOG_FILE"))
    assert (ROOT / "main.py").is_file()
    assert settings.DEFAULT_ENV_FILE == ROOT / ".env"
    assert settings.HERE == loaded.results_dir == ROOT
    assert loaded.log_file == ROOT / "iterable_integration.log"
    assert loaded.state_file == ROOT / "sync_state.sqlite3"
    relative = {"LOG_FILE": "../x.log", "STATE_FILE": "orders/state"}
    loaded = load_environment_variables(None, GOOD | relative)
    assert (loaded.log_file, loaded.state_file) == (ROOT / "../x.log", ROOT / "orders/state")
    assert (loaded.job, loaded.query_name) == ("orders/state", "phase2_queries.sql")


@pytest.mark.parametrize(
    ("in_the_file", "environ", "folder"),
    [
        ("", {}, ROOT),
        ("RESULTS_DIR=out", {"RESULTS_DIR": "/srv/out"}, Path("/srv/out")),
        ("RESULTS_DIR=out", {"RESULTS_DIR": " "}, ROOT / "out"),
        ("RESULTS_DIR=", {"RESULTS_DIR": " "}, ROOT),
        ("DB_PORT=many\nNO_SETTING=1\nRESULTS_DIR=out", {}, ROOT / "out"),
    ],
)
def test_the_results_are_found_whatever_the_other_variables_are(
    tmp_path, in_the_file, environ, folder
):
    env_file = tmp_path / ".env"
    env_file.write_text(in_the_file)
    assert load_results_dir(env_file, environ) == folder


def test_without_its_settings_the_results_are_not_looked_for_elsewhere(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load_results_dir(tmp_path / "nowhere.env", {})
    with pytest.raises(SettingsError, match="RESULTS_DIR begins with ~ and names a user without a"):
        load_results_dir(None, {"RESULTS_DIR": "~no-such-user/out"})


@pytest.mark.parametrize("content", [b"", b"no certificate", b"\xff\x00"])
def test_a_file_without_a_certificate_is_told(tmp_path, content):
    (tmp_path / "ca.pem").write_bytes(content)
    told = ["ITERABLE_CA_FILE names a file without a certificate in PEM format"]
    assert problems_of(GOOD | {"ITERABLE_CA_FILE": str(tmp_path / "ca.pem")}).problems == told
