"""Compressors and converters: a module in, a module out, and a report of what was measured."""

from anabranch.compress.base import Converted, Converter, Fidelity, Report, Timing
from anabranch.compress.bundle import Bundled, bundle
from anabranch.compress.bundle_channels import BundleChannels, BundledChannel
from anabranch.compress.cast import Cast
from anabranch.compress.dilute import RemoveDiluted, choose_attentions, dilute_attention, set_dilution
from anabranch.compress.distill_memory import Distilled, MemoryReport, distill_memory, teach_memory, with_memory
from anabranch.compress.ffn_fusion import FFNFusion, ffn_runs, least_needed_mixers
from anabranch.compress.lighten import share_layers
from anabranch.compress.replace_attention import flat_students, imitate, replace_attention, replaced
from anabranch.compress.tree import ToTree
from anabranch.compress.trunk import DropMixers

__all__ = [
    "BundleChannels",
    "Bundled",
    "BundledChannel",
    "Cast",
    "Converted",
    "Converter",
    "Distilled",
    "DropMixers",
    "FFNFusion",
    "Fidelity",
    "MemoryReport",
    "RemoveDiluted",
    "Report",
    "Timing",
    "ToTree",
    "bundle",
    "choose_attentions",
    "dilute_attention",
    "distill_memory",
    "ffn_runs",
    "flat_students",
    "imitate",
    "least_needed_mixers",
    "replace_attention",
    "replaced",
    "set_dilution",
    "share_layers",
    "teach_memory",
    "with_memory",
]
