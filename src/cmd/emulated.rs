//! Texts of the flags `--link`, `--device` and `--dilate`.
//!
//! Each is a list of `key=value`, with units where a number needs one.

use std::time::Duration;

use crate::trainer::{DeviceSpec, Dilation, Link, Loss};

/// Reading one of them; the error says what is wrong and what would be right.
type Parsed<T> = Result<T, String>;

/// `latency=1.5us,bandwidth=56Gb/s,jitter=2%,lose=3@20s,seed=7`, all of them optional.
pub(super) fn link(text: &str) -> Parsed<Link> {
    let mut link = Link::default();
    for (key, value) in pairs(text)? {
        match key {
            "latency" => link.latency = duration(value)?,
            "bandwidth" => link.bandwidth = bandwidth(value)?,
            "jitter" => link.jitter = percent(value)?,
            "seed" => link.seed = whole(value)?,
            "lose" => {
                let Some((rank, at)) = value.split_once('@') else {
                    return Err(format!("lose={value}: write RANK@TIME, such as 3@20s"));
                };
                link.lose = Some(Loss { rank: whole(rank)? as usize, at: duration(at)? });
            }
            _ => return Err(unknown(key, "latency, bandwidth, jitter, lose and seed")),
        }
    }
    Ok(link)
}

/// `cpu`, or `emulated`, with a colon and what it is like:
/// `emulated:profile.json,total=310ms,jitter=2%,slow=3:2,seed=7`.
pub(super) fn device(text: &str) -> Parsed<Option<DeviceSpec>> {
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    match kind {
        "cpu" if rest.is_empty() => return Ok(None),
        "emulated" => {}
        _ => return Err(format!("`{text}` is no device; write cpu or emulated[:FILE,…]")),
    }
    let mut spec = DeviceSpec::default();
    let (file, settings) = match rest.split_once(',') {
        Some((file, settings)) if !file.contains('=') => (file, settings),
        None if !rest.contains('=') => (rest, ""),
        _ => ("", rest),
    };
    if !file.is_empty() {
        spec.profile = Some(file.into());
    }
    for (key, value) in pairs(settings)? {
        match key {
            "total" => spec.total = Some(duration(value)?),
            "jitter" => spec.jitter = percent(value)?,
            "seed" => spec.seed = whole(value)?,
            "slow" => {
                let Some((replica, factor)) = value.split_once(':') else {
                    return Err(format!("slow={value}: write REPLICA:FACTOR, such as 3:2"));
                };
                let factor = number(factor)?;
                if !(0.01..=1000.0).contains(&factor) {
                    return Err(format!("slow={value}: the factor must lie in 0.01..1000"));
                }
                spec.slow.push((whole(replica)? as usize, factor));
            }
            _ => return Err(unknown(key, "total, jitter, slow and seed")),
        }
    }
    Ok(Some(spec))
}

/// `auto` or a factor.
pub(super) fn dilation(text: &str) -> Parsed<Dilation> {
    if text == "auto" {
        return Ok(Dilation::Auto);
    }
    match text.parse::<f64>() {
        Ok(factor) if (1.0..=1e4).contains(&factor) => Ok(Dilation::By(factor)),
        _ => Err("write auto, or a factor of 1 to 10000".into()),
    }
}

fn pairs(text: &str) -> Parsed<Vec<(&str, &str)>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| part.split_once('=').ok_or_else(|| format!("`{part}` is not KEY=VALUE")))
        .collect()
}

fn unknown(key: &str, known: &str) -> String {
    format!("`{key}` is not known here; known are {known}")
}

fn number(text: &str) -> Parsed<f64> {
    let value = text.trim().parse::<f64>().ok();
    let value = value.filter(|value| value.is_finite() && *value >= 0.0);
    value.ok_or_else(|| format!("`{text}` is no number"))
}

fn whole(text: &str) -> Parsed<u64> {
    text.trim().parse().map_err(|_| format!("`{text}` is no whole number"))
}

