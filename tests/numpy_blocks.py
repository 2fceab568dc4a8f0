"""Blocks of transformers in plain numpy, one place at a time; rows are places."""

import math

import numpy as np


def norm(h, gain):
    return h / np.sqrt(np.mean(h * h, axis=-1, keepdims=True) + 1e-6) * gain


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attention(q, k, v, scale, seen):
    """Of one head: place t sees the places `seen(t)`."""
    out = np.empty_like(v)
    for t in range(len(q)):
        scores = np.array([scale * (q[t] @ k[s]) for s in seen(t)])
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        out[t] = sum(w * v[s] for w, s in zip(weights, seen(t), strict=True))
    return out


def blocks(layers, h, *, num_heads, scale, seen):
    """[T, D] of one sequence."""
    for i in range(0, len(layers), 4):
        attend, out, up, down = layers[i : i + 4]
        a = norm(h, attend["gain"])
        heads = [
            np.split(a @ attend[name], num_heads, axis=1)
            for name in ("query", "key", "value")
        ]
        mixed = [attention(q, k, v, scale, seen) for q, k, v in zip(*heads, strict=True)]
        h = h + np.concatenate(mixed, axis=1) @ out["out"]
        h = h + gelu(norm(h, up["gain"]) @ up["up"]) @ down["down"]
    return h
