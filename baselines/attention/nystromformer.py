"""Nyströmformer: the softmax map approximated from the maps of a few landmarks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._heads import (
    clear_padding,
    masked_softmax,
    merge_heads,
    no_autocast,
    projected,
    require,
    split_heads,
    wide_bytes,
    wide_dtype,
)
from effbench import Mechanism, Unsupported

# the longest filter that the convolution pads for: oneDNN 3.12 crashes or has wrong gradients beyond it
LONGEST = 31


class Nystromformer(Mechanism):
    """Softmax attention by the Nyström method.

    Per head, with q, k, v = x W + b [N, d], landmarks q~, k~ [m, d] the means of q and k over m segments::

        out = F A^+ (G v)         F = softmax(q k~^T / sqrt(d)) [N, m], G = softmax(q~ k^T / sqrt(d)) [m, N]
        A = softmax(q~ k~^T / sqrt(d)) [m, m]        A^+ = Z after ``iterations`` steps from
        Z = A^T / (largest column sum of A):         Z <- Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4

    heads concatenated, then an output projection with bias. ``conv``: the kernel size of a depthwise
    convolution of v along the sequence, with one filter per head and no bias, added before the output
    projection; 0 for none. x [B, N, D] -> [B, N, D].

    m = min(``landmarks``, real tokens). Of n real tokens the r-th is in segment floor(r m / n), whatever its
    position: segments are equal if m divides n. The largest column sum is that of each head and sequence; the
    authors' code takes that of the whole batch. (The row sums of a softmax are 1.)

    F is never formed: it is attention with keys k~ and values A^+ (G v), and G v is attention with queries
    q~, so a fused kernel computes both. Landmarks are maps of the means of x. The last step of the iteration
    is applied directly to G v, whose width d is seldom above m. Instead of the identity each step adds
    multiples of its own factors, so that the rows and columns of landmarks that a short sequence lacks
    remain 0. The iteration is in float32 at least. O(N (D + m) D + iterations heads m^3), memory O(N D).

    Cross (not in the paper): both kinds of landmarks are those of the memory, so that an output depends on
    no other query; not with ``conv``.

    Raises ValueError for a wrong option and Unsupported for ``causal=True``.
    """

    order = 1.0
    memory_order = 1.0
    equivariant = False
    no_causal = "a landmark is a mean over tokens, the future's too"
    source = (
        "Xiong et al. 2021, Nyströmformer: A Nyström-Based Algorithm for Approximating Self-Attention "
        "(arXiv 2102.03902)"
    )

    def __init__(
        self,
        d_model: int,
        heads: int,
        *,
        max_len: int,
        causal: bool = False,
        landmarks: int = 64,
        iterations: int = 6,
        conv: int = 0,
    ) -> None:
        require(landmarks >= 1, "landmarks", landmarks, "at least 1")
        require(iterations >= 1, "iterations", iterations, "at least 1")
        require(conv == 0 or (conv > 0 and conv % 2 == 1), "conv", conv, "0 or odd")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.landmarks = landmarks
        self.iterations = iterations
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.around = conv // 2 if conv > LONGEST else 0
        inside = conv // 2 - self.around
        self.conv = (
            nn.Conv2d(heads, heads, (conv, 1), padding=(inside, 0), groups=heads, bias=False)
            if conv
            else None
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        x = clear_padding(x, mask)
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        k_bhmd, values_bhmd, used_bm = self._landmarks(x, k, v, mask)
        mixed = F.scaled_dot_product_attention(q, k_bhmd, values_bhmd, attn_mask=_rows(used_bm))
        if self.conv is not None:
            v = v if mask is None else v.masked_fill(~mask[:, None, :, None], 0.0)
            v = F.pad(v, (0, 0, self.around, self.around)) if self.around else v
            mixed = mixed + self.conv(v)
        return self.out(merge_heads(mixed))  # type: ignore[no-any-return]

    def remember(self, memory: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """memory [B, M, D], mask [B, M] -> k~ and A^+ (G v) [B, heads, m, d], and which rows are used.

        Raises Unsupported with ``conv``.
        """
        if self.conv is not None:
            raise Unsupported(
                "it has no cross form with conv: the convolution runs along the queries' values"
            )
        memory, d = clear_padding(memory, mask), self.d_model
        pair = projected(memory, self.qkv, slice(d, None))
        k, v = (split_heads(part, self.heads) for part in pair.chunk(2, dim=-1))
        return self._landmarks(memory, k, v, mask)

    def attend(self, x: Tensor, remembered: tuple[Tensor, Tensor, Tensor | None]) -> Tensor:
        """x [B, N, D] and the landmarks of a memory -> [B, N, D]."""
        q = split_heads(projected(x, self.qkv, slice(self.d_model)), self.heads)
        k_bhmd, values_bhmd, used_bm = remembered
        mixed = F.scaled_dot_product_attention(q, k_bhmd, values_bhmd, attn_mask=_rows(used_bm))
        return self.out(merge_heads(mixed))  # type: ignore[no-any-return]

    def _landmarks(
        self, x: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return k~ and A^+ (G v), [B, heads, m, d], and the rows that are used [B, m], None if all."""
        means_bmD, used_bm = self._pool(x, mask)
        landmarks = projected(means_bmD, self.qkv, slice(2 * self.d_model))
        q_bhmd, k_bhmd = (split_heads(part, self.heads) for part in landmarks.chunk(2, dim=-1))
        gathered_bhmd = F.scaled_dot_product_attention(q_bhmd, k, v, attn_mask=_rows(mask))
        wide = wide_dtype(x)
        both = None if used_bm is None else used_bm[:, None, :, None] & used_bm[:, None, None]
        with no_autocast(x):
            scores_bhmm = q_bhmd.to(wide) @ k_bhmd.to(wide).mT / self.d_head**0.5
            values = self._inverse_times(masked_softmax(scores_bhmm, both, -1), gathered_bhmd.to(wide))
        return k_bhmd, values.to(x.dtype), used_bm

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute it by the definition, for each sequence alone: its real tokens, and the maps F, A and G."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        real = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask
        rows = [self._sequence(q[b], k[b], v[b], real[b]) for b in range(len(x))]
        return self.out(merge_heads(torch.stack(rows)))  # type: ignore[no-any-return]

    def _sequence(self, q_hnd: Tensor, k_hnd: Tensor, v_hnd: Tensor, real_n: Tensor) -> Tensor:
        """Return the reference for one sequence: [heads, N, d]."""
        out = torch.zeros_like(v_hnd)
        n = int(real_n.sum())
        if n:
            m = min(self.landmarks, n)
            q, k, v = q_hnd[:, real_n], k_hnd[:, real_n], v_hnd[:, real_n]
            segment = torch.arange(n, device=q.device) * m // n
            q_m = torch.stack([q[:, segment == s].mean(dim=1) for s in range(m)], dim=1)
            k_m = torch.stack([k[:, segment == s].mean(dim=1) for s in range(m)], dim=1)
            scale = self.d_head**0.5
            f, a, g = (
                (left @ right.mT / scale).softmax(dim=-1) for left, right in ((q, k_m), (q_m, k_m), (q_m, k))
            )
            one = torch.eye(m, dtype=a.dtype, device=a.device)
            z = a.mT / a.sum(dim=1).amax(dim=-1)[:, None, None]
            for _ in range(self.iterations):
                z = z @ (13 * one - a @ z @ (15 * one - a @ z @ (7 * one - a @ z))) / 4
            places = real_n.nonzero().flatten()
            out = out.index_copy(1, places, f @ z @ (g @ v))
        if self.conv is not None:
            filters_hk = self.conv.weight.flatten(1)
            around = filters_hk.shape[1] // 2
            values = F.pad(v_hnd * real_n[:, None], (0, 0, around, around))
            for j, weight_h in enumerate(filters_hk.unbind(1)):
                out = out + weight_h[:, None, None] * values[:, j : j + v_hnd.shape[1]]
        return out

    def _pool(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return means of x over segments [B, m, D], and which segments exist [B, m], or None for all."""
        batch, n, width = x.shape
        m = min(self.landmarks, n)
        if mask is None and n % m == 0:
            return x.unflatten(1, (m, n // m)).mean(dim=2), None
        real = torch.ones(1, n, dtype=torch.bool, device=x.device) if mask is None else mask
        count = real.sum(dim=1, keepdim=True)
        rank = (real.cumsum(dim=1) - 1).clamp(min=0)  # padding is 0, so that it may be added to any segment
        segment = rank * count.clamp(max=m) // count.clamp(min=1)
        places = (segment + m * torch.arange(batch, device=x.device)[:, None]).flatten()
        wide = wide_dtype(x)
        sums = x.new_zeros(batch * m, width, dtype=wide).index_add(0, places, x.to(wide).flatten(0, 1))
        counts = sums.new_zeros(batch * m).index_add(0, places, real.expand(batch, -1).to(wide).flatten())
        means = (sums / counts.clamp(min=1)[:, None]).to(x.dtype).unflatten(0, (batch, m))
        return means, None if mask is None else (counts > 0).unflatten(0, (batch, m))

    def _inverse_times(self, a_bhmm: Tensor, right_bhmd: Tensor) -> Tensor:
        """Return A^+ times ``right``: [B, heads, m, d]. Rows and columns of zeros have no effect."""
        a, right = a_bhmm.flatten(0, 1), right_bhmd.flatten(0, 1)
        largest = a.sum(dim=1).amax(dim=-1).clamp(min=0.5)  # at least 1, except for a sequence without tokens
        z = a.mT / largest[:, None, None]
        for _ in range(self.iterations - 1):
            az = a @ z
            inner = torch.baddbmm(az, az, az, beta=7, alpha=-1)  # A Z (7 I - A Z)
            inner = torch.baddbmm(az, az, inner, beta=15, alpha=-1)  # A Z (15 I - the line above)
            z = torch.baddbmm(z, z, inner, beta=13 / 4, alpha=-1 / 4)
        az = a @ z
        inner = torch.baddbmm(right, az, right, beta=7, alpha=-1)
        inner = torch.baddbmm(right, az, inner, beta=15, alpha=-1)
        inner = torch.baddbmm(right, az, inner, beta=13 / 4, alpha=-1 / 4)
        values: Tensor = (z @ inner).unflatten(0, a_bhmm.shape[:2])
        return values

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """Projections of tokens and landmarks, both attentions, A, the iteration, the convolution."""
        n, d, m = seq_len, self.d_model, min(self.landmarks, seq_len)
        projections = 2 * n * d * 4 * d + 2 * m * d * 2 * d
        steps = 2 * m**3 * self.heads * (4 * (self.iterations - 1) + 1) + 4 * 2 * m * m * d
        attention = 2 * 4 * n * m * d + 2 * m * m * d
        return batch_size * (projections + attention + steps) + self._conv_flops(batch_size, n)

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """Three times the forward pass, and the scores once more, which the kernel does not keep."""
        again = 2 * 2 * batch_size * seq_len * min(self.landmarks, seq_len) * self.d_model
        return 3 * self.forward_flops(batch_size, seq_len) + again

    def saved_bytes(self, batch_size: int, seq_len: int) -> int:
        """Queries, keys, values, heads' outputs; the same of landmarks; A, and the factors of each step.

        Landmarks of a batch are not contiguous per head and are copied. For uneven segments the places are
        kept. The iteration and the sums of scores are in float32 at least.
        """
        n, d, h, m = seq_len, self.d_model, self.heads, min(self.landmarks, seq_len)
        size, wide = self.qkv.weight.element_size(), wide_bytes(self.qkv.weight)
        tokens = (4 if self.conv is None else 5) * n * d
        if self.around:
            tokens += (n + 2 * self.around) * d
        copies = 3 if size < wide else 0 if 1 in (batch_size, h) else 2 if m == 1 else 3
        sums = (3 + copies) * m * d + (n + m) * h + h * (m * m * (4 * self.iterations - 1) + m + 2)
        places = 0
        if n % m:
            sums, places = sums + m + (n * d if size < wide else 0), 8 * n
        return batch_size * (size * (tokens + 5 * m * d) + wide * sums + places)

    def _conv_flops(self, batch_size: int, n: int) -> int:
        return 0 if self.conv is None else 2 * batch_size * n * self.d_model * self.conv.kernel_size[0]


def _rows(allowed_bm: Tensor | None) -> Tensor | None:
    """Return a mask of keys [B, m] as one of scores [B, 1, 1, m]."""
    return None if allowed_bm is None else allowed_bm[:, None, None]
