"""The passes: one file for each way to grow. ``WIDTH_PASSES`` maps kinds to theirs, others are depth;
``UPCYCLE`` makes mixtures of MLPs, ``IMAGE`` takes larger images."""

from meristem.passes.base import WidthPass
from meristem.passes.cancel import CANCEL
from meristem.passes.experts import EXPERTS
from meristem.passes.heads import HEADS
from meristem.passes.hidden import HIDDEN
from meristem.passes.image import IMAGE
from meristem.passes.layers import LAYERS
from meristem.passes.mlp import MLP
from meristem.passes.net2deeper import NET2DEEPER
from meristem.passes.positions import POSITIONS
from meristem.passes.qk_dim import QK_DIM
from meristem.passes.upcycle import UPCYCLE
from meristem.passes.value_dim import VALUE_DIM
from meristem.passes.vocabulary import VOCABULARY
from meristem.passes.width import WIDTH

WIDTH_PASSES: dict[str, WidthPass] = {
    kind: p
    for p in (EXPERTS, HEADS, HIDDEN, MLP, POSITIONS, QK_DIM, VALUE_DIM, VOCABULARY, WIDTH)
    for kind in p.kinds
}

__all__ = ["CANCEL", "IMAGE", "LAYERS", "NET2DEEPER", "UPCYCLE", "WIDTH_PASSES", "WidthPass"]
