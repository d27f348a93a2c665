//! Numbers for Prometheus: a thread that answers `GET /metrics` with the last of each.
//!
//! Requests are served one at a time, each within a second, from a page that training fills and
//! never waits for. There is no access control: an address that others can reach shows them the
//! numbers, which is why a bare port means this host only.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::numbers::{Entry, Sink};
use crate::log::Log;
use crate::{Error, Result};

/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest request that is read.
const REQUEST: usize = 8192;

/// The address that `text` means: a bare port is on loopback, all else is taken as written.
///
/// # Errors
/// Neither a port nor an address with one, in words.
pub fn address(text: &str) -> std::result::Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse::<u16>() {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    let wrong = || format!("`{text}` is neither a port nor an address such as 0.0.0.0:9464");
    text.to_socket_addrs().map_err(|_| wrong())?.next().ok_or_else(wrong)
}

/// Metric names with their labels, as they are written, and values.
type Page = BTreeMap<(&'static str, String), f64>;

/// What server and training share.
#[derive(Default)]
struct Shared {
    page: Mutex<Page>,
    iter: AtomicU64,
    leave: AtomicBool,
}

/// The open port.
pub(super) struct Endpoint {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Endpoint {
    /// Listens, and says where.
    ///
    /// # Errors
    /// An address that cannot be had.
    pub(super) fn open(address: SocketAddr, log: &Log) -> Result<Self> {
        let failed = |e: std::io::Error| {
            Error::Invalid(format!(
                "--prometheus: cannot listen on {address}: {e}; give another port"
            ))
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        std::thread::Builder::new()
            .name("prometheus".into())
            .spawn(move || serve(&listener, &theirs))
            .map_err(failed)?;
        let text = format!("Serving metrics on http://{address}/metrics");
        log.info(concat!("prometheus.rs:", line!()), text);
        Ok(Endpoint { address, shared })
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.shared.leave.store(true, Ordering::Release);
        // Wakes the thread from its wait; one that is gone already needs no waking.
        drop(TcpStream::connect_timeout(&self.address, PATIENCE));
    }
}

impl Sink for Endpoint {
    fn name(&self) -> String {
        format!("metrics on {}", self.address)
    }

    fn take(&mut self, entry: &Entry) -> std::io::Result<()> {
        let mut page = self.shared.page.lock();
        let mut set = |name, labels: String, value: f64| {
            page.insert((name, labels), value);
        };
        for (name, value) in &entry.values {
            match *name {
                "loss" => set("caffe_loss", String::new(), *value),
                "lr" => set("caffe_learning_rate", String::new(), *value),
                "replicas" => set("caffe_replicas", String::new(), *value),
                _ => {}
            }
        }
        for (name, value) in &entry.outputs {
            let phase = entry.net.map_or("train".to_owned(), |net| format!("test{net}"));
            set("caffe_output", labels(&[("phase", &phase), ("name", name)]), *value);
        }
        if let Some(speed) = &entry.speed {
            set("caffe_images_per_second", String::new(), speed.images);
            for (part, value) in speed.shares.named() {
                set("caffe_time_share", labels(&[("part", part)]), value);
            }
            for one in &speed.replicas {
                let of = [("rank", &*one.rank.to_string()), ("device", &*one.device.to_string())];
                set("caffe_replica_images_per_second", labels(&of), one.images);
            }
        }
        *page.entry(("caffe_events_total", labels(&[("event", entry.event)]))).or_default() += 1.0;
        Ok(())
    }

    fn progress(&mut self, iter: u64) {
        self.shared.iter.store(iter, Ordering::Relaxed);
    }
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let escape = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let all: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    format!("{{{}}}", all.join(","))
}

/// Name, kind and meaning of everything on the page.
const METRICS: [(&str, &str, &str); 9] = [
    ("caffe_events_total", "counter", "Displays, tests, snapshots, warnings so far."),
    ("caffe_images_per_second", "gauge", "Records per second of all replicas, last display."),
    ("caffe_iteration", "gauge", "Iterations done."),
    ("caffe_learning_rate", "gauge", "Learning rate at the last display."),
    ("caffe_loss", "gauge", "Loss at the last display."),
    ("caffe_output", "gauge", "Outputs of the nets at the last display or test."),
    ("caffe_replica_images_per_second", "gauge", "Records per second of a replica."),
    ("caffe_replicas", "gauge", "Replicas of the job."),
    ("caffe_time_share", "gauge", "Parts of all replicas' time."),
];

fn text(shared: &Shared) -> String {
    let mut page = shared.page.lock().clone();
    page.insert(("caffe_iteration", String::new()), shared.iter.load(Ordering::Relaxed) as f64);
    let mut text = String::new();
    for (name, kind, help) in METRICS {
        let mut begun = false;
        for ((_, labels), value) in page.iter().filter(|((of, _), _)| *of == name) {
            if !begun {
                // Writing to a String cannot fail.
                let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
                begun = true;
            }
            let _ = match value.is_finite() {
                true => writeln!(text, "{name}{labels} {value}"),
                false if value.is_nan() => writeln!(text, "{name}{labels} NaN"),
                false => {
                    writeln!(text, "{name}{labels} {}Inf", if *value > 0.0 { "+" } else { "-" })
                }
            };
        }
    }
    text
}

fn serve(listener: &TcpListener, shared: &Shared) {
    for stream in listener.incoming() {
        if shared.leave.load(Ordering::Acquire) {
            return;
        }
        // A client that goes away is no affair of ours.
        if let Ok(stream) = stream {
            drop(answer(stream, shared));
        }
    }
}

fn answer(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let begun = Instant::now();
    stream.set_write_timeout(Some(PATIENCE))?;
    let (mut request, mut piece) = (Vec::new(), [0; 1024]);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = PATIENCE.saturating_sub(begun.elapsed());
        if left.is_zero() || request.len() > REQUEST {
            return Ok(());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            read => request.extend_from_slice(&piece[..read]),
        }
    }
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line).into_owned();
    let path = line.strip_prefix("GET ").and_then(|rest| rest.split(' ').next());
    let (status, body) = match path {
        Some("/metrics" | "/") => ("200 OK", text(shared)),
        _ => ("404 Not Found", "GET /metrics\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_bare_port_is_loopback_and_the_rest_as_written() {
        assert_eq!(address("9464").unwrap().to_string(), "127.0.0.1:9464");
        assert_eq!(address(":9464").unwrap().to_string(), "127.0.0.1:9464");
        assert_eq!(address("0.0.0.0:9464").unwrap().to_string(), "0.0.0.0:9464");
        assert_eq!(address("[::1]:80").unwrap().to_string(), "[::1]:80");
        assert!(address("here").unwrap_err().contains("neither a port nor"));
    }

    #[test]
    fn the_page_has_the_last_of_everything() {
        let mut endpoint = Endpoint::open(address("0").unwrap(), &Log::quiet()).unwrap();
        endpoint.progress(7);
        for loss in [2.0, f64::NAN] {
            let outputs = vec![("a\"b".to_owned(), 0.5)];
            let values = vec![("loss", loss)];
            endpoint
                .take(&Entry { event: "display", values, outputs, ..Entry::default() })
                .unwrap();
        }
        let page = get(endpoint.address, "/metrics");
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
        for line in [
            "caffe_iteration 7",
            "# TYPE caffe_loss gauge",
            "caffe_loss NaN",
            "caffe_output{phase=\"train\",name=\"a\\\"b\"} 0.5",
            "caffe_events_total{event=\"display\"} 2",
        ] {
            assert!(page.lines().any(|l| l == line), "no `{line}` in\n{page}");
        }
        assert!(get(endpoint.address, "/secret").starts_with("HTTP/1.1 404"));
        // One that says nothing holds up the next for a second at most.
        let silent = TcpStream::connect(endpoint.address).unwrap();
        assert!(get(endpoint.address, "/").contains("caffe_iteration"));
        drop(silent);
        let taken = Endpoint::open(endpoint.address, &Log::quiet()).err().unwrap().to_string();
        assert!(taken.contains("cannot listen"), "{taken}");
    }
}
