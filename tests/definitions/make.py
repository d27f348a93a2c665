"""Writes cases for `tests/conformance.rs` from definitions alone: every layer's formula in PyTorch, in double precision,
with gradients by automatic differentiation. No code of a Caffe was used; where Caffe's rule is its own (the ceil rule of
pooling, what a loss is divided by, which of two equal maxima counts) the formula says so in a comment.

usage: make.py FOLDER      needs torch and numpy; the cases in the tree were made with torch 2.15

A case is a folder with `net.prototxt` and `case.npz`, in the form that the recorded cases have. Values are drawn on a
grid of 1/64 where order matters, so that single and double precision agree about which is larger.
"""
import itertools
import math
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/definitions/cases")
RNG = np.random.default_rng(20)


def rand(*shape, low=-1.0, high=1.0):
    """Different numbers, none closer than 1/64 to 0 or to another one of a small array."""
    n = int(np.prod(shape))
    grid = np.linspace(low, high, n + 2)[1:-1] if n < 100000 else RNG.uniform(low, high, n)
    grid = np.where(np.abs(grid) < 1e-2, grid + 2e-2, grid)
    return RNG.permutation(grid).reshape(shape).astype(np.float32)


def ints(*shape, below):
    return RNG.integers(0, below, shape).astype(np.float32)


def dims(shape):
    return " ".join(f"dim: {d}" for d in shape)


def case(name, layer, inputs, formula, params=(), tops=("y",), labels=(), phase=0, scalar_loss=False, after=None, down=True):
    """`layer`: type and settings. `formula(*inputs, *params)` gives the tops. `labels`: inputs without a gradient."""
    kind, settings = layer
    data = {k: torch.tensor(v.astype(np.float64), requires_grad=down and k not in labels) for k, v in inputs.items()}
    weights = [torch.tensor(p.astype(np.float64), requires_grad=down) for p in params]
    text = [f'name: "{name}"', "force_backward: true"]
    for blob, value in inputs.items():
        text.append(f'layer {{ name: "in_{blob}" type: "Input" top: "{blob}" input_param {{ shape {{ {dims(value.shape)} }} }} }}')
    bottoms = " ".join(f'bottom: "{blob}"' for blob in inputs)
    heads = " ".join(f'top: "{top}"' for top in tops)
    text.append(f'layer {{ name: "under_test" type: "{kind}" {bottoms} {heads} {settings} }}')
    arrays = {"phase": np.float32(phase).reshape(1)}
    arrays.update({f"input/{blob}": value for blob, value in inputs.items()})
    arrays.update({f"param/under_test/{i}": p for i, p in enumerate(params)})
    results = formula(*data.values(), *weights)
    results = results if isinstance(results, tuple) else (results,)
    assert len(results) == len(tops), name
    total = 0.0
    for top, result in zip(tops, results):
        arrays[f"output/{top}"] = result.detach().numpy().astype(np.float32)
        if down and not scalar_loss:
            seed = rand(*result.shape)
            arrays[f"output_diff/{top}"] = seed
            if result.requires_grad:
                total = total + (result * torch.tensor(seed.astype(np.float64))).sum()
        elif down and top == tops[0]:
            weight = float(settings.split("loss_weight:")[1].split()[0]) if "loss_weight:" in settings else 1.0
            total = total + weight * result.sum()
    if down and torch.is_tensor(total) and total.requires_grad:
        total.backward()
        for blob, value in data.items():
            if value.requires_grad:
                grad = value.grad if value.grad is not None else torch.zeros_like(value)
                arrays[f"input_diff/{blob}"] = grad.numpy().astype(np.float32)
        for i, weight in enumerate(weights):
            if weight.grad is not None:
                arrays[f"param_diff/under_test/{i}"] = weight.grad.numpy().astype(np.float32)
    for i, value in (after or {}).items():
        arrays[f"param_after/under_test/{i}"] = np.asarray(value, np.float32)
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.prototxt").write_text("\n".join(text) + "\n")
    np.savez_compressed(folder / "case.npz", **arrays)



# --- Convolution, Deconvolution, Im2col -------------------------------------------------------------------------------

