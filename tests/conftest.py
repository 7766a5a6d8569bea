"""Shapes and types are checked while the tests run: jaxtyping's annotations, by beartype."""

from jaxtyping import install_import_hook

_HOOK = install_import_hook("anabranch", "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(1)
