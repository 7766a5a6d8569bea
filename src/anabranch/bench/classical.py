"""Classical models that join every race, so that one sees whether a network is worth it at all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import ComplementNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from anabranch.bench.ngram import NGram
from anabranch.data.task import Batch, Split, Task
from anabranch.spaces import Choice, Range, Space

Array = NDArray[np.float64]


@runtime_checkable
class Fitted(Protocol):
    """A model that has been fitted, ready to be judged."""

    def scores(self, split: Split) -> Array: ...


@dataclass(frozen=True)
class Classical:
    """A model that needs no network: what it is called, what of it is tuned, and how it is fitted.

    A ``constant`` one says the same whatever it is given: who is no better has learned nothing from the inputs.
    """

    name: str
    space: Space
    fit: Callable[[Task, dict[str, Any], int], Fitted]
    constant: bool = False


def whole(split: Split) -> Batch:
    """Every sample of a split at once."""
    return split.batch(torch.arange(len(split)))


def flat(batch: Batch) -> Array:
    """Samples as rows of numbers; where sequences differ in length, the length is one more."""
    rows = batch.inputs.flatten(1).double().numpy()
    return rows if batch.lengths is None else np.column_stack([rows, batch.lengths.double().numpy()])


class _Estimator:
    """A scikit-learn estimator on flattened samples."""

    def __init__(self, task: Task, estimator: Any):
        self.task, self.estimator = task, estimator
        batch = whole(task.train)
        estimator.fit(flat(batch), batch.targets.numpy())

    def scores(self, split: Split) -> Array:
        batch = whole(split)
        if self.task.goal == "classify":
            output = torch.full((len(split), self.task.outputs), -np.inf, dtype=torch.float64)
            # A class that no training sample has is never predicted.
            output[:, torch.as_tensor(self.estimator.classes_)] = torch.as_tensor(self._preference(flat(batch)))
        else:
            output = torch.as_tensor(self.estimator.predict(flat(batch)))
        return self.task.metric.scores(output, batch.targets).numpy()

    def _preference(self, rows: Array) -> Array:
        """How much each class is preferred: its probability, or its margin from a machine that gives none."""
        if hasattr(self.estimator, "predict_proba"):
            return self.estimator.predict_proba(rows)
        margin = self.estimator.decision_function(rows)
        return np.column_stack([-margin, margin]) if margin.ndim == 1 else margin


class _LinearForecast:
    """Ridge regression from a channel's past to its future, relative to the last value; the same for all channels."""

    def __init__(self, task: Task, penalty: float):
        self.task, self.model = task, Ridge(alpha=penalty)
        batch = whole(task.train)
        self.model.fit(*self._rows(batch.inputs, batch.targets))

    @staticmethod
    def _rows(past: torch.Tensor, future: torch.Tensor) -> tuple[Array, Array]:
        last = past[:, -1:]
        rows, targets = ((part - last).transpose(1, 2).flatten(0, 1).double().numpy() for part in (past, future))
        return rows, targets

    def scores(self, split: Split) -> Array:
        batch = whole(split)
        rows, _ = self._rows(batch.inputs, batch.targets)
        size, future, channels = batch.targets.shape
        change = torch.as_tensor(self.model.predict(rows)).view(size, channels, future).transpose(1, 2)
        return self.task.metric.scores(change + batch.inputs[:, -1:], batch.targets).numpy()


class _SeasonalNaive:
    """The future repeats the last season; with a season of 1, the last value."""

    def __init__(self, task: Task, season: int):
        self.task, self.season = task, season

    def scores(self, split: Split) -> Array:
        batch = whole(split)
        past, future = batch.inputs.shape[1], batch.targets.shape[1]
        season = min(self.season, past)
        source = past - season + torch.arange(future) % season
        return self.task.metric.scores(batch.inputs[:, source], batch.targets).numpy()


class _ByteModel:
    """An n-gram model of bytes."""

    def __init__(self, task: Task, order: int):
        batch = whole(task.train)
        self.model = NGram(order).fit(batch.inputs.numpy(), batch.targets.numpy())

    def scores(self, split: Split) -> Array:
        batch = whole(split)
        return self.model.bits(batch.inputs.numpy(), batch.targets.numpy()).mean(1)


