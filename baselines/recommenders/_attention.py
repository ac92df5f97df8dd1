"""The self-attention of NRMS and PLM-NR: heads without biases and without an output projection."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class HeadsOnly(nn.Module):
    """x [B, N, width], mask [B, N] -> [B, N, d_model]: softmax attention, heads concatenated.

    Per head: softmax(Q K^T / sqrt(d)) V with Q, K, V = x W and d = d_model / heads. Padding is not attended
    to; what stands there may be any number, and its own output is arbitrary.
    """

    def __init__(self, width: int, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * d_model, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attend among the tokens of x [B, N, width]; mask [B, N] is True for a real token."""
        x = x.masked_fill(~mask[..., None], 0.0)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        return mixed.transpose(1, 2).flatten(2)
