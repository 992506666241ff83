"""Settings: who wins, what is refused, and that each is documented."""

from __future__ import annotations

import tomllib
from codecs import BOM_UTF8
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tradepost.errors import (
    FileNotWritten,
    InsecureTransport,
    InvalidSettings,
    StateFolderUnusable,
    TradepostError,
    WrongMoment,
)
from tradepost_signing.policy.trust import TrustPolicy
from tradepost_worker.assembly import worker_from_settings
from tradepost_worker.cli import app
from tradepost_worker.device.owner_command import OwnerCommandFile
from tradepost_worker.settings import (
    ENVIRONMENT_PREFIX,
    FILE_NAME,
    Settings,
    available_cores,
    load_settings,
    save_settings,
    set_keys,
)
from tradepost_worker.state import StateFolder

NAMES = [field.name for field in msgspec.structs.fields(Settings)]
GUIDE = Path(__file__).parents[3] / "docs" / "worker.md"


def settings(folder: Path, flags: dict[str, object] | None = None, **environment: str) -> Settings:
    variables = {f"{ENVIRONMENT_PREFIX}{name.upper()}": value for name, value in environment.items()}
    return load_settings({"state_dir": folder, **(flags or {})}, variables)


def test_defaults_follow_the_device(tmp_path):
    found = settings(tmp_path)
    assert found.capacity == found.runners_max == available_cores()
    assert found.threads_per_runner == 1
    assert found.trust_path == tmp_path / "trust.toml"
    assert found.price_per_unit_microcredits == 1000
    assert found.memory_bytes_max > 0


def test_a_flag_wins_over_the_environment_over_the_file(tmp_path):
    save_settings(tmp_path / FILE_NAME, {"capacity": 3, "price_per_unit": "0.5", "runners_max": 1})
    assert settings(tmp_path).capacity == 3
    assert settings(tmp_path, capacity="4").capacity == 4
    found = settings(tmp_path, {"capacity": 5, "price_per_unit": None}, capacity="4", price_per_unit="0.25")
    assert (found.capacity, found.runners_max) == (5, 1)
    assert found.price_per_unit_microcredits == 250_000


def test_the_state_folder_may_come_from_the_environment(tmp_path):
    found = load_settings({}, {f"{ENVIRONMENT_PREFIX}STATE_DIR": str(tmp_path)})
    assert found.state_dir == tmp_path


def test_a_user_without_a_home_is_told_what_to_give(tmp_path, monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # raises KeyError, as for an unknown user
    with pytest.raises(StateFolderUnusable, match="no home folder") as caught:
        load_settings({}, {})
    assert "--state-dir" in caught.value.hint
    assert load_settings({"state_dir": tmp_path}, {}).state_dir == tmp_path


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StateFolderUnusable, match="cannot be created") as caught:
        StateFolder(tmp_path / "file" / "state").identity()
    assert "--state-dir" in caught.value.hint


def a_file(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def below_a_file(path: Path) -> Path:
    return a_file(path) / "state"


def a_link_to_nothing(path: Path) -> Path:
    path.symlink_to(path.parent / "nothing")
    return path


@pytest.mark.parametrize(
    ("spoil", "why"),
    [(a_file, "is a file, not a folder"), (below_a_file, "is a file"), (a_link_to_nothing, "does not exist")],
)
def test_what_cannot_be_a_state_folder_is_refused_as_that(
    tmp_path: Path, spoil: Callable[[Path], Path], why: str
) -> None:
    """It is not the settings file in it that is wrong."""
    with pytest.raises(StateFolderUnusable, match=why):
        settings(spoil(tmp_path / "here"))


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("pause",), StateFolderUnusable),
        (("resume",), StateFolderUnusable),
        (("limits", "set", "nice", "5"), StateFolderUnusable),
        (("service", "install", "--no-start"), StateFolderUnusable),
        (("drain",), WrongMoment),
        (("status",), None),
        (("earnings",), None),
        (("limits", "show"), None),
        (("trust", "list"), None),
        (("uninstall", "--yes"), None),
    ],
)
def test_a_state_folder_that_is_mistyped_is_not_created(
    tmp_path: Path, arguments: tuple[str, ...], kind: type[TradepostError] | None
) -> None:
    mistyped = tmp_path / "sttae"
    result = CliRunner().invoke(app, [*arguments, "--state-dir", str(mistyped)])
    if kind is None:
        assert result.exception is None
    else:
        assert isinstance(result.exception, kind)
        assert "sttae" in str(result.exception)
    assert not mistyped.exists()