def convolutions():
    filler = 'weight_filler { type: "gaussian" std: 0.5 }'

    def conv(name, x, out, kernel, settings, run, group=1, bias=True, channels=None):
        channels = channels or x.shape[1]
        params = [rand(out, channels // group, *kernel)] + ([rand(out)] if bias else [])
        text = f"convolution_param {{ num_output: {out} {settings} {filler}{'' if bias else ' bias_term: false'} }}"
        case(f"convolution.{name}", ("Convolution", text), {"x": x}, run, params)

    conv("group_of_each_channel", rand(2, 4, 6, 5), 4, (3, 3), "kernel_size: 3 pad: 1 group: 4",
         lambda x, w, b: F.conv2d(x, w, b, padding=1, groups=4), 4)
    conv("two_outputs_a_channel", rand(2, 3, 6, 5), 6, (3, 3), "kernel_size: 3 stride: 2 group: 3",
         lambda x, w, b: F.conv2d(x, w, b, stride=2, groups=3), 3)
    conv("group_2", rand(2, 32, 5, 5), 48, (3, 3), "kernel_size: 3 pad: 1 group: 2",
         lambda x, w, b: F.conv2d(x, w, b, padding=1, groups=2), 2)
    conv("dilated", rand(1, 3, 9, 8), 5, (3, 3), "kernel_size: 3 dilation: 2 pad: 2",
         lambda x, w, b: F.conv2d(x, w, b, padding=2, dilation=2))
    conv("dilated_uneven", rand(1, 2, 9, 8), 3, (3, 2), "kernel_h: 3 kernel_w: 2 dilation: 2 dilation: 3 stride_h: 1 stride_w: 2",
         lambda x, w, b: F.conv2d(x, w, b, stride=(1, 2), dilation=(2, 3)))
    conv("rectangular", rand(2, 3, 7, 6), 4, (5, 1), "kernel_h: 5 kernel_w: 1 stride_h: 2 stride_w: 3 pad_h: 2 pad_w: 0",
         lambda x, w, b: F.conv2d(x, w, b, stride=(2, 3), padding=(2, 0)))
    conv("repeated_fields", rand(2, 3, 7, 6), 4, (3, 2), "kernel_size: 3 kernel_size: 2 stride: 2 stride: 1 pad: 1 pad: 0",
         lambda x, w, b: F.conv2d(x, w, b, stride=(2, 1), padding=(1, 0)))
    conv("one_by_one_with_steps", rand(2, 5, 5, 5), 7, (1, 1), "kernel_size: 1 stride: 2",
         lambda x, w, b: F.conv2d(x, w, b, stride=2))
    conv("one_by_one_without_bias", rand(2, 16, 4, 4), 16, (1, 1), "kernel_size: 1",
         lambda x, w: F.conv2d(x, w), bias=False)
    conv("whole_image", rand(3, 2, 4, 5), 6, (4, 5), "kernel_h: 4 kernel_w: 5", lambda x, w, b: F.conv2d(x, w, b))
    conv("mostly_padding", rand(1, 2, 2, 2), 3, (3, 3), "kernel_size: 3 pad: 2", lambda x, w, b: F.conv2d(x, w, b, padding=2))
    conv("one_axis", rand(2, 3, 9), 4, (3,), "kernel_size: 3 stride: 2 pad: 1", lambda x, w, b: F.conv1d(x, w, b, stride=2, padding=1))
    conv("three_axes", rand(1, 2, 4, 5, 4), 3, (2, 3, 2), "kernel_size: 2 kernel_size: 3 kernel_size: 2 pad: 0 pad: 1 pad: 1 stride: 1 stride: 2 stride: 1",
         lambda x, w, b: F.conv3d(x, w, b, stride=(1, 2, 1), padding=(0, 1, 1)))
    conv("channels_on_axis_2", rand(2, 3, 2, 5, 4), 4, (3, 2), "axis: 2 kernel_h: 3 kernel_w: 2",
         lambda x, w, b: F.conv2d(x.reshape(6, 2, 5, 4), w, b).reshape(2, 3, 4, 3, 3), channels=2)
    conv("negative_axis", rand(2, 3, 6, 5), 4, (2, 2), "axis: -3 kernel_size: 2", lambda x, w, b: F.conv2d(x, w, b))
    conv("general_im2col", rand(2, 3, 6, 5), 4, (3, 3), "kernel_size: 3 force_nd_im2col: true", lambda x, w, b: F.conv2d(x, w, b))
    conv("engine_named", rand(2, 3, 6, 5), 4, (3, 3), "kernel_size: 3 engine: CAFFE", lambda x, w, b: F.conv2d(x, w, b))
    w, b = rand(4, 3, 3, 3), rand(4)
    case("convolution.two_bottoms", ("Convolution", f"convolution_param {{ num_output: 4 kernel_size: 3 {filler} }}"),
         {"x": rand(2, 3, 5, 6), "z": rand(2, 3, 5, 6)}, lambda x, z, w, b: (F.conv2d(x, w, b), F.conv2d(z, w, b)), [w, b], ("y", "v"))

    def deconv(name, x, out, kernel, settings, run, group=1, bias=True):
        params = [rand(x.shape[1], out // group, *kernel)] + ([rand(out)] if bias else [])
        text = f"convolution_param {{ num_output: {out} {settings} {filler}{'' if bias else ' bias_term: false'} }}"
        case(f"deconvolution.{name}", ("Deconvolution", text), {"x": x}, run, params)

    deconv("group_2", rand(2, 4, 3, 4), 6, (3, 3), "kernel_size: 3 stride: 2 group: 2",
           lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, groups=2), 2)
    deconv("dilated", rand(1, 3, 4, 3), 2, (3, 3), "kernel_size: 3 dilation: 2 pad: 1",
           lambda x, w, b: F.conv_transpose2d(x, w, b, padding=1, dilation=2))
    deconv("rectangular", rand(2, 2, 3, 4), 3, (4, 2), "kernel_h: 4 kernel_w: 2 stride_h: 3 stride_w: 1 pad_h: 1 pad_w: 0",
           lambda x, w, b: F.conv_transpose2d(x, w, b, stride=(3, 1), padding=(1, 0)))
    deconv("one_by_one", rand(2, 3, 4, 4), 5, (1, 1), "kernel_size: 1", lambda x, w: F.conv_transpose2d(x, w), bias=False)
    deconv("upsampling", rand(2, 4, 3, 4), 4, (4, 4), "kernel_size: 4 stride: 2 pad: 1 group: 4",
           lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=1, groups=4), 4, False)

    def columns(x, kernel, **how):
        out = F.unfold(x, kernel, **how)
        span = lambda i, n: (n + 2 * how.get("padding", (0, 0))[i] - how.get("dilation", (1, 1))[i] * (kernel[i] - 1) - 1) // how.get("stride", (1, 1))[i] + 1
        return out.reshape(x.shape[0], -1, span(0, x.shape[2]), span(1, x.shape[3]))

    case("im2col.dilated", ("Im2col", "convolution_param { kernel_size: 2 dilation: 2 pad: 1 }"), {"x": rand(2, 3, 5, 6)},
         lambda x: columns(x, (2, 2), dilation=(2, 2), padding=(1, 1)))
    case("im2col.rectangular", ("Im2col", "convolution_param { kernel_h: 3 kernel_w: 1 stride_h: 1 stride_w: 2 }"), {"x": rand(2, 2, 5, 6)},
         lambda x: columns(x, (3, 1), stride=(1, 2)))


# --- Pooling, SPP, LRN ------------------------------------------------------------------------------------------------

def windows(size, kernel, stride, pad):
    """Caffe's: as many as reach the end (ceil), but none that starts in the padding behind it."""
    n = math.ceil((size + 2 * pad - kernel) / stride) + 1
    if pad and (n - 1) * stride >= size + pad:
        n -= 1
    return [(i * stride - pad, i * stride - pad + kernel) for i in range(n)]


def pool(x, how, kernel, stride=(1, 1), pad=(0, 0), mask=False):
    rows, cols = windows(x.shape[2], kernel[0], stride[0], pad[0]), windows(x.shape[3], kernel[1], stride[1], pad[1])
    lines, places = [], []
    for top, bottom in rows:
        line, marks = [], []
        for left, right in cols:
            t, b, l, r = max(top, 0), min(bottom, x.shape[2]), max(left, 0), min(right, x.shape[3])
            piece = x[:, :, t:b, l:r]
            if how == "AVE":
                # The divisor counts padding, but not beyond the padded image.
                area = (min(bottom, x.shape[2] + pad[0]) - top) * (min(right, x.shape[3] + pad[1]) - left)
                line.append(piece.sum((2, 3)) / area)
            else:
                flat = piece.flatten(2)
                # Of equal maxima the first counts.
                first = torch.argmax(flat.detach() - torch.arange(flat.shape[2]) * 1e-12, 2)
                line.append(flat.gather(2, first[:, :, None])[:, :, 0])
                marks.append((first // (r - l) + t) * x.shape[3] + first % (r - l) + l)
        lines.append(torch.stack(line, 2))
        places.append(torch.stack(marks, 2) if marks else None)
    y = torch.stack(lines, 2)
    return (y, torch.stack(places, 2).double()) if mask else y


def poolings():
    shapes = {
        "ceil": ((2, 3, 6, 5), "kernel_size: 3 stride: 2", (3, 3), (2, 2), (0, 0)),
        "padded": ((2, 3, 6, 5), "kernel_size: 3 stride: 2 pad: 1", (3, 3), (2, 2), (1, 1)),
        "window_in_end_padding": ((1, 2, 5, 5), "kernel_size: 2 stride: 3 pad: 1", (2, 2), (3, 3), (1, 1)),
        "steps_beyond_kernel": ((1, 2, 8, 7), "kernel_size: 2 stride: 3", (2, 2), (3, 3), (0, 0)),
        "rectangular": ((2, 2, 7, 6), "kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0", (3, 2), (2, 1), (1, 0)),
        "dense": ((1, 9, 5, 5), "kernel_size: 3 stride: 1 pad: 1", (3, 3), (1, 1), (1, 1)),
        "wide": ((1, 16, 7, 7), "kernel_size: 5 stride: 3 pad: 2", (5, 5), (3, 3), (2, 2)),
    }
    for how, (name, (shape, text, kernel, stride, pad)) in itertools.product(("MAX", "AVE"), shapes.items()):
        case(f"pooling.{how.lower()}.{name}", ("Pooling", f"pooling_param {{ pool: {how} {text} }}"), {"x": rand(*shape)},
             lambda x, how=how, k=kernel, s=stride, p=pad: pool(x, how, k, s, p))
    for how in ("MAX", "AVE"):
        case(f"pooling.{how.lower()}.global", ("Pooling", f"pooling_param {{ pool: {how} global_pooling: true }}"), {"x": rand(2, 3, 4, 5)},
             lambda x, how=how: pool(x, how, (4, 5)))
    case("pooling.mask_padded", ("Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }"), {"x": rand(2, 2, 5, 6)},
         lambda x: pool(x, "MAX", (3, 3), (2, 2), (1, 1), mask=True), tops=("y", "mask"))
    case("pooling.max.equal_values", ("Pooling", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"),
         {"x": np.round(rand(2, 3, 6, 6) * 2).astype(np.float32) / 2}, lambda x: pool(x, "MAX", (2, 2), (2, 2)))
    case("pooling.max.all_negative", ("Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }"),
         {"x": rand(2, 3, 6, 6, low=-3, high=-1)}, lambda x: pool(x, "MAX", (3, 3), (2, 2), (1, 1)))

    def spp(x, height, how):
        # Level l: 2^l bins a side; kernel ⌈size/bins⌉, padding so that the bins just cover (rounded up).
        parts = []
        for level in range(height):
            bins = 2 ** level
            kernel = [math.ceil(s / bins) for s in x.shape[2:]]
            pad = [(k * bins - s + 1) // 2 for k, s in zip(kernel, x.shape[2:])]
            parts.append(pool(x, how, kernel, kernel, pad).flatten(1))
        return torch.cat(parts, 1)

    case("spp.three_levels", ("SPP", "spp_param { pyramid_height: 3 }"), {"x": rand(2, 3, 9, 7)}, lambda x: spp(x, 3, "MAX"))
    case("spp.average", ("SPP", "spp_param { pyramid_height: 2 pool: AVE }"), {"x": rand(2, 2, 6, 5)}, lambda x: spp(x, 2, "AVE"))

    def across(x, size, alpha, beta, k):
        half = (size - 1) // 2
        squares = F.pad(x * x, (0, 0, 0, 0, half, half))
        sums = sum(squares[:, i:i + x.shape[1]] for i in range(size))
        return x * (k + alpha / size * sums) ** -beta

    for name, size, alpha, beta, k in (("five", 5, 1e-4, 0.75, 1.0), ("strong", 3, 2.0, 0.6, 1.5), ("seven_of_four_channels", 7, 0.5, 0.75, 2.0), ("one", 1, 0.5, 0.5, 1.0)):
        case(f"lrn.{name}", ("LRN", f"lrn_param {{ local_size: {size} alpha: {alpha} beta: {beta} k: {k} }}"), {"x": rand(2, 9 if size == 5 else 4, 3, 4, low=-2, high=2)},
             lambda x, s=size, a=alpha, b=beta, k=k: across(x, s, a, b, k))
    # Within a channel k has no effect: 1 stands in its place.
    case("lrn.within_channel", ("LRN", "lrn_param { local_size: 5 alpha: 0.7 beta: 0.5 k: 3 norm_region: WITHIN_CHANNEL }"), {"x": rand(2, 3, 6, 5)},
         lambda x: x * (1 + 0.7 * pool(x * x, "AVE", (5, 5), (1, 1), (2, 2))) ** -0.5)


# --- Inner products and tables ----------------------------------------------------------------------------------------

def products():
    filler = 'weight_filler { type: "gaussian" std: 0.5 }'

    def ip(name, x, settings, wide, out, run, transpose=False, bias=True):
        params = [rand(*((wide, out) if transpose else (out, wide)))] + ([rand(out)] if bias else [])
        case(f"innerproduct.{name}", ("InnerProduct", f"inner_product_param {{ num_output: {out} {settings} {filler} }}"), {"x": x}, run, params)

    ip("axis_2", rand(2, 3, 4, 2), "axis: 2", 8, 5, lambda x, w, b: x.reshape(2, 3, 8) @ w.T + b)
    ip("axis_0", rand(3, 4), "axis: 0", 12, 5, lambda x, w, b: w @ x.reshape(12) + b)
    ip("negative_axis", rand(2, 3, 4), "axis: -1", 4, 3, lambda x, w, b: x @ w.T + b)
    ip("transposed", rand(3, 2, 4), "transpose: true", 8, 5, lambda x, w, b: x.reshape(3, 8) @ w + b, transpose=True)
    ip("transposed_without_bias", rand(3, 6), "transpose: true bias_term: false", 6, 4, lambda x, w: x @ w, transpose=True, bias=False)
    ip("without_bias", rand(3, 2, 2, 2), "bias_term: false", 8, 4, lambda x, w: x.reshape(3, 8) @ w.T, bias=False)
    ip("one_record", rand(1, 40), "", 40, 33, lambda x, w, b: x @ w.T + b)
    case("embed.without_bias", ("Embed", f"embed_param {{ num_output: 3 input_dim: 5 bias_term: false {filler} }}"), {"x": ints(2, 4, below=5)},
         lambda x, w: w[x.long()], [rand(5, 3)], labels=("x",))
    case("batchreindex.repeats", ("BatchReindex", ""), {"x": rand(4, 2, 3), "i": np.float32([3, 0, 0, 2, 3, 3])}, lambda x, i: x[i.long()], labels=("i",))


# --- Element by element -----------------------------------------------------------------------------------------------

def elementwise():
    def one(name, kind, settings, run, x=None, params=()):
        case(name, (kind, settings), {"x": rand(2, 3, 4, 2, low=-2, high=2) if x is None else x}, run, params)

    one("relu.slope", "ReLU", "relu_param { negative_slope: 0.3 }", lambda x: F.leaky_relu(x, 0.3))
    one("elu.alpha", "ELU", "elu_param { alpha: 0.4 }", lambda x: torch.where(x > 0, x, 0.4 * (x.exp() - 1)))
    one("prelu.shared", "PReLU", "prelu_param { channel_shared: true }", lambda x, a: torch.where(x > 0, x, a * x), params=[np.float32(0.3)])
    one("prelu.two_axes", "PReLU", "", lambda x, a: torch.where(x > 0, x, a * x), x=rand(3, 5), params=[rand(5)])
    one("swish.beta", "Swish", "swish_param { beta: 1.7 }", lambda x: x * torch.sigmoid(1.7 * x))
    one("clip.inside", "Clip", "clip_param { min: -0.5 max: 0.75 }", lambda x: x.clamp(-0.5, 0.75))
    one("bnll.large", "BNLL", "", lambda x: F.softplus(x, threshold=1e9), x=rand(2, 30, low=-40, high=40))
    one("power.square", "Power", "power_param { power: 2 scale: 0.5 shift: -0.3 }", lambda x: (0.5 * x - 0.3) ** 2)
    one("power.linear", "Power", "power_param { scale: -2 shift: 3 }", lambda x: 3 - 2 * x)
    one("power.root", "Power", "power_param { power: 0.5 scale: 0.25 shift: 2 }", lambda x: (0.25 * x + 2) ** 0.5)
    one("power.constant", "Power", "power_param { power: 0 scale: 3 }", lambda x: x * 0 + 1)
    one("power.inverse", "Power", "power_param { power: -1.5 shift: 3 }", lambda x: (x + 3) ** -1.5)
    one("exp.base", "Exp", "exp_param { base: 2.5 scale: 0.5 shift: 1 }", lambda x: 2.5 ** (0.5 * x + 1))
    one("exp.natural_shifted", "Exp", "exp_param { scale: -0.7 shift: 0.2 }", lambda x: (-0.7 * x + 0.2).exp())
    one("log.base", "Log", "log_param { base: 10 scale: 0.5 shift: 2 }", lambda x: (0.5 * x + 2).log() / math.log(10))
    one("absval.signs", "AbsVal", "", lambda x: x.abs())
    one("dropout.off", "Dropout", "dropout_param { dropout_ratio: 0.7 } phase: TEST", lambda x: x * 1)
    case("threshold.level", ("Threshold", "threshold_param { threshold: 0.4 }"), {"x": rand(2, 7)}, lambda x: (x > 0.4).double(), down=False)

    a, b, c = rand(2, 3, 4), rand(2, 3, 4), rand(2, 3, 4)
    three = {"a": a, "b": b, "c": c}
    case("eltwise.sum_coeff", ("Eltwise", "eltwise_param { operation: SUM coeff: 0.5 coeff: -1 coeff: 2 }"), three, lambda a, b, c: 0.5 * a - b + 2 * c)
    case("eltwise.product", ("Eltwise", "eltwise_param { operation: PROD }"), three, lambda a, b, c: a * b * c)
    case("eltwise.product_by_division", ("Eltwise", "eltwise_param { operation: PROD stable_prod_grad: false }"), three, lambda a, b, c: a * b * c)
    case("eltwise.product_with_zeros", ("Eltwise", "eltwise_param { operation: PROD stable_prod_grad: true }"),
         {"a": np.round(a * 2).astype(np.float32), "b": b}, lambda a, b: a * b)
    # Of equal ones the later of the first two counts, a third must be greater.
    top = lambda a, b, c: (lambda two: torch.where(c > two, c, two))(torch.where(a > b, a, b))
    case("eltwise.maximum", ("Eltwise", "eltwise_param { operation: MAX }"), three, top)
    case("eltwise.maximum_of_equals", ("Eltwise", "eltwise_param { operation: MAX }"), {k: np.round(v * 2).astype(np.float32) for k, v in three.items()}, top)
    case("eltwise.one_bottom_twice", ("Eltwise", "eltwise_param { operation: SUM }"), {"a": a, "b": b}, lambda a, b: a + b)


# --- Scale, Bias, normalisation ---------------------------------------------------------------------------------------

def scales():
    filler = 'filler { type: "gaussian" std: 0.5 }'
    x = rand(2, 3, 4, 5)
    wide = lambda w, left, right: w.reshape((1,) * left + tuple(w.shape) + (1,) * right)
    case("scale.two_axes_and_bias", ("Scale", f"scale_param {{ axis: 1 num_axes: 2 bias_term: true {filler} }}"), {"x": x},
         lambda x, w, b: x * wide(w, 1, 1) + wide(b, 1, 1), [rand(3, 4), rand(3, 4)])
    case("scale.all_axes", ("Scale", f"scale_param {{ axis: 0 num_axes: -1 {filler} }}"), {"x": x}, lambda x, w: x * w, [rand(2, 3, 4, 5)])
    case("scale.one_number", ("Scale", f"scale_param {{ num_axes: 0 {filler} }}"), {"x": x}, lambda x, w: x * w, [np.float32(0.7)])
    case("scale.negative_axis", ("Scale", f"scale_param {{ axis: -1 bias_term: true {filler} }}"), {"x": x}, lambda x, w, b: x * w + b, [rand(5), rand(5)])
    case("scale.by_a_bottom", ("Scale", "scale_param { axis: 0 }"), {"x": x, "w": rand(2, 3)}, lambda x, w: x * wide(w, 0, 2))
    case("bias.two_axes", ("Bias", f"bias_param {{ axis: 2 num_axes: 2 {filler} }}"), {"x": x}, lambda x, b: x + b, [rand(4, 5)])
    case("bias.by_a_bottom", ("Bias", "bias_param { axis: 1 }"), {"x": x, "b": rand(3, 4)}, lambda x, b: x + wide(b, 1, 1))

    def mvn(x, axes, variance, eps):
        y = x - x.mean(axes, keepdim=True)
        return y / ((y * y).mean(axes, keepdim=True).sqrt() + eps) if variance else y

    case("mvn.across_channels", ("MVN", "mvn_param { across_channels: true }"), {"x": x}, lambda x: mvn(x, (1, 2, 3), True, 1e-9))
    case("mvn.mean_across_channels", ("MVN", "mvn_param { across_channels: true normalize_variance: false }"), {"x": x}, lambda x: mvn(x, (1, 2, 3), False, 0))
    case("mvn.eps_0", ("MVN", "mvn_param { eps: 1e-9 }"), {"x": x * 3}, lambda x: mvn(x, (2, 3), True, 1e-9))

    def trained(name, settings, eps, keep, x, start=(0.3, 0.6, 2.0)):
        n = x.shape[1]
        mean0, var0, count0 = np.full(n, start[0], np.float32), np.full(n, start[1], np.float32), np.float32([start[2]])
        axes = tuple(i for i in range(x.ndim) if i != 1)
        m = x.size // n
        mean, var = x.astype(np.float64).mean(axes), x.astype(np.float64).var(axes)
        shape = [1, n] + [1] * (x.ndim - 2)

        def run(x, *_):
            centred = x - x.mean(axes, keepdim=True)
            return centred / ((centred ** 2).mean(axes, keepdim=True) + eps).sqrt()

        case(name, ("BatchNorm", f"batch_norm_param {{ {settings} }}"), {"x": x}, run, [mean0, var0, count0],
             after={0: keep * mean0 + mean, 1: keep * var0 + var * m / (m - 1), 2: keep * count0 + 1})
        case(name + ".test", ("BatchNorm", f"batch_norm_param {{ {settings} }}"), {"x": x},
             lambda x, m0, v0, c0: (x - (m0 / c0).detach().reshape(shape)) / ((v0 / c0).detach().reshape(shape) + eps).sqrt(), [mean0, var0, count0], phase=1)

    trained("batchnorm.eps", "eps: 0.01 moving_average_fraction: 0.9", 0.01, 0.9, rand(3, 4, 3, 2, low=-2, high=2))
    trained("batchnorm.two_axes", "", 1e-5, 0.999, rand(6, 5))
    x = rand(3, 2, 4)
    case("batchnorm.batch_statistics_in_test", ("BatchNorm", "batch_norm_param { use_global_stats: false }"), {"x": x},
         lambda x, *_: (x - x.mean((0, 2), keepdim=True)) / (x.var((0, 2), keepdim=True, unbiased=False) + 1e-5).sqrt(),
         [np.zeros(2, np.float32), np.zeros(2, np.float32), np.zeros(1, np.float32)], phase=1)


# --- Shapes -----------------------------------------------------------------------------------------------------------

def shapes():
    x = rand(2, 6, 4, 3)
    case("concat.negative_axis", ("Concat", "concat_param { axis: -1 }"), {"a": rand(2, 3, 4), "b": rand(2, 3, 1), "c": rand(2, 3, 2)}, lambda *all: torch.cat(all, -1))
    case("concat.old_field", ("Concat", "concat_param { concat_dim: 0 }"), {"a": rand(2, 3), "b": rand(1, 3)}, lambda *all: torch.cat(all, 0))
    case("concat.uneven_channels", ("Concat", ""), {"a": rand(2, 3, 2, 2), "b": rand(2, 9, 2, 2), "c": rand(2, 1, 2, 2)}, lambda *all: torch.cat(all, 1))
    case("slice.points", ("Slice", "slice_param { axis: 1 slice_point: 1 slice_point: 4 }"), {"x": x}, lambda x: torch.split(x, [1, 3, 2], 1), tops=("a", "b", "c"))
    case("slice.negative_axis", ("Slice", "slice_param { axis: -2 }"), {"x": x}, lambda x: torch.split(x, 2, 2), tops=("a", "b"))
    case("slice.old_field", ("Slice", "slice_param { slice_dim: 0 }"), {"x": x}, lambda x: torch.split(x, 1, 0), tops=("a", "b"))
    case("flatten.middle", ("Flatten", "flatten_param { axis: 1 end_axis: -2 }"), {"x": x}, lambda x: x.reshape(2, 24, 3))
    case("flatten.from_0", ("Flatten", "flatten_param { axis: 0 end_axis: 1 }"), {"x": x}, lambda x: x.reshape(12, 4, 3))
    case("reshape.copy_and_infer", ("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 2 } }"), {"x": x}, lambda x: x.reshape(2, 36, 2))
    case("reshape.inner_axes", ("Reshape", "reshape_param { axis: 1 num_axes: 2 shape { dim: 3 dim: 8 } }"), {"x": x}, lambda x: x.reshape(2, 3, 8, 3))
    case("reshape.new_axis_at_end", ("Reshape", "reshape_param { axis: -1 num_axes: 0 shape { dim: 1 } }"), {"x": x}, lambda x: x.reshape(2, 6, 4, 3, 1))
    case("tile.axis_2", ("Tile", "tile_param { axis: 2 tiles: 3 }"), {"x": x}, lambda x: x.repeat(1, 1, 3, 1))
    case("tile.negative_axis", ("Tile", "tile_param { axis: -1 tiles: 2 }"), {"x": x}, lambda x: x.repeat(1, 1, 1, 2))
    case("crop.all_axes", ("Crop", "crop_param { axis: 0 offset: 1 offset: 2 offset: 0 offset: 1 }"), {"x": x, "r": rand(1, 3, 2, 2)},
         lambda x, r: x[1:2, 2:5, 0:2, 1:3], labels=("r",))
    case("crop.one_offset", ("Crop", "crop_param { axis: -2 offset: 1 }"), {"x": x, "r": rand(2, 6, 3, 2)}, lambda x, r: x[:, :, 1:4, 1:3], labels=("r",))
    for op, run in {"SUM": lambda x: x.sum(-1), "ASUM": lambda x: x.abs().sum(-1), "SUMSQ": lambda x: (x * x).sum(-1), "MEAN": lambda x: x.mean(-1)}.items():
        case(f"reduction.{op.lower()}", ("Reduction", f"reduction_param {{ operation: {op} axis: 2 coeff: -1.5 }}"), {"x": x},
             lambda x, run=run: -1.5 * run(x.reshape(2, 6, 12)))
        case(f"reduction.{op.lower()}.all", ("Reduction", f"reduction_param {{ operation: {op} }}"), {"x": x}, lambda x, run=run: run(x.reshape(-1)))
    case("reduction.negative_axis", ("Reduction", "reduction_param { axis: -1 }"), {"x": x}, lambda x: x.sum(-1))
    case("softmax.axis_2", ("Softmax", "softmax_param { axis: 2 }"), {"x": x}, lambda x: x.softmax(2))
    case("softmax.negative_axis", ("Softmax", "softmax_param { axis: -1 }"), {"x": x * 30}, lambda x: x.softmax(-1))
    case("softmax.axis_0", ("Softmax", "softmax_param { axis: 0 }"), {"x": rand(5)}, lambda x: x.softmax(0))

    def largest(x, k, axis):
        return torch.topk(x, k, axis)

    case("argmax.values_too", ("ArgMax", "argmax_param { out_max_val: true top_k: 2 }"), {"x": x},
         lambda x: torch.stack([largest(x.flatten(1), 2, 1).indices.double(), largest(x.flatten(1), 2, 1).values], 1), down=False)
    case("argmax.axis_1", ("ArgMax", "argmax_param { axis: 1 top_k: 2 }"), {"x": x}, lambda x: largest(x, 2, 1).indices.double(), down=False)
    case("argmax.axis_values", ("ArgMax", "argmax_param { axis: -1 top_k: 3 out_max_val: true }"), {"x": x}, lambda x: largest(x, 3, 3).values, down=False)


# --- Losses and scores ------------------------------------------------------------------------------------------------

def losses():
    def loss(name, kind, inputs, settings, run, labels, tops=("y",)):
        case(name, (kind, settings), inputs, run, tops=tops, labels=labels, scalar_loss=True)

    x, l = rand(3, 5, 2, 2, low=-3, high=3), ints(3, 2, 2, below=5)
    l[0, 0, 0] = l[2, 1, 1] = 2.0

    def divisor(how, valid, full, batch):
        return {"VALID": max(valid, 1), "FULL": full, "BATCH_SIZE": batch, "NONE": 1}[how]

    def softmax(x, l, how, ignore=None, axis=1):
        logs = x.log_softmax(axis).movedim(axis, -1)
        picked = -logs.gather(-1, l.long().reshape(logs.shape[:-1] + (1,)))[..., 0]
        keep = (l.reshape(picked.shape) != ignore) if ignore is not None else torch.ones_like(picked, dtype=bool)
        return (picked * keep).sum() / divisor(how, int(keep.sum()), keep.numel(), int(np.prod(x.shape[:axis])))

    for how, ignore in itertools.product(("VALID", "FULL", "BATCH_SIZE", "NONE"), (None, 2)):
        text = f"loss_param {{ normalization: {how}{f' ignore_label: {ignore}' if ignore is not None else ''} }}"
        loss(f"softmaxwithloss.{how.lower()}{'.ignoring' if ignore is not None else ''}", "SoftmaxWithLoss", {"x": x, "l": l}, text,
             lambda x, l, how=how, ignore=ignore: softmax(x, l, how, ignore), ("l",))
    for normalize, how in (("true", "VALID"), ("false", "BATCH_SIZE")):
        loss(f"softmaxwithloss.normalize_{normalize}", "SoftmaxWithLoss", {"x": x, "l": l}, f"loss_param {{ normalize: {normalize} ignore_label: 2 }}",
             lambda x, l, how=how: softmax(x, l, how, 2), ("l",))
    loss("softmaxwithloss.all_ignored", "SoftmaxWithLoss", {"x": rand(3, 4), "l": np.float32([1, 1, 1])}, "loss_param { ignore_label: 1 }",
         lambda x, l: softmax(x, l, "VALID", 1), ("l",))
    loss("softmaxwithloss.last_axis", "SoftmaxWithLoss", {"x": rand(2, 3, 4), "l": ints(2, 3, below=4)}, "softmax_param { axis: -1 } loss_weight: 0.3",
         lambda x, l: softmax(x, l, "VALID", None, 2), ("l",))
    loss("softmaxwithloss.probabilities", "SoftmaxWithLoss", {"x": x, "l": l}, "loss_weight: 2 loss_weight: 0",
         lambda x, l: (softmax(x, l, "VALID"), x.softmax(1)), ("l",), tops=("y", "p"))

    t, m = rand(3, 4, low=0, high=1), np.float32(RNG.integers(0, 2, (3, 4)))
    m[0, 1] = m[2, 2] = -1.0
    bce = lambda x, t: F.softplus(x) - t * x
    for how in ("VALID", "FULL", "BATCH_SIZE", "NONE"):
        loss(f"sigmoidcrossentropyloss.{how.lower()}", "SigmoidCrossEntropyLoss", {"x": rand(3, 4, low=-4, high=4), "t": m},
             f"loss_param {{ normalization: {how} ignore_label: -1 }}",
             lambda x, t, how=how: (bce(x, t) * (t != -1)).sum() / divisor(how, int((t != -1).sum()), t.numel(), 3), ("t",))
    loss("sigmoidcrossentropyloss.soft", "SigmoidCrossEntropyLoss", {"x": rand(3, 4, low=-30, high=30), "t": t}, "", lambda x, t: bce(x, t).sum() / 3, ("t",))

    classes = ints(4, below=6)
    signs = lambda l: 1 - 2 * F.one_hot(l.long(), 6).double()
    for norm, power in (("L1", 1), ("L2", 2)):
        loss(f"hingeloss.{norm.lower()}", "HingeLoss", {"x": rand(4, 6, low=-2, high=2), "l": classes}, f"hinge_loss_param {{ norm: {norm} }} loss_weight: 1.5",
             lambda x, l, p=power: ((1 + signs(l) * x).clamp(min=0) ** p).sum() / 4, ("l",))
    p = np.float32(torch.tensor(rand(4, 6)).softmax(1).numpy())
    loss("multinomiallogisticloss.weighted", "MultinomialLogisticLoss", {"x": p, "l": classes}, "loss_weight: 2",
         lambda x, l: -x.clamp(min=1e-20).log().gather(1, l.long()[:, None]).sum() / 4, ("l",))
    loss("euclideanloss.four_axes", "EuclideanLoss", {"a": rand(3, 2, 2, 2), "b": rand(3, 2, 2, 2)}, "loss_weight: 0.25", lambda a, b: ((a - b) ** 2).sum() / 6, ())
    same = np.float32([1, 0, 0, 1, 0])
    for legacy in (False, True):
        def contrast(a, b, s, legacy=legacy):
            d2 = ((a - b) ** 2).sum(1)
            apart = (1.5 - d2).clamp(min=0) if legacy else (1.5 - d2.sqrt()).clamp(min=0) ** 2
            return (s * d2 + (1 - s) * apart).sum() / 10
        loss(f"contrastiveloss.{'legacy' if legacy else 'margin'}", "ContrastiveLoss", {"a": rand(5, 3) * 0.9, "b": rand(5, 3) * 0.9, "s": same},
             f"contrastive_loss_param {{ margin: 1.5 legacy_version: {str(legacy).lower()} }}", contrast, ("s",))

    gain = rand(5, 5, low=0, high=2)

    def infogain(x, l, h, how, ignore=None, axis=1):
        logs = x.softmax(axis).clamp(min=1e-20).log().movedim(axis, -1)
        l = l.reshape(logs.shape[:-1])
        rows = h[l.long()]
        keep = (l != ignore) if ignore is not None else torch.ones_like(l, dtype=bool)
        return -((rows * logs).sum(-1) * keep).sum() / divisor(how, int(keep.sum()), keep.numel(), int(np.prod(x.shape[:axis])))

    for how, ignore in (("VALID", None), ("FULL", 2), ("BATCH_SIZE", None), ("VALID", 2), ("NONE", None)):
        text = f"loss_param {{ normalization: {how}{f' ignore_label: {ignore}' if ignore is not None else ''} }}"
        loss(f"infogainloss.{how.lower()}{'.ignoring' if ignore is not None else ''}", "InfogainLoss", {"x": x, "l": l, "h": gain}, text,
             lambda x, l, h, how=how, ignore=ignore: infogain(x, l, h, how, ignore), ("l", "h"))
    loss("infogainloss.axis_2", "InfogainLoss", {"x": rand(2, 3, 5, 2), "l": ints(2, 3, 2, below=5), "h": gain}, "infogain_loss_param { axis: 2 }",
         lambda x, l, h: infogain(x, l, h, "VALID", None, 2), ("l", "h"))

    def accuracy(x, l, k=1, ignore=None, axis=1):
        best = x.movedim(axis, -1).topk(k, -1).indices
        l = l.reshape(best.shape[:-1])
        keep = (l != ignore) if ignore is not None else torch.ones_like(l, dtype=bool)
        return (((best == l[..., None].long()).any(-1)) & keep), keep, l

    def score(x, l, **how):
        right, keep, _ = accuracy(x, l, **how)
        return right.double().sum() / max(int(keep.sum()), 1)

    wide = {"x": rand(3, 5, 2, 2), "l": l}
    case("accuracy.ignoring", ("Accuracy", "accuracy_param { ignore_label: 2 }"), wide, lambda x, l: score(x, l, ignore=2), down=False)
    case("accuracy.top_3_axis", ("Accuracy", "accuracy_param { top_k: 3 axis: -1 }"), {"x": rand(2, 3, 5), "l": ints(2, 3, below=5)},
         lambda x, l: score(x, l, k=3, axis=2), down=False)

    def each(x, l):
        right, _, l = accuracy(x, l)
        return right.double().mean(), torch.stack([right[l == c].double().mean() if (l == c).any() else torch.tensor(0.0) for c in range(5)])

    case("accuracy.per_class", ("Accuracy", ""), wide, each, tops=("y", "classes"), down=False)


# --- Recurrent layers -------------------------------------------------------------------------------------------------

def recurrent():
    steps, n, d, i, s = 4, 3, 5, 4, 2
    fillers = 'weight_filler { type: "gaussian" std: 0.5 } bias_filler { type: "gaussian" std: 0.5 }'
    cont = np.float32([[0, 1, 1], [1, 1, 1], [1, 0, 1], [1, 1, 0]])

    def lstm(x, cont, wx, b, wh, static=None, h=None, c=None):
        h = torch.zeros(n, d) if h is None else h[0]
        c = torch.zeros(n, d) if c is None else c[0]
        out = []
        for t in range(steps):
            goes_on = cont[t][:, None]
            gates = x[t] @ wx.T + b + (goes_on * h) @ wh.T + (0 if static is None else static)
            gi, gf, go, gg = gates.split(d, 1)
            c = goes_on * torch.sigmoid(gf) * c + torch.sigmoid(gi) * torch.tanh(gg)
            h = torch.sigmoid(go) * torch.tanh(c)
            out.append(h)
        # Caffe hands states in and out by value: no gradient goes through them.
        return torch.stack(out), h[None].detach(), c[None].detach()

    x, still, h0, c0 = rand(steps, n, i), rand(n, s), rand(1, n, d), rand(1, n, d)
    wx, b, ws, wh = rand(4 * d, i), rand(4 * d), rand(4 * d, s), rand(4 * d, d)
    text = f"recurrent_param {{ num_output: {d} {fillers} }}"
    open_text = f"recurrent_param {{ num_output: {d} expose_hidden: true {fillers} }}"
    case("lstm.static_input", ("LSTM", text), {"x": x, "cont": cont, "s": still},
         lambda x, cont, s, wx, b, ws, wh: lstm(x, cont, wx, b, wh, s @ ws.T)[0], [wx, b, ws, wh], labels=("cont",))
    case("lstm.exposed", ("LSTM", open_text), {"x": x, "cont": cont, "h0": h0, "c0": c0},
         lambda x, cont, h0, c0, wx, b, wh: lstm(x, cont, wx, b, wh, None, h0, c0), [wx, b, wh], tops=("y", "h", "c"), labels=("cont", "h0", "c0"))
    case("lstm.exposed_static", ("LSTM", open_text), {"x": x, "cont": cont, "s": still, "h0": h0, "c0": c0},
         lambda x, cont, s, h0, c0, wx, b, ws, wh: lstm(x, cont, wx, b, wh, s @ ws.T, h0, c0), [wx, b, ws, wh], tops=("y", "h", "c"), labels=("cont", "h0", "c0"))

    def rnn(x, cont, wx, b, wh, wo, bo, static=None, h=None):
        h = torch.zeros(n, d) if h is None else h[0]
        out = []
        for t in range(steps):
            h = torch.tanh(x[t] @ wx.T + b + (cont[t][:, None] * h) @ wh.T + (0 if static is None else static))
            out.append(torch.tanh(h @ wo.T + bo))
        return torch.stack(out), h[None].detach()

    rx, rb, rs, rh, ro, rbo = rand(d, i), rand(d), rand(d, s), rand(d, d), rand(d, d), rand(d)
    case("rnn.static_input", ("RNN", text), {"x": x, "cont": cont, "s": still},
         lambda x, cont, s, wx, b, ws, wh, wo, bo: rnn(x, cont, wx, b, wh, wo, bo, s @ ws.T)[0], [rx, rb, rs, rh, ro, rbo], labels=("cont",))
    case("rnn.exposed", ("RNN", open_text), {"x": x, "cont": cont, "h0": h0},
         lambda x, cont, h0, wx, b, wh, wo, bo: rnn(x, cont, wx, b, wh, wo, bo, None, h0), [rx, rb, rh, ro, rbo], tops=("y", "h"), labels=("cont", "h0"))


for part in (convolutions, poolings, products, elementwise, scales, shapes, losses, recurrent):
    part()
print(len(list(OUT.iterdir())), "cases in", OUT)
