//! What a loss or gradient that is no finite number does to the job.

/// How often a job goes back to its last snapshot, unless told otherwise.
const ROLLBACKS: u32 = 3;

/// `--on-nan`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnNan {
    /// The job ends.
    #[default]
    Stop,
    /// The update is dropped, on every replica that it would have reached.
    Skip,
    /// The update is dropped and all replicas take the newest snapshot, so many times.
    Rollback(u32),
}

impl std::fmt::Display for OnNan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OnNan::Stop => f.write_str("stop"),
            OnNan::Skip => f.write_str("skip"),
            OnNan::Rollback(times) => write!(f, "rollback:{times}"),
        }
    }
}

impl std::str::FromStr for OnNan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "stop" => Ok(OnNan::Stop),
            None if text == "skip" => Ok(OnNan::Skip),
            None if text == "rollback" => Ok(OnNan::Rollback(ROLLBACKS)),
            Some(("rollback", times)) => {
                times.parse().map(OnNan::Rollback).map_err(|_| format!("`{times}` is no number"))
            }
            _ => Err("use stop, skip, rollback or rollback:N".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_says() {
        for value in [OnNan::Stop, OnNan::Skip, OnNan::Rollback(7)] {
            assert_eq!(value.to_string().parse(), Ok(value));
        }
        assert_eq!("rollback".parse(), Ok(OnNan::Rollback(ROLLBACKS)));
        assert!("rollback:x".parse::<OnNan>().is_err() && "ignore".parse::<OnNan>().is_err());
    }
}
