"""Vocabulary: more rows of a table that is read by the caller's tokens, and more scores where it writes.

A row is read by its own token alone, so old tokens keep their function whatever new rows hold. Common
practice draws new rows from the statistics of the old ones or takes their mean (Hewitt 2021, "Initializing
new word embeddings for pretrained language models"); rows of another model are given. ``"%64"`` pads to a
multiple. Where scores are an output, the boundary decides: "crop" keeps the old ones, "grow" adds the new.
"""

from meristem.passes.base import WidthPass

VOCABULARY = WidthPass(
    "vocabulary", ("vocabulary",), "more tokens; new rows are drawn, the mean of the old, or given"
)
