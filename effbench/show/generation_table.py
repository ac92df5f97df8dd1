"""The table of generation: how fast trained encoders and decoders read and write, and what they keep."""

from __future__ import annotations

import pandas as pd

from effbench.common.columns import SOURCES
from effbench.common.wording import plural
from effbench.records.analyse.summary import label
from effbench.show import units
from effbench.show.blocks import Block

_COLUMNS = {
    "encode_s": (f"encode {SOURCES} sources", units.seconds),
    "decode_tokens_per_s": ("greedy, tokens/s", units.count),
    "beam_tokens_per_s": ("the task's beam, tokens/s", units.count),
    "state_bytes": ("state", units.size),
}
_FORMS = {"decoder_self_attention": "self-attention", "decoder_cross_attention": "cross attention"}
_VANILLA = "vanilla: "


def generation_block(group: pd.DataFrame) -> Block | None:
    """Return the table of the trainings of one task; None if they do not generate.

    Notes name the forms of attention that the decoder takes from vanilla, with the reason, and the shares of
    sources and targets that were cut.
    """
    if group["decode_tokens_per_s"].isna().all():
        return None
    rows = []
    for row in group.sort_values(["seq_len", "mechanism", "options"]).to_dict(orient="records"):
        if pd.notna(row["decode_tokens_per_s"]):
            values = [units.figure(row[column], pretty) for column, (_, pretty) in _COLUMNS.items()]
            rows.append([label(row["mechanism"], row["options"]), units.length(row["seq_len"]), *values])
    return Block(
        title=f"generation: {SOURCES} sources together, states cached",
        head=["mechanism", "length", *(words for words, _ in _COLUMNS.values())],
        rows=rows,
        keys=(0, 1),
        notes=[*_cut(group), *_replaced(group)],
    )


def _replaced(group: pd.DataFrame) -> list[str]:
    """Return a sentence for each mechanism whose decoder has an attention of vanilla."""
    sentences = []
    for (mechanism, options), rows in group.groupby(["mechanism", "options"], sort=False):
        for column, form in _FORMS.items():
            for text in rows[column].dropna().unique()[:1]:
                if str(text).startswith(_VANILLA):
                    name, reason = label(str(mechanism), str(options)), str(text).removeprefix(_VANILLA)
                    sentences.append(f"{name}: the decoder's {form} is vanilla's: {reason}")
    return sentences


def _cut(group: pd.DataFrame) -> list[str]:
    """Return a sentence about sources and targets of training that were longer than the model's lengths."""
    sentences = []
    for n, rows in group.groupby("seq_len"):
        shares = {
            side: float(rows[f"{side}_truncated_share"].dropna().max())
            for side in ("source", "target")
            if rows[f"{side}_truncated_share"].notna().any()
        }
        if any(shares.values()):
            cut = " and ".join(f"{units.share(share)} of the {side}s" for side, share in shares.items())
            sentences.append(
                f"cut to their first tokens in training, at {plural(int(str(n)), 'token')}: {cut}"
            )
    return sentences
