"""Peers of `cargo xtask bench analyze`: debiased linear CKA of two models of random features, layer by layer.

    analyze_peer.py numpy-joined|numpy-tiles|torch-cka ROWS WIDTH LAYERS ROUNDS

numpy-joined: all layers side by side, one product A'B, numpy's own BLAS; numpy-tiles: one product for each pair of layers.
torch-cka: the package's own `CKA.compare`, on models that give the same features, one batch of all rows (its minibatch form is the
exact value then). Prints one JSON line with the seconds of every round.
"""

import json
import resource
import sys
import time

import numpy as np


def features(seed, rows, width, layers):
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, (rows, width)).astype(np.float32) for _ in range(layers)]


def centred(layers):
    return [x - x[:512].mean(0) for x in layers]


def hsic(n, product, norms_x, norms_y, rows, weighted_xy, weighted_yx, total_x, total_y):
    both = norms_x @ norms_y
    p = product - both
    r = rows - weighted_xy - weighted_yx + both
    t = (total_x - norms_x.sum()) * (total_y - norms_y.sum())
    return (p + t / ((n - 1) * (n - 2)) - 2 / (n - 2) * r) / (n * (n - 3))


def table(a, b, joined):
    """The same formula as the program's, in feature space, products in f32 by BLAS, sums in f64."""
    n, layers = len(a[0]), len(a)
    a, b = centred(a), centred(b)
    width = a[0].shape[1]
    norms = lambda ls: [np.einsum("ij,ij->i", x, x, dtype=np.float64) for x in ls]
    sums = lambda ls: [x.sum(0, dtype=np.float64) for x in ls]
    ka, kb, sa, sb = norms(a), norms(b), sums(a), sums(b)
    na, nb = np.array(ka + kb).T.astype(np.float32), None
    wa = [(x.T @ na).astype(np.float64) for x in a]
    wb = [(x.T @ na).astype(np.float64) for x in b]
    if joined:
        whole = np.hstack(a).T @ np.hstack(b)
        tile = lambda i, j: whole[i * width:(i + 1) * width, j * width:(j + 1) * width]
    else:
        tile = lambda i, j: a[i].T @ b[j]

    def one(m, k, l, s, t, wx, wy):
        m = m.astype(np.float64)
        return hsic(n, (m * m).sum(), k, l, s @ m @ t, s @ wx, t @ wy, s @ s, t @ t)

    own_a = [one(a[i].T @ a[i], ka[i], ka[i], sa[i], sa[i], wa[i][:, i], wa[i][:, i]) for i in range(layers)]
    own_b = [one(b[j].T @ b[j], kb[j], kb[j], sb[j], sb[j], wb[j][:, layers + j], wb[j][:, layers + j]) for j in range(layers)]
    value = lambda i, j: one(tile(i, j), ka[i], kb[j], sa[i], sb[j], wa[i][:, layers + j], wb[j][:, i])
    return np.array([[value(i, j) / np.sqrt(own_a[i] * own_b[j]) for j in range(layers)] for i in range(layers)])


def torch_cka(a, b):
    import torch
    from torch_cka import CKA

    class Fixed(torch.nn.Module):
        """Gives the features of its layers, whatever it is fed."""

        class Layer(torch.nn.Module):
            def __init__(self, values):
                super().__init__()
                self.values = torch.from_numpy(values)

            def forward(self, x):
                return self.values

        def __init__(self, layers):
            super().__init__()
            self.names = [f"layer{i}" for i in range(len(layers))]
            for name, values in zip(self.names, layers):
                setattr(self, name, Fixed.Layer(values))

        def forward(self, x):
            for name in self.names:
                getattr(self, name)(x)
            return x

    rows = len(a[0])
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(rows, 1)), batch_size=rows)
    one, two = Fixed(a), Fixed(b)
    cka = CKA(one, two, model1_layers=one.names, model2_layers=two.names, device="cpu")
    cka.compare(data)
    return cka.hsic_matrix.numpy()


def main():
    what, rows, width, layers, rounds = sys.argv[1], *map(int, sys.argv[2:6])
    a, b = features(1, rows, width, layers), features(2, rows, width, layers)
    run = {
        "numpy-joined": lambda: table(a, b, True),
        "numpy-tiles": lambda: table(a, b, False),
        "torch-cka": lambda: torch_cka(a, b),
    }[what]
    versions = {"numpy": np.__version__}
    if what == "torch-cka":
        import torch

        versions["torch"] = torch.__version__
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        found = run()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = {"seconds": seconds, "mean": float(found.mean()), "peak_memory_bytes": peak, "versions": versions}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
