"""xformers' attention as a mechanism."""

from __future__ import annotations

from torch import Tensor, nn

from baselines.peers._peer import Peer, need_cuda, refuse_mask


class MemoryEfficient(Peer):
    """Vanilla attention through `xformers.ops.memory_efficient_attention`; CUDA only."""

    order = 2.0
    memory_order = 1.0
    source = "github.com/facebookresearch/xformers"
    requires = "xformers"
    install = "pip install --no-deps xformers (a wheel that was built for the torch that is installed)"

    def __init__(self, d_model: int, heads: int, *, max_len: int, causal: bool = False) -> None:
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D] -> [B, N, D]; no mask."""
        need_cuda(x, "xformers' memory_efficient_attention")
        refuse_mask(mask, "this adapter of xformers")
        from xformers.ops import LowerTriangularMask, memory_efficient_attention

        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.d_head)).unbind(2)
        bias = LowerTriangularMask() if self.causal else None
        return self.out(memory_efficient_attention(q, k, v, attn_bias=bias).flatten(2))  # type: ignore[no-any-return]
