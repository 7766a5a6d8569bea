"""Forecasting: one record in the order of time, cut 70/10/20, and every window of it that fits."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float

from anabranch.data.columns import plural
from anabranch.data.sources import SOURCES, need
from anabranch.data.task import MSE, Task, Windows
from anabranch.errors import InputError

PAST, HORIZON = 96, 24


def record_task(
    name: str,
    record: Float[np.ndarray, "time channels"],
    channels: Sequence[str],
    *,
    past: int | None = None,
    horizon: int | None = None,
    source: str = "",
    notes: Sequence[str] = (),
) -> Task:
    """Forecast all channels of a record from all channels of its past.

    The first 70 % of the frames train, the next 10 % validate, the rest tests. The scaler is fitted on the first 70 %
    alone. A window's past may reach back into the previous split, its targets never do. Windows start at every frame,
    and none is left out.

    Arguments:
        record: without gaps, oldest frame first.
        channels: their names.
        past: frames to read; 96, or less where the record is too short for that.
        horizon: frames to predict; 24, or less where the record is too short for that.

    Raises:
        InputError: if the record is too short, or a channel never changes while training.
    """
    frames = len(record)
    ends = (frames * 7 // 10, frames * 8 // 10)
    notes = list(notes)
    shortest = min(ends[1] - ends[0], frames - ends[1])
    if any(given is not None and given < 1 for given in (past, horizon)):
        raise InputError(f"expected past and horizon to be 1 frame or more; got {past} and {horizon}")
    if horizon is None:
        horizon = min(HORIZON, max(1, shortest // 2))
        if horizon < HORIZON:
            notes.append(f"the horizon is {plural(horizon, 'frame')}, because the record has only {frames}")
    if past is None:
        past = max(1, min(PAST, (ends[0] - horizon) // 2))
        if past < PAST:
            notes.append(f"the past is {plural(past, 'frame')}, because the record has only {frames}")
    if ends[0] < past + horizon or shortest < horizon:
        raise InputError(
            f"{name}: expected more frames for windows of {past} + {horizon}; got {frames}, "
            f"of which {ends[0]} train, {ends[1] - ends[0]} validate and {frames - ends[1]} test"
        )
    mean, scale = record[: ends[0]].mean(0), record[: ends[0]].std(0)
    for channel, width in zip(channels, scale, strict=True):
        if width <= 1e-12:
            raise InputError(f"{name}: expected channels that change; {channel!r} is constant in the first 70 %")
    scaled = torch.from_numpy(((record - mean) / scale).astype(np.float32))
    train, valid, test = (
        Windows(part, past, horizon)
        for part in (scaled[: ends[0]], scaled[ends[0] - past : ends[1]], scaled[ends[1] - past :])
    )
    return Task(
        name,
        "series",
        "forecast",
        train,
        valid,
        test,
        MSE,
        source=source,
        notes=tuple(notes),
        facts={
            "sizes": {"train": len(train), "valid": len(valid), "test": len(test)},
            "frames": frames,
            "past": past,
            "horizon": horizon,
            "channels": list(channels),
            "mean": [float(v) for v in mean],
            "standard deviation": [float(v) for v in scale],
        },
    )


def weather(past: int | None = None, horizon: int | None = None) -> Task:
    """Daily weather of Seattle, 2012 to 2015: rain, highest and lowest temperature, wind.

    Source: US National Oceanic and Atmospheric Administration (public domain), shipped with vega-datasets
    (MIT). Split: 1461 days, chronological 70/10/20.
    """
    need("weather", "vega_datasets")
    from vega_datasets import local_data

    frame = local_data.seattle_weather().sort_values("date")
    channels = ["precipitation", "temp_max", "temp_min", "wind"]
    return record_task(
        "weather",
        frame[channels].to_numpy(np.float64),
        channels,
        past=past,
        horizon=horizon,
        source=SOURCES["weather"],
    )


def co2(past: int | None = None, horizon: int | None = None) -> Task:
    """Weekly carbon dioxide in the air over Mauna Loa, 1958 to 2001, in parts per million.

    Source: Keeling and Whorf, Scripps Institution of Oceanography (public domain), shipped with statsmodels
    (BSD-3-Clause). The 59 missing weeks are filled by straight lines. Split: 2284 weeks, chronological 70/10/20.
    """
    need("co2", "statsmodels")
    from statsmodels.datasets import co2 as source

    series: Any = source.load_pandas().data
    series = series["co2"]
    gaps = int(series.isna().sum())
    return record_task(
        "co2",
        series.interpolate().to_numpy(np.float64)[:, None],
        ["co2"],
        past=past,
        horizon=horizon,
        source=SOURCES["co2"],
        notes=[f"{gaps} missing weeks filled by straight lines between their neighbours"],
    )


def acsf1(past: int | None = None, horizon: int | None = None) -> Task:
    """Power that 20 household appliances draw, two of each of ten types, as 20 channels of one record.

    Source: ACS-F1, Gisler et al. 2013, in the UCR archive, shipped with aeon (BSD-3-Clause). The channels are the first
    two series of each type in the archive's training file; each holds 1460 readings, ten seconds apart. They were not
    recorded at the same time, so one channel tells little about another. Split: chronological 70/10/20.
    """
    need("acsf1", "aeon")
    from aeon.datasets import load_classification

    series, types = cast(tuple[np.ndarray, np.ndarray], load_classification("ACSF1", split="train"))
    chosen = np.concatenate([np.flatnonzero(types == kind)[:2] for kind in np.unique(types)])
    channels = [f"type {types[i]}, series {i}" for i in chosen]
    return record_task(
        "acsf1",
        series[chosen, 0].T.astype(np.float64),
        channels,
        past=past,
        horizon=horizon,
        source=SOURCES["acsf1"],
    )
