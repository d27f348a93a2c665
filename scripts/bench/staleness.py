#!/usr/bin/env python3
"""What stale updates cost cifar10_quick, and what looking ahead brings back: a simulation of replicas that
push their own momentum updates, in PyTorch, without any of this project's code. docs/modes.md quotes it.

    usage: staleness.py [--replicas R] [--ahead C ...] [--iterations N] [--seed S] [--alternate] [CIFAR_FOLDER]

Replicas share one set of weights w. Each computes the gradient of its part of 100 images at the weights it took
after its own last push, less C times its own last update, and pushes 1/R of its update. They take turns with
--alternate, else a random one comes next. Prints the accuracy on the 10,000 test images.
"""
import argparse

import numpy as np
import torch
import torch.nn.functional as F

MOMENTUM, RATE, DECAY, BATCH = 0.9, 1e-3, 4e-3, 100


def read(folder, names):
    raw = np.concatenate([np.fromfile(f"{folder}/{n}.bin", np.uint8).reshape(-1, 3073) for n in names])
    images = torch.from_numpy(raw[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32))
    return images, torch.from_numpy(raw[:, 0].astype(np.int64))


def start_weights(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(1e-4, (32, 3, 5, 5)), (0.01, (32, 32, 5, 5)), (0.01, (64, 32, 5, 5)), (0.1, (64, 1024)), (0.1, (10, 64))]
    return [w for std, shape in shapes for w in (torch.randn(*shape, generator=g) * std, torch.zeros(shape[0]))]


def net(w, x):
    x = F.relu(F.max_pool2d(F.conv2d(x, w[0], w[1], padding=2), 3, 2, ceil_mode=True))
    x = F.avg_pool2d(F.relu(F.conv2d(x, w[2], w[3], padding=2)), 3, 2, ceil_mode=True)
    x = F.avg_pool2d(F.relu(F.conv2d(x, w[4], w[5], padding=2)), 3, 2, ceil_mode=True)
    return F.linear(F.linear(x.flatten(1), w[6], w[7]), w[8], w[9])


def train(train_set, replicas, ahead, iterations, seed, alternate):
    images, labels = train_set
    size = BATCH // replicas
    w = start_weights(seed)
    history = [[torch.zeros_like(p) for p in w] for _ in range(replicas)]
    view = [w] * replicas
    order = np.random.default_rng(seed)
    for ticket in range(iterations * replicas):
        r = ticket % replicas if alternate else int(order.integers(replicas))
        records = (torch.arange(size) + ticket * size) % len(images)
        at = [p.detach().requires_grad_() for p in view[r]]
        gradient = torch.autograd.grad(F.cross_entropy(net(at, images[records]), labels[records]), at)
        # Biases learn twice as fast.
        rates = [RATE * (2 if p.dim() == 1 else 1) for p in w]
        history[r] = [
            MOMENTUM * h + rate * (g + DECAY * p.detach())
            for h, rate, g, p in zip(history[r], rates, gradient, at)
        ]
        w = [p - h / replicas for p, h in zip(w, history[r])]
        view[r] = [p - ahead * h for p, h in zip(w, history[r])]
    return w


def accuracy(w, test_set):
    with torch.no_grad():
        parts = zip(test_set[0].split(1000), test_set[1].split(1000))
        return sum((net(w, x).argmax(1) == y).sum().item() for x, y in parts) / len(test_set[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", default="../shared/data/cifar10")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--ahead", type=float, nargs="+", default=[0.0, 0.5])
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--alternate", action="store_true")
    a = parser.parse_args()
    torch.set_num_threads(2)
    images, labels = read(a.folder, ["data_batch_1", "data_batch_2"])
    test_images, test_labels = read(a.folder, ["test_batch"])
    mean = images.mean(0)
    for ahead in a.ahead:
        w = train((images - mean, labels), a.replicas, ahead, a.iterations, a.seed, a.alternate)
        score = accuracy(w, (test_images - mean, test_labels))
        print(f"{a.replicas} replicas, {a.iterations} iterations, {ahead} updates ahead: accuracy {score:.4f}", flush=True)


if __name__ == "__main__":
    main()
