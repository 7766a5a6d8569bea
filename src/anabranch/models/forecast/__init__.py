"""Forecasters: a window of the past in, a forecast of the future out."""

from anabranch.models.forecast.base import Forecast, Forecaster
from anabranch.models.forecast.baselines import LinearForecaster, MLPForecaster, SeasonalNaive
from anabranch.models.forecast.patching import FlattenHead, patchify
from anabranch.models.forecast.patchtst import PatchTST
from anabranch.models.forecast.pretraining import masked_patch_loss, pretrain_masked, random_patch_mask
from anabranch.models.forecast.transformer import PointTransformer

__all__ = [
    "FlattenHead",
    "Forecast",
    "Forecaster",
    "LinearForecaster",
    "MLPForecaster",
    "PatchTST",
    "PointTransformer",
    "SeasonalNaive",
    "masked_patch_loss",
    "patchify",
    "pretrain_masked",
    "random_patch_mask",
]