class _TextClassifier:
    """Naive Bayes on the counts of token runs (Rennie et al. 2003, complement form)."""

    def __init__(self, task: Task, order: int, alpha: float):
        batch = whole(task.train)
        self.task = task
        counter = CountVectorizer(analyzer="char", ngram_range=(1, order), lowercase=False, min_df=2)
        self.model = make_pipeline(counter, ComplementNB(alpha=alpha)).fit(self._texts(batch), batch.targets.numpy())

    @staticmethod
    def _texts(batch: Batch) -> list[str]:
        """A character for each token, whether it is a byte or a word."""
        lengths = torch.full((len(batch.inputs),), batch.inputs.shape[1]) if batch.lengths is None else batch.lengths
        return [
            "".join(chr(0x10000 + token) for token in row[:n])
            for row, n in zip(batch.inputs.tolist(), lengths.tolist(), strict=True)
        ]

    def scores(self, split: Split) -> Array:
        batch = whole(split)
        output = torch.full((len(split), self.task.outputs), -np.inf, dtype=torch.float64)
        output[:, torch.as_tensor(self.model.classes_)] = torch.as_tensor(self.model.predict_proba(self._texts(batch)))
        return self.task.metric.scores(output, batch.targets).numpy()


_PENALTY = Range(1e-3, 1e4, 1.0, log=True)
_TREES: Space = {
    "learning_rate": Range(0.02, 0.3, 0.1, log=True),
    "max_leaf_nodes": Choice(31, 15, 63),
    "l2_regularization": Range(1e-3, 10, 0.01, log=True),
}
_NEIGHBOURS: Space = {"n_neighbors": Choice(5, 1, 3, 10, 20), "weights": Choice("uniform", "distance")}


def _estimators(task: Task) -> list[Classical]:
    classify = task.goal == "classify"
    trees: Any = HistGradientBoostingClassifier if classify else HistGradientBoostingRegressor
    neighbours: Any = KNeighborsClassifier if classify else KNeighborsRegressor

    def fit_trees(task: Task, setting: dict[str, Any], seed: int) -> Fitted:
        return _Estimator(task, trees(random_state=seed, early_stopping=False, **setting))

    def fit_neighbours(task: Task, setting: dict[str, Any], seed: int) -> Fitted:
        count = min(setting["n_neighbors"], len(task.train))
        return _Estimator(task, make_pipeline(StandardScaler(), neighbours(**{**setting, "n_neighbors": count})))

    def fit_linear(task: Task, setting: dict[str, Any], seed: int) -> Fitted:
        strength = setting["penalty"]
        model = LogisticRegression(max_iter=2000, C=1 / strength) if classify else Ridge(alpha=strength)
        return _Estimator(task, make_pipeline(StandardScaler(), model))

    def fit_machine(task: Task, setting: dict[str, Any], seed: int) -> Fitted:
        return _Estimator(task, make_pipeline(StandardScaler(), SVC(**setting)))

    # Trees look at one number at a time, which says little of an image or a signal, and are slow on so many.
    strongest = (
        Classical("gradient-boosting", _TREES, fit_trees)
        if task.kind == "table"
        else Classical("support-vector-machine", {"C": Range(0.1, 100, 3.0, log=True)}, fit_machine)
    )
    return [
        strongest,
        Classical("nearest-neighbours", _NEIGHBOURS, fit_neighbours),
        Classical("logistic-regression" if classify else "ridge", {"penalty": _PENALTY}, fit_linear),
        _constant(task),
    ]


def _constant(task: Task) -> Classical:
    """The commonest class of the training samples, or the mean of their targets."""
    if task.goal == "classify":
        return Classical("majority-class", {}, lambda task, *_: _Estimator(task, DummyClassifier()), constant=True)
    return Classical("mean", {}, lambda task, *_: _Estimator(task, DummyRegressor()), constant=True)


def _forecasters(task: Task) -> list[Classical]:
    past = task.example().inputs.shape[1]
    seasons = [season for season in (7, 12, 24, 30, 52) if season <= past]
    return [
        Classical(
            "seasonal-naive",
            {"season": Choice(1, *seasons)},
            lambda task, setting, _: _SeasonalNaive(task, **setting),
        ),
        Classical(
            "ridge",
            {"penalty": _PENALTY},
            lambda task, setting, _: _LinearForecast(task, **setting),
        ),
    ]


def classical_models(task: Task) -> dict[str, Classical]:
    """The classical models that can do a task, by name; the constant one, where there is one, is the last."""
    if task.goal == "forecast":
        models = _forecasters(task)
    elif task.goal == "continue":
        models = [
            Classical("n-gram", {"order": Choice(5, 3, 4, 6, 2)}, lambda task, setting, _: _ByteModel(task, **setting)),
            Classical("byte-frequencies", {}, lambda task, *_: _ByteModel(task, order=0), constant=True),
        ]
    elif task.kind == "bytes":
        space: Space = {"order": Choice(5, 1, 2, 3, 7), "alpha": Range(0.01, 3.0, 0.3, log=True)}
        models = [
            Classical("naive-bayes", space, lambda task, setting, _: _TextClassifier(task, **setting)),
            _constant(task),
        ]
    else:
        models = _estimators(task)
    return {model.name: model for model in models}
