//! Speed of the CPU primitives, shape by shape: `cargo bench --bench primitives [-- FILTER]`.
//!
//! Convolutions are those of GoogLeNet and cifar10_quick that stand for their kind; GF/s counts the
//! direct algorithm's operations, so Winograd may pass the peak. Every time is the best
//! of `BENCH_REPEAT` runs (default 7; the best, as other work on the machine only adds) on `BENCH_THREADS` threads (default: all), with buffers warm.
//! Environment variables of OpenMP (`OMP_WAIT_POLICY`, `GOMP_SPINCOUNT`) act as usual.

use std::time::{Duration, Instant};

use caffe::blob::layout::Layout;
use caffe::device::cpu::aligned::AlignedBuf;
use caffe::device::cpu::gemm::{self, Gemm};
use caffe::device::cpu::lrn::{Across, Shape};
use caffe::device::cpu::onednn::{
    Context, ConvConfig, Convolution, Error, LrnAcross, LrnConfig, PoolConfig, PoolMethod, Pooling,
};
use caffe::device::cpu::threads::Threads;
use caffe::device::cpu::{channels, reorder};

struct Bench {
    cx: Context,
    filter: String,
    repeat: usize,
}

fn main() -> Result<(), Error> {
    let number = |name, default| {
        std::env::var(name).ok().and_then(|v: String| v.parse().ok()).unwrap_or(default)
    };
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let cx = Context::new(Threads::new(number("BENCH_THREADS", all)))?;
    // Cargo itself passes `--bench`.
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    println!("{cx:?}, {}", Layout::preferred_blocked());
    let bench = Bench { cx, filter, repeat: number("BENCH_REPEAT", 7) };
    bench.teams();
    bench.convolutions()?;
    bench.pools()?;
    bench.lrn()?;
    bench.copies();
    bench.matrices()
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        name.contains(&self.filter)
    }

    /// Best time of one call, after one call to warm up.
    fn time(&self, mut call: impl FnMut()) -> Duration {
        call();
        let runs = (0..self.repeat).map(|_| {
            let start = Instant::now();
            call();
            start.elapsed()
        });
        runs.min().unwrap_or_default()
    }

    fn teams(&self) {
        if !self.wants("team") {
            return;
        }
        for (name, threads) in [
            ("openmp", self.cx.threads()),
            ("std threads", Threads::without_openmp(self.cx.threads().count())),
        ] {
            for (gap, loops) in [(0, 1000), (100, 200), (10_000, 20)] {
                let mut spent = Duration::ZERO;
                for _ in 0..loops {
                    let wait = Instant::now();
                    while wait.elapsed() < Duration::from_micros(gap) {
                        std::hint::spin_loop();
                    }
                    let start = Instant::now();
                    threads.parallel_for(threads.count(), |i| {
                        std::hint::black_box(i);
                    });
                    spent += start.elapsed();
                }
                let each = spent.as_secs_f64() * 1e6 / f64::from(loops);
                println!("team of {name:12} {gap:6} us after the last: {each:8.2} us a loop");
            }
        }
    }

    fn convolutions(&self) -> Result<(), Error> {
        println!("{:34} {:>23}   GF/s forward / data / weights", "convolution", "ms");
        for (name, n, ic, size, oc, k, stride, pad) in [
            ("googlenet conv1", 32, 3, 224, 64, 7, 2, 3),
            ("googlenet conv2 reduce", 32, 64, 56, 64, 1, 1, 0),
            ("googlenet conv2", 32, 64, 56, 192, 3, 1, 1),
            ("3a 1x1", 32, 192, 28, 96, 1, 1, 0),
            ("3a 3x3", 32, 96, 28, 128, 3, 1, 1),
            ("3a 5x5", 32, 16, 28, 32, 5, 1, 2),
            ("4b 1x1", 32, 512, 14, 160, 1, 1, 0),
            ("4b 3x3", 32, 112, 14, 224, 3, 1, 1),
            ("4b 5x5 (24 channels)", 32, 24, 14, 64, 5, 1, 2),
            ("5a 3x3", 32, 160, 7, 320, 3, 1, 1),
            ("cifar conv1", 100, 3, 32, 32, 5, 1, 2),
            ("cifar conv2", 100, 32, 16, 32, 5, 1, 2),
            ("cifar conv3", 100, 32, 8, 64, 5, 1, 2),
        ] {
            let layout = ConvConfig::preferred_src_layout(ic, 1);
            let out = (size + 2 * pad - k) / stride + 1;
            let config = ConvConfig {
                n,
                ic,
                input: [size; 2],
                oc,
                output: [out; 2],
                kernel: [k; 2],
                stride: [stride; 2],
                pad: [pad; 2],
                dilation: [1; 2],
                groups: 1,
                bias: true,
                fuse_relu: true,
                winograd: true,
                src_layout: layout,
                dst_layout: Layout::preferred_blocked(),
                backward_data: true,
                backward_weights: true,
            };
            if !self.wants(name) {
                continue;
            }
            self.convolution(name, &config)?;
            let winograd = k == 3;
            if winograd {
                self.convolution("  without Winograd", &ConvConfig { winograd: false, ..config })?;
            }
        }
        Ok(())
    }

    fn convolution(&self, name: &str, config: &ConvConfig) -> Result<(), Error> {
        let mut conv = Convolution::new(&self.cx, config)?;
        let src = ramp(conv.src_len());
        let (mut dst, mut diff_src) = (ramp(conv.dst_len()), src.clone());
        let (weights, bias) = (ramp(config.weights_len()), ramp(config.oc));
        let (mut diff_weights, mut diff_bias) = (weights.clone(), bias.clone());
        conv.pack_weights(&weights, &bias)?;
        let times = [
            self.time(|| done(conv.forward(&src, &mut dst))),
            self.time(|| done(conv.backward_data(&dst, &mut diff_src))),
            self.time(|| {
                done(conv.backward_weights(&src, &dst, &mut diff_weights, &mut diff_bias));
            }),
        ];
        let pack = self.time(|| done(conv.pack_weights(&weights, &bias)));
        let rates = times.map(|t| config.flops() / t.as_secs_f64() / 1e9);
        let names: Vec<_> = conv.impl_info().into_iter().map(|i| i.1).collect();
        let ms = times.map(|t| t.as_secs_f64() * 1e3);
        println!(
            "{name:34} {:7.2} {:7.2} {:7.2}   {:4.0} / {:4.0} / {:4.0}   pack {:.3} ms   {}",
            ms[0],
            ms[1],
            ms[2],
            rates[0],
            rates[1],
            rates[2],
            pack.as_secs_f64() * 1e3,
            names.join(", ")
        );
        Ok(())
    }

    fn pools(&self) -> Result<(), Error> {
        for (name, method, n, channels, size, kernel, stride, pad, out) in [
            ("pool1 of googlenet", PoolMethod::Max, 32, 64, 112, 3, 2, 0, 56),
            ("pool of 3a", PoolMethod::Max, 32, 192, 28, 3, 1, 1, 28),
            ("pool5 of googlenet", PoolMethod::Average, 32, 1024, 7, 7, 1, 0, 1),
            ("pool1 of cifar", PoolMethod::Max, 100, 32, 32, 3, 2, 0, 16),
            ("pool2 of cifar", PoolMethod::Average, 100, 32, 16, 3, 2, 0, 8),
        ] {
            if !self.wants(name) {
                continue;
            }
            let layout = Layout::preferred_blocked();
            let config = PoolConfig {
                method,
                n,
                channels,
                input: [size; 2],
                output: [out; 2],
                kernel: [kernel; 2],
                stride: [stride; 2],
                pad: [pad; 2],
                layout,
                backward: true,
            };
            let mut pool = Pooling::new(&self.cx, &config)?;
            let mut src = ramp(layout.padded_len(&[n, channels, size, size]));
            let mut dst = ramp(layout.padded_len(&[n, channels, out, out]));
            let forward = self.time(|| done(pool.forward(&src, &mut dst)));
            let backward = self.time(|| done(pool.backward(&dst, &mut src)));
            bytes(name, forward, 4 * (src.len() + dst.len()));
            bytes("  backward", backward, 4 * (src.len() + dst.len()));
        }
        Ok(())
    }

    fn lrn(&self) -> Result<(), Error> {
        for (name, layout) in [
            ("lrn of googlenet conv2", Layout::preferred_blocked()),
            ("lrn, plain layout", Layout::Plain),
        ] {
            if !self.wants(name) {
                continue;
            }
            let shape = Shape { n: 32, channels: 192, pixels: 56 * 56, layout };
            let across = Across { size: 5, alpha: 1e-4, beta: 0.75, k: 1.0 };
            let mut lrn = LrnAcross::new(&self.cx, &LrnConfig { shape, across, backward: true })?;
            let (src, mut dst) = (ramp(shape.len()), ramp(shape.len()));
            let mut diff = ramp(shape.len());
            let forward = self.time(|| done(lrn.forward(&src, &mut dst)));
            let backward = self.time(|| done(lrn.backward(&src, &dst, &mut diff)));
            bytes(name, forward, 8 * shape.len());
            bytes("  backward", backward, 12 * shape.len());
        }
        Ok(())
    }

    fn copies(&self) {
        let blocked = Layout::preferred_blocked();
        let threads = self.cx.threads();
        for (name, n, c, pixels) in
            [("reorder 32x64x56x56", 32, 64, 3136), ("reorder 100x64x4x4", 100, 64, 16)]
        {
            if !self.wants(name) {
                continue;
            }
            let shape = reorder::Shape { n, channels: c, pixels };
            let mut plain = ramp(shape.len(Layout::Plain));
            let mut block = ramp(shape.len(blocked));
            let there = self.time(|| {
                reorder::reorder(threads, shape, (&plain, Layout::Plain), (&mut block, blocked));
            });
            let back = self.time(|| {
                reorder::reorder(threads, shape, (&block, blocked), (&mut plain, Layout::Plain));
            });
            bytes(name, there, 8 * plain.len());
            bytes("  and back", back, 8 * plain.len());
        }
        if self.wants("concat of 3a") {
            let images = channels::Images { n: 32, pixels: 784, layout: blocked };
            let parts = [64, 128, 32, 32].map(|c| (ramp(32 * 784 * c), c));
            let mut whole = ramp(32 * 784 * 256);
            let time = self.time(|| {
                let mut first = 0;
                for (part, channels) in &parts {
                    let to = (&mut *whole, 256);
                    channels::place(threads, images, (part, *channels), to, first);
                    first += channels;
                }
            });
            bytes("concat of 3a", time, 8 * whole.len());
            let to = &mut whole[..32 * 784 * 64];
            let parts: [&[f32]; 3] = [&parts[0].0; 3];
            let time = self.time(|| channels::sum(threads, &parts, to, false));
            bytes("sum of three", time, 16 * parts[0].len());
        }
    }

    fn matrices(&self) -> Result<(), Error> {
        for (name, transb, m, n, k) in [
            ("gemm: googlenet classifier", true, 32, 1000, 1024),
            ("gemm: alexnet fc6", true, 64, 4096, 9216),
            ("gemm: alexnet fc6 weights", false, 4096, 9216, 64),
            ("gemm: cifar ip1", true, 100, 64, 1024),
            ("gemm: square", false, 768, 768, 768),
        ] {
            if !self.wants(name) {
                continue;
            }
            let g = Gemm::dense(!transb && m > 768, transb, m, n, k);
            let (a, b, mut c) = (ramp(m * k), ramp(k * n), ramp(m * n));
            let fast = self.time(|| done(self.cx.sgemm(g, &a, &b, &mut c)));
            let plain = self.time(|| done(gemm::sgemm(self.cx.threads(), g, &a, &b, &mut c)));
            let rate = |t: Duration| 2.0 * (m * n * k) as f64 / t.as_secs_f64() / 1e9;
            println!(
                "{name:34} oneDNN {:5.0} GF/s, gemm crate {:5.0} GF/s",
                rate(fast),
                rate(plain)
            );
        }
        Ok(())
    }
}

fn ramp(len: usize) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(len);
    buf.iter_mut().enumerate().for_each(|(i, v)| *v = (i * 7 % 23) as f32 / 11.0 - 1.0);
    buf
}

fn bytes(name: &str, time: Duration, bytes: usize) {
    let (ms, rate) = (time.as_secs_f64() * 1e3, bytes as f64 / time.as_secs_f64() / 1e9);
    println!("{name:34} {ms:7.2} ms   {rate:5.1} GB/s");
}

/// A bench has nobody to hand an error to.
fn done(result: Result<(), Error>) {
    if let Err(error) = result {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