def test_the_status_of_a_folder_that_does_not_exist_says_so(tmp_path: Path) -> None:
    for folder in (tmp_path / "sttae", Path("/proc/x")):
        result = CliRunner().invoke(app, ["status", "--state-dir", str(folder)])
        assert f"the state folder {folder} does not exist" in result.stdout
    assert "does not exist" not in CliRunner().invoke(app, ["status", "--state-dir", str(tmp_path)]).stdout


async def test_a_worker_that_did_not_join_creates_no_state_folder(tmp_path: Path) -> None:
    with pytest.raises(WrongMoment, match="contains no joined device"):
        async with worker_from_settings(settings(tmp_path / "sttae")):
            pytest.fail("it runs")
    assert not (tmp_path / "sttae").exists()


@pytest.mark.parametrize("name", ["worker.toml", "membership.json", "worker.key", "trust.toml"])
@pytest.mark.parametrize("spoil", [Path.mkdir, a_link_to_nothing])
def test_a_file_of_the_state_folder_that_is_none_is_a_typed_error(
    tmp_path: Path, name: str, spoil: Callable[[Path], object]
) -> None:
    spoil(tmp_path / name)

    def read() -> None:
        found = settings(tmp_path)
        state = StateFolder(tmp_path)
        state.membership()
        TrustPolicy.load(found.trust_path)
        state.identity()

    with pytest.raises(TradepostError, match=name.replace(".", r"\.")):
        read()