fn percent(text: &str) -> Parsed<f64> {
    let Some(value) = text.strip_suffix('%') else {
        return Err(format!("`{text}`: write a percentage, such as 2%"));
    };
    let part = number(value)? / 100.0;
    if part <= 0.5 { Ok(part) } else { Err(format!("`{text}`: at most 50%")) }
}

/// A number and its unit, as the factor of the first that fits.
fn measure(text: &str, units: &[(&str, f64)], example: &str) -> Parsed<f64> {
    let found = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
    match found {
        Some((value, factor)) => Ok(number(value)? * factor),
        None => Err(format!("`{text}`: write a number with a unit, such as {example}")),
    }
}

fn duration(text: &str) -> Parsed<Duration> {
    let units = [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let seconds = measure(text, &units, "1.5us or 310ms")?;
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("`{text}` is too long"))
}

/// Bytes per second; b is a bit, B a byte.
pub(super) fn bandwidth(text: &str) -> Parsed<f64> {
    let units = [("Gb/s", 1e9 / 8.0), ("Mb/s", 1e6 / 8.0), ("GB/s", 1e9), ("MB/s", 1e6)];
    let rate = measure(text, &units, "56Gb/s or 7GB/s")?;
    if rate > 0.0 { Ok(rate) } else { Err("a bandwidth must be more than 0".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links() {
        let parsed = link("latency=1.5us,bandwidth=56Gb/s,jitter=2%,lose=3@20s,seed=7").unwrap();
        assert_eq!(parsed.latency, Duration::from_nanos(1500));
        assert_eq!((parsed.bandwidth, parsed.jitter, parsed.seed), (7e9, 0.02, 7));
        assert_eq!(parsed.lose, Some(Loss { rank: 3, at: Duration::from_secs(20) }));
        assert_eq!(link("bandwidth=7GB/s").unwrap().bandwidth, 7e9);
        for (wrong, says) in [
            ("latency=3", "a unit, such as 1.5us"),
            ("bandwidth=56", "56Gb/s"),
            ("bandwidth=0GB/s", "more than 0"),
            ("jitter=2", "such as 2%"),
            ("jitter=80%", "at most 50%"),
            ("lose=3", "such as 3@20s"),
            ("width=3", "known are latency"),
            ("latency", "KEY=VALUE"),
            ("latency=xus", "no number"),
        ] {
            let error = link(wrong).unwrap_err();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }

    #[test]
    fn devices() {
        assert_eq!(device("cpu"), Ok(None));
        assert_eq!(device("emulated"), Ok(Some(DeviceSpec::default())));
        let full = device("emulated:a/p.json,total=310ms,jitter=2%,slow=3:2,slow=4:1.5,seed=9");
        let spec = full.unwrap().unwrap();
        assert_eq!(spec.profile, Some("a/p.json".into()));
        assert_eq!(spec.total, Some(Duration::from_millis(310)));
        assert_eq!((spec.jitter, spec.seed), (0.02, 9));
        assert_eq!(spec.slow, [(3, 2.0), (4, 1.5)]);
        assert_eq!(device("emulated:p.json").unwrap().unwrap().profile, Some("p.json".into()));
        assert_eq!(device("emulated:jitter=1%").unwrap().unwrap().profile, None);
        for (wrong, says) in [
            ("gpu", "is no device"),
            ("emulated:p.json,q.json", "KEY=VALUE"),
            ("emulated:slow=3", "such as 3:2"),
            ("emulated:slow=3:0", "0.01..1000"),
            ("emulated:slow=x:2", "no whole number"),
            ("emulated:total=310", "310ms"),
            ("emulated:speed=3", "known are total"),
        ] {
            let error = device(wrong).unwrap_err();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }

    #[test]
    fn dilations() {
        assert_eq!(dilation("auto"), Ok(Dilation::Auto));
        assert_eq!(dilation("2.5"), Ok(Dilation::By(2.5)));
        assert!(dilation("0.5").is_err() && dilation("x").is_err());
    }
}
