"""The dotenv file and the files of secrets: what is read, and what each mistake is told."""

import traceback

import pytest

from configuration import settings
from configuration.settings import load_environment_variables
from tests.configuration.test_settings import GOOD, problems_of, without
from tests.users import NOBODYS_NAME, as_nobody, needs_root, open_folder


@pytest.fixture
def write(tmp_path):
    """Return what writes a settings file, and returns its path."""

    def write_file(text):
        (tmp_path / ".env").write_text(text)
        return tmp_path / ".env"

    return write_file


OPEN_QUOTE = ".env line 2: the opening quote of the value is not closed on the same line"
TYPOGRAPHIC = (
    ".env line 2: the value begins with a typographic quote; write ' or \" before and after it"
)
CUT = (
    ".env line 2: a # after a space cuts off the value; quote it, or give the comment its own line"
)


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_a_file_from_any_editor_is_read(tmp_path, prefix, end):
    lines = [f"{name}={value}".encode() for name, value in GOOD.items()]
    env_file = tmp_path / ".env"
    env_file.write_bytes(prefix + b"# a comment" + end + end.join(lines) + end)
    assert load_environment_variables(env_file, {}).db_host == "db.internal"


def test_a_password_is_taken_as_it_is_written(write):
    env_file = write("DB_PASSWORD=' a b#c${HOME} '\n")
    loaded = load_environment_variables(env_file, without("DB_PASSWORD"))
    assert loaded.db_password.get_secret_value() == " a b#c${HOME} "


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("DB_HOTS=x", ".env line 2: DB_HOTS is not a setting; did you mean DB_HOST?"),
        ("COLOUR=x", ".env line 2: COLOUR is not a setting"),
        ("DB_HOST=again", ".env line 2: DB_HOST is set twice"),
        ("'unclosed", ".env line 2 is not NAME=value"),
        ("sEcReT", ".env line 2 is not NAME=value"),
        ('DB_USER="unclosed', OPEN_QUOTE),
        ("DB_USER='cut’", OPEN_QUOTE),
        ("DB_USER = ‘typographic’", TYPOGRAPHIC),
        ("DB_USER=Shop #1", CUT),
        ("DB_USER=reader # the usual one", CUT),
    ],
)
@pytest.mark.parametrize("end", ["", "\n# What's 'quoted'\n"])
def test_a_line_that_is_not_as_it_seems_to_be_meant_is_told_once(write, line, end, told):
    env_file = write(f"DB_HOST=x\n{line}{end}")
    missing = ("DB_HOST", "DB_USER") if "DB_USER" in line else ("DB_HOST",)
    assert problems_of(without(*missing), env_file).problems == [told]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("'Shop #1'", "Shop #1"),
        ('"Shop #1" # a comment', "Shop #1"),
        ("'“x”'", "“x”"),
        ("Shop#1", "Shop#1"),
        ("Bob’s", "Bob’s"),
        ('5" nails', '5" nails'),
        ("", None),
        (" # none", None),
    ],
)
def test_a_value_that_can_be_meant_as_it_is_written_is_taken(write, written, value):
    env_file = write(f"SOURCE_NAME={written}\n")
    assert load_environment_variables(env_file, GOOD).source_name == value


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"DB_USER=J\xf6rg\n", "is not UTF-8; save it as UTF-8"),
        ("DB_USER=Jörg\n".encode("utf-16-le"), "is not UTF-8; save it as UTF-8"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, told):
    env_file = tmp_path / "job.env"
    if content is not None:
        env_file.write_bytes(content)
    assert problems_of(GOOD, env_file).problems == [f"{env_file} {told}"]


@needs_root
def test_a_file_of_another_user_is_named_with_its_owner():
    with open_folder() as folder:
        env_file, secret, query = (folder / name for name in ("job.env", "key", "own.sql"))
        for path in (env_file, secret, query):
            path.touch(mode=0o600)
        environ = without("ITERABLE_API_KEY") | {"ITERABLE_API_KEY_FILE": str(secret)}
        with as_nobody():
            (of_file,) = problems_of(GOOD, env_file).problems
            of_secret, of_query = problems_of(environ | {"QUERY_FILE": str(query)}).problems
    for path, told in ((env_file, of_file), (secret, of_secret), (query, of_query)):
        assert "cannot be read: Permission denied. It belongs to root and the job runs as" in told
        assert told.endswith(f"; as root: chown {NOBODYS_NAME} {path}")


@pytest.mark.parametrize("name", ["DB_PASSWORD", "ITERABLE_API_KEY"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"], ids=["no line end", "LF", "CRLF"])
def test_a_secret_can_be_read_from_a_file_beside_main(tmp_path, monkeypatch, name, end):
    monkeypatch.setattr(settings, "HERE", tmp_path)
    # Blanks in a password belong to it.
    text = " from a file " if name == "DB_PASSWORD" else "from-a-file"
    (tmp_path / "secret").write_bytes(f"{text}{end}".encode())
    # As .env.example leaves it: set to nothing is not set.
    loaded = load_environment_variables(None, GOOD | {name: "", f"{name}_FILE": "secret"})
    assert getattr(loaded, name.lower()).get_secret_value() == text


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "ITERABLE_API_KEY_FILE {} cannot be read: No such file"),
        (b"", "ITERABLE_API_KEY must be only the key"),
        (b"sEcReT-\xff", "ITERABLE_API_KEY_FILE {} is not UTF-8"),
        (b"sEcReT\nsEcReT\n", "ITERABLE_API_KEY must be only the key"),
    ],
)
def test_a_secret_file_that_is_no_use_is_one_problem_without_its_content(tmp_path, content, told):
    secret = tmp_path / "key"
    if content is not None:
        secret.write_bytes(content)
    environ = without("ITERABLE_API_KEY") | {"ITERABLE_API_KEY_FILE": str(secret)}
    error = problems_of(environ)
    (problem,) = error.problems
    assert problem.startswith(told.format(secret))
    assert "sEcReT" not in "".join(traceback.format_exception(error))


def test_a_secret_and_its_file_in_one_place_are_one_too_many(write):
    both = {"DB_PASSWORD": "x", "DB_PASSWORD_FILE": "y"}
    told = ["DB_PASSWORD and DB_PASSWORD_FILE are both set; keep one"]
    assert problems_of(GOOD | both).problems == told
    env_file = write("".join(f"{name}={value}\n" for name, value in both.items()))
    assert problems_of(without("DB_PASSWORD"), env_file).problems == told


def test_of_a_secret_and_its_file_the_one_in_the_environment_wins(tmp_path, write):
    secret = tmp_path / "secret"
    secret.write_text("from-a-file")
    loaded = load_environment_variables(write("DB_PASSWORD_FILE=nowhere\n"), GOOD)
    assert loaded.db_password.get_secret_value() == GOOD["DB_PASSWORD"]
    env_file = write("DB_PASSWORD=x\n")
    environ = without("DB_PASSWORD") | {"DB_PASSWORD_FILE": str(secret)}
    loaded = load_environment_variables(env_file, environ)
    assert loaded.db_password.get_secret_value() == "from-a-file"
    # Blank is not set.
    env_file = write(f"DB_PASSWORD_FILE={secret}\n")
    loaded = load_environment_variables(env_file, GOOD | {"DB_PASSWORD": ""})
    assert loaded.db_password.get_secret_value() == "from-a-file"
