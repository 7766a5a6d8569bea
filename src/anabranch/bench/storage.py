"""Where a race is kept: its finished runs are trials in Optuna's storage, an SQLite file or a database by URL.

A run enters the storage once, whole, when it is finished. Whatever kills a race, what is stored is exactly the runs
that finished; going on means to run the rest.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from anabranch.errors import InputError

FORMAT = 1
_BEAT, _SILENCE = 5.0, 20.0  # seconds between signs of life, and after how many a runner counts as dead

Result = dict[str, Any]


def storage_url(storage: str | None, name: str) -> str:
    """URL of the storage: a file of the race's name in the working folder unless another is given."""
    if storage is None:
        return f"sqlite:///{name}.race.db"
    if storage.startswith("postgresql://"):  # the driver that the extra `postgresql` installs
        return storage.replace("postgresql://", "postgresql+psycopg://", 1)
    return storage if "://" in storage else f"sqlite:///{storage}"


class Store:
    """The finished runs of one race.

    Arguments:
        url: database URL.
        race: name of the race in that database.
        spec: all that its results depend on, as JSON.
        resume: go on with a race that is there already; without it, one that is there is an error.
    """

    def __init__(self, url: str, race: str, spec: dict[str, Any], *, resume: bool):
        self.url, self.race = url, race
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with self._readable_errors():
            self.storage = optuna.storages.RDBStorage(url)
            names = set(optuna.get_all_study_names(self.storage))
            if race in names:
                self._check(spec, resume)
            else:
                study = optuna.create_study(storage=self.storage, study_name=race)
                study.set_user_attr("spec", spec)
                study.set_user_attr("format", FORMAT)
            self.header = optuna.load_study(storage=self.storage, study_name=race)

    def _check(self, spec: dict[str, Any], resume: bool) -> None:
        attributes = optuna.load_study(storage=self.storage, study_name=self.race).user_attrs
        if attributes.get("format") != FORMAT:
            raise InputError(
                f"expected a race of format {FORMAT} in {self.url}; the race {self.race!r} there has format "
                f"{attributes.get('format')} (choose another --name or --storage)"
            )
        if not resume:
            raise InputError(
                f"{self.url} already holds a race {self.race!r}: add --resume to go on with it, "
                "or choose another --name or --storage"
            )
        old = attributes.get("spec", {})
        changed = [
            f"{key} was {old.get(key)}, now {spec.get(key)}" for key in {**old, **spec} if old.get(key) != spec.get(key)
        ]
        if changed:
            raise InputError(f"cannot resume the race {self.race!r} with other settings: {'; '.join(changed)}")

    def _study(self, contender: str, phase: str) -> optuna.Study:
        with self._readable_errors():
            return optuna.create_study(
                storage=self.storage,
                study_name=f"{self.race}/{contender}/{phase}",
                load_if_exists=True,
            )

    def finished(self, contender: str, phase: str) -> dict[int, Result]:
        """Results by index of the runs that are done: tuning trials by number, final runs by seed."""
        with self._readable_errors():
            trials = self._study(contender, phase).get_trials(deepcopy=False)
            return {trial.user_attrs["index"]: trial.user_attrs["result"] for trial in trials}

    def add(
        self,
        contender: str,
        phase: str,
        index: int,
        params: dict[str, Any],
        distributions: dict[str, BaseDistribution],
        result: Result,
    ) -> None:
        """Store one finished run; all of it or nothing."""
        failed = "failed" in result
        trial = create_trial(
            state=TrialState.FAIL if failed else TrialState.COMPLETE,
            value=None if failed else result["valid"],
            params=params,
            distributions=distributions,
            user_attrs={"index": index, "result": result},
        )
        with self._readable_errors():
            self._study(contender, phase).add_trial(trial)

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the race while running it, so that two runners do not do the same work.

        Raises:
            InputError: if another runner that is alive holds it.
        """
        me = {"host": socket.gethostname(), "pid": os.getpid()}
        with self._readable_errors():
            owner = self.header.user_attrs.get("owner")
            if owner and time.time() - owner["beat"] < _SILENCE and _may_live(owner):
                raise InputError(
                    f"the race {self.race!r} in {self.url} is being run by process {owner['pid']} on {owner['host']}"
                )
            self.header.set_user_attr("owner", {**me, "beat": time.time()})
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(_BEAT):
                try:
                    self.header.set_user_attr("owner", {**me, "beat": time.time()})
                except Exception:  # a sign of life that fails is repeated; a broken storage shows itself in `add`
                    continue

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            with self._readable_errors():
                self.header.set_user_attr("owner", None)

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except ImportError as error:
            hint = " (pip install 'anabranch[postgresql]')" if self.url.startswith("postgresql") else ""
            raise InputError(f"cannot use the storage {self.url}: its driver is not installed{hint}") from error
        except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
            reason = str(getattr(error, "orig", None) or error.__cause__ or error).splitlines()[0]
            raise InputError(f"cannot use the storage {self.url}: {reason}") from error


def _may_live(owner: dict[str, Any]) -> bool:
    if owner["host"] != socket.gethostname():
        return True
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sqlite_file(url: str) -> Path | None:
    """The file behind an SQLite URL."""
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
