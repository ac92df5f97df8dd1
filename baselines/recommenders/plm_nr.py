"""PLM-NR: titles through a pre-trained language model of a local folder, of which few layers are tuned."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from baselines.attention.fastformer import Fastformer
from baselines.recommenders._attention import HeadsOnly
from baselines.recommenders._encoder import divided
from effbench import AdditivePooling, News, Recommender


class PLMNR(Recommender):
    """The hidden states of a pre-trained encoder for a title, attended, pooled and mapped to a vector.

    Definition::

        news = W pool(attend(dropout(states after layer ``layer``))) + b
        user = pool(history)      score of a candidate = news . user

    ``folder`` is a local folder with an encoder and its tokenizer as transformers' save_pretrained writes
    them; nothing is downloaded. ``layer`` 0 stands for two thirds of its layers: the published 8 of 12. Only
    the last ``tuned`` of these layers are trained. What is below them does not change, so it is computed once
    for all titles, without dropout, and kept in memory (4 bytes x width x pieces of all titles). ``attend``
    has heads without biases and no output projection, as in NRMS; ``pool`` is additive pooling with a query
    of width ``query``. Titles are cut to ``pieces`` pieces.

    The learning rate of the encoder's layers is the task's times ``lr_factor``: they were trained before, and
    the rest begins from random weights.

    ``user``: ``pooling``, the published user encoder; ``fastformer``, one Fastformer layer before it (the
    Fastformer+PLM-NR of Wu et al. 2021, arXiv 2108.09084), without norms.

    Published: UniLM or BERT, 20 heads of 20, query 200, 24 pieces, vectors of 64, a learning rate of 1e-5
    (3e-6 beside Fastformer), and no masks for titles and histories. Here attention and vectors are d_model
    wide, heads are the cell's, and padding takes part in nothing.

    Raises Unsupported if the folder does not hold such an encoder, ValueError for a wrong option.
    """

    source = "Wu et al. 2021, Empowering News Recommendation with Pre-trained Language Models (SIGIR 2021)"
    requires = "transformers"
    install = "pip install 'effbench[plm]'"
    reads: ClassVar = {
        "folder": (
            "config.json",
            "*.safetensors|pytorch_model*.bin",
            "tokenizer.json|vocab.txt|vocab.json|*.model",
        )
    }

    def __init__(
        self,
        news: News,
        d_model: int,
        heads: int,
        *,
        max_len: int,
        dropout: float,
        folder: str,
        layer: int = 0,
        tuned: int = 2,
        pieces: int = 30,
        query: int = 200,
        lr_factor: float = 1.0,
        user: Literal["pooling", "fastformer"] = "pooling",
    ) -> None:
        super().__init__(news, d_model, heads, max_len=max_len, dropout=dropout)
        if user not in ("pooling", "fastformer"):
            raise ValueError(f"user is {user!r}, not pooling or fastformer")
        if query < 1:
            raise ValueError(f"query must be at least 1, got {query}")
        if not 0 < lr_factor <= 1:
            raise ValueError(f"lr_factor must be above 0 and at most 1, got {lr_factor}")
        self.titles, self.layers, width = divided(
            folder, news.titles, layer=layer, tuned=tuned, pieces=pieces
        )
        for parameter in self.layers.parameters():
            parameter.lr_factor = lr_factor  # type: ignore[attr-defined]
        self.dropout = nn.Dropout(dropout)
        self.attend = HeadsOnly(width, d_model, heads)
        self.pool_pieces = AdditivePooling(d_model, query)
        self.to_vector = nn.Linear(d_model, d_model)
        self.mix_history = Fastformer(d_model, heads, max_len=max_len) if user == "fastformer" else None
        self.pool_history = AdditivePooling(d_model, query)

    def encode(self, rows: Tensor) -> Tensor:
        """Return the vectors of news [n, d_model] for rows [n] of the table."""
        return self.titles.encoded(rows, self._of_states)

    def user(self, history: Tensor, mask: Tensor) -> Tensor:
        """Return the user's vector [B, d_model] of a history [B, H, d_model]; mask [B, H]."""
        if self.mix_history is not None:
            history = self.mix_history(history, mask)
        return self.pool_history(history, mask)  # type: ignore[no-any-return]

    def _of_states(self, states: Tensor, mask: Tensor) -> Tensor:
        attended = self.attend(self.dropout(self.layers(states, mask)), mask)
        return self.to_vector(self.pool_pieces(attended, mask))  # type: ignore[no-any-return]
