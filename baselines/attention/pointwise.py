"""One linear map of each token: the control that mixes no tokens."""

from __future__ import annotations

from torch import Tensor, nn

from effbench import Mechanism


class Pointwise(Mechanism):
    """A linear map of each token, the same for all; no token sees another, ``heads`` is unused.

    Definition::

        out_i = W x_i + b

    It is what attention becomes if every token attends to itself alone: W is the product of the output and
    the value projection. In a model around it, only the pooling combines tokens. The difference between a
    mechanism's score and its score estimates what mixing tokens in the layers adds. O(N D^2), memory O(N D).
    x [B, N, D] -> [B, N, D].

    Causal: the same map. The state of a generation is empty.
    """

    order = 1.0
    memory_order = 1.0
    state_order = 0.0
    equivariant = True
    no_cross = "it mixes no tokens"
    source = "effbench's own: a control"

    def __init__(self, d_model: int, heads: int, *, max_len: int, causal: bool = False) -> None:
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.map = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        out: Tensor = self.map(x)
        return out

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute it token by token."""
        return (x[..., None, :] * self.map.weight).sum(dim=-1) + self.map.bias

    def prefill(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, tuple[()]]:
        """Return the outputs [B, N, D] and an empty state."""
        return self.forward(x, mask), ()

    def step(self, x: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """Return the output [B, D] of the next token and the empty state."""
        return self.forward(x), state

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """One product of N D^2."""
        return 2 * batch_size * seq_len * self.d_model**2

    def saved_bytes(self, batch_size: int, seq_len: int) -> int:
        """Nothing beside the input and the weight, which exist anyway."""
        return 0
