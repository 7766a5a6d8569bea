"""The storage holds exactly the finished runs, and says why it cannot be used."""

import os
import sqlite3
import time

import pytest

from anabranch.bench.storage import Store, storage_url
from anabranch.errors import InputError

SPEC = {"task": "toy", "budget": "3 steps"}


@pytest.fixture
def url(tmp_path):
    return storage_url(str(tmp_path / "toy.race.db"), "toy")


def test_what_is_stored_comes_back(url):
    store = Store(url, "toy", SPEC, resume=False)
    store.add("a", "tune", 2, {}, {}, {"valid": 0.5, "curve": [[1, 2.0, 0.3]]})
    store.add("a", "tune", 0, {}, {}, {"failed": "diverged"})
    again = Store(url, "toy", SPEC, resume=True)
    assert again.finished("a", "tune") == {
        2: {"valid": 0.5, "curve": [[1, 2.0, 0.3]]},
        0: {"failed": "diverged"},
    }
    assert again.finished("a", "final") == {}


def test_a_race_that_is_there_is_not_written_over(url):
    Store(url, "toy", SPEC, resume=False)
    with pytest.raises(InputError, match=r"already holds a race 'toy': add --resume"):
        Store(url, "toy", SPEC, resume=False)
    Store(url, "other", SPEC, resume=False)  # another race in the same storage


def test_a_race_is_not_resumed_with_other_settings(url):
    Store(url, "toy", SPEC, resume=False)
    with pytest.raises(InputError, match=r"other settings: budget was 3 steps, now 4 steps"):
        Store(url, "toy", {**SPEC, "budget": "4 steps"}, resume=True)


def test_a_race_of_another_version_is_named(url):
    Store(url, "toy", SPEC, resume=False).header.set_user_attr("format", 99)
    with pytest.raises(InputError, match=r"expected a race of format 1 .* has format 99"):
        Store(url, "toy", SPEC, resume=True)


def test_two_runners_do_not_do_the_same_work(url):
    store = Store(url, "toy", SPEC, resume=False)
    with store.owned(), pytest.raises(InputError, match=f"is being run by process {os.getpid()}"), store.owned():
        pass
    with store.owned():  # given back at the end
        pass


def test_a_runner_that_died_does_not_hold_the_race(url):
    store = Store(url, "toy", SPEC, resume=False)
    store.header.set_user_attr("owner", {"host": os.uname().nodename, "pid": 2**22 + 1, "beat": time.time()})
    with store.owned():
        pass
    store.header.set_user_attr("owner", {"host": "elsewhere", "pid": 1, "beat": time.time() - 3600})
    with store.owned():
        pass


def test_a_file_that_is_no_database_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, " * 100)
    with pytest.raises(InputError, match=r"cannot use the storage sqlite:///.*not a database"):
        Store(storage_url(str(path), "toy"), "toy", SPEC, resume=False)
    assert path.read_text().startswith("not a database")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot use the storage .*unable to open database file"):
        Store(storage_url(str(tmp_path / "no" / "x.db"), "toy"), "toy", SPEC, resume=False)


def test_a_locked_file_is_an_error_and_not_a_wait_without_end(url, tmp_path):
    store = Store(url + "?timeout=0.1", "toy", SPEC, resume=False)
    holder = sqlite3.connect(tmp_path / "toy.race.db")
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(InputError, match=r"cannot use the storage .*locked"):
            store.add("a", "tune", 0, {}, {}, {"valid": 1.0})
    finally:
        holder.close()


def test_a_url_that_cannot_be_read():
    with pytest.raises(InputError, match="cannot use the storage"):
        Store("nosuchdb://host/x", "toy", SPEC, resume=False)