@pytest.mark.parametrize("name", ["connection.json", "standing.json", "owner.json"])
def test_a_record_of_the_running_worker_that_is_unreadable_is_no_obstacle(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    state = StateFolder(tmp_path)
    with state.in_use() if name == "owner.json" else nullcontext():
        assert state.status() is None
        state.connection()
        OwnerCommandFile(state.owner_command).read()


@pytest.mark.parametrize("price", ["0.001", "1e-3", "0.0010"])
def test_a_price_is_read_exactly(tmp_path, price):
    assert settings(tmp_path, price_per_unit=price).price_per_unit_microcredits == 1000


def test_a_price_in_the_file_may_be_a_number(tmp_path):
    (tmp_path / FILE_NAME).write_text("price_per_unit = 0.1\n")
    assert settings(tmp_path).price_per_unit_microcredits == 100_000


def test_gateways_are_a_list_in_the_file_and_separated_by_commas_elsewhere(tmp_path):
    (tmp_path / FILE_NAME).write_text('gateways = ["https://one.example", "http://127.0.0.1:8080"]\n')
    assert settings(tmp_path).gateways == ("https://one.example", "http://127.0.0.1:8080")
    assert settings(tmp_path, gateways="https://a.example, https://b.example").gateways == (
        "https://a.example",
        "https://b.example",
    )
    assert len(settings(tmp_path, gateways="").gateways) == 2, "an empty variable is not set"


def test_a_gateway_in_plain_http_is_refused_beyond_this_machine(tmp_path):
    with pytest.raises(InsecureTransport):
        settings(tmp_path, gateways="http://gateway.example")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gateways", "ftp://gateway.example"),
        ("price_per_unit", "0"),
        ("price_per_unit", "-1"),
        ("price_per_unit", "0.0000001"),
        ("price_per_unit", "cheap"),
        ("capacity", "0"),
        ("capacity", "many"),
        ("runners_max", "0"),
        ("cache_bytes_max", "-5"),
        ("capactiy", "1"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, name, value):
    with pytest.raises(InvalidSettings):
        settings(tmp_path, **{name: value})


@pytest.mark.parametrize("text", ["pirce_per_unit = 1\n", "capacity = \n", "\xff"])
def test_a_file_that_is_not_understood_is_refused(tmp_path, text):
    (tmp_path / FILE_NAME).write_text(text, encoding="latin-1")
    with pytest.raises(InvalidSettings):
        settings(tmp_path)


def test_saving_keeps_what_the_owner_wrote(tmp_path):
    path = tmp_path / FILE_NAME
    path.write_text("# mine\ncapacity = 2  # cores\nrunners_max = 1\n")
    save_settings(path, {"capacity": 7, "price_per_unit": "0.01"})
    assert path.read_text() == '# mine\ncapacity = 7  # cores\nrunners_max = 1\nprice_per_unit = "0.01"\n'
    assert settings(tmp_path).capacity == 7


def test_saving_keeps_permissions_and_links(tmp_path):
    elsewhere = tmp_path / "mine.toml"
    elsewhere.write_text("capacity = 2\n")
    elsewhere.chmod(0o640)
    (tmp_path / FILE_NAME).symlink_to(elsewhere)
    save_settings(tmp_path / FILE_NAME, {"capacity": 3})
    assert (tmp_path / FILE_NAME).is_symlink()
    assert elsewhere.read_text() == "capacity = 3\n"
    assert elsewhere.stat().st_mode & 0o777 == 0o640
    save_settings(tmp_path / "new" / FILE_NAME, {"capacity": 3})
    assert (tmp_path / "new" / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_saving_into_what_is_no_toml_changes_nothing(tmp_path):
    path = tmp_path / FILE_NAME
    for spoiled in (b"capacity = \n", b"\xff"):
        path.write_bytes(spoiled)
        with pytest.raises(InvalidSettings, match=FILE_NAME):
            save_settings(path, {"capacity": 3})
        assert path.read_bytes() == spoiled


def test_settings_that_cannot_be_saved_are_a_typed_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileNotWritten, match="file is not a folder"):
        save_settings(tmp_path / "file" / FILE_NAME, {"capacity": 3})


def test_a_file_with_a_byte_order_mark_is_read_and_keeps_it(tmp_path):
    path = tmp_path / FILE_NAME
    path.write_bytes(BOM_UTF8 + b"capacity = 2\r\n")
    assert settings(tmp_path).capacity == 2
    save_settings(path, {"capacity": 3, "hours": "22:00-07:00"})
    assert path.read_bytes() == BOM_UTF8 + b'capacity = 3\r\nhours = "22:00-07:00"\r\n'
    assert settings(tmp_path).capacity == 3


#: Statements of a TOML document, none of which sets what is saved here. Tables come after them.
STATEMENTS = (
    "# capacity = 1, said the owner",
    "",
    "plain = 1 # one",
    "'capacity ' = 'spaced'",
    "dotted.capacity = 1",
    'dotted . "hours" = 2',
    "inline = { capacity = 1, hours = 'x' } # inline",
    "array = [ # of lines\n  1, # one\n  2,\n]",
    'text = """\ncapacity = 9\n"""',
    "literal = '''\nhours = 'never'\n'''",
    "when = 1979-05-27T07:32:00Z",
    '"ключ" = 0x1',
    "wide =   1e3   # spaced",
)
TABLES = (
    "[table]\ncapacity = 1 # not this one\n",
    "[[list]]\nhours = 'x'\n[[list]]\nhours = 'y'\n",
    "  [indented]\n  x = 1",
    "[deep.er]\ncapacity.y = 2\n",
)
SETS = ("capacity = 2", "capacity=2 # cores", '"capacity"  =  2', "'capacity' = [\n2,\n]", "capacity.x = 2")


class Document(NamedTuple):
    """A TOML document, and its statements that are to stay as they are, in their order."""

    data: bytes
    kept: list[str]


@st.composite
def documents(draw: st.DrawFn) -> Document:
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    statements = draw(st.lists(st.sampled_from(STATEMENTS), unique=True))
    tables = draw(st.lists(st.sampled_from(TABLES), unique=True))
    kept = [one.replace("\n", newline) for one in (*statements, *tables)]
    if draw(st.booleans()):
        statements.insert(draw(st.integers(0, len(statements))), draw(st.sampled_from(SETS)))
    text = "\n".join([*statements, *tables]) + draw(st.sampled_from(["", "\n", "\n\n"]))
    mark = draw(st.sampled_from([b"", BOM_UTF8]))
    return Document(mark + text.replace("\n", newline).encode(), kept)


@given(documents(), st.integers(1, 4096), st.text(st.characters(exclude_categories=["Cs"])))
def test_saving_changes_two_keys_and_nothing_else(document: Document, capacity: int, hours: str) -> None:
    changes = {"capacity": capacity, "hours": hours}
    after = set_keys(document.data, changes)
    assert after.startswith(BOM_UTF8) == document.data.startswith(BOM_UTF8)
    old, new = (data.removeprefix(BOM_UTF8).decode() for data in (document.data, after))
    assert tomllib.loads(new) == tomllib.loads(old) | changes
    position = 0
    for statement in document.kept:
        position = new.index(statement, position) + len(statement)
    assert set_keys(after, changes) == after


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_documented(name):
    text = GUIDE.read_text()
    assert f"`{name}`" in text
    assert f"`{ENVIRONMENT_PREFIX}{name.upper()}`" in text
