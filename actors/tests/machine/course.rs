//! What happens when: displays, tests, snapshots and wishes, on all nodes together.

use std::time::Duration;

use caffe_actors::Mode;

use crate::quadratic::{Behaviour, Trouble};
use crate::{ALL, LOCAL, SSP, config, job, succeed};

#[test]
fn a_wish_at_a_drained_point_repeats_nothing() {
    for (mode, workers) in [(Mode::Sync, &[1][..]), (Mode::Hogwild, &[2, 1]), (SSP, &[1, 1])] {
        let config = config(mode, 4);
        config.requests.snapshot();
        let behaviour = Behaviour::default();
        let (_, told) = succeed(&config, workers, &behaviour);
        let lines = told.lines();
        let tests = lines.iter().filter(|line| line.starts_with("tested")).count();
        assert_eq!(tests, 1, "{lines:?}");
        let snapshots: Vec<u64> =
            behaviour.log.with(|seen| seen.snapshots.iter().map(|one| one.iter).collect());
        assert_eq!(snapshots, [0, 4], "{mode}");
    }
}

#[test]
fn everything_happens_in_caffes_order() {
    for (mode, workers) in [
        (Mode::Sync, &[1][..]),
        (Mode::Sync, &[2, 1]),
        (Mode::Hogwild, &[1, 2]),
        (SSP, &[2, 1]),
        (LOCAL, &[1, 2]),
    ] {
        let behaviour = Behaviour::default();
        let (_, told) = succeed(&config(mode, 15), workers, &behaviour);
        let lines: Vec<String> = told
            .lines()
            .iter()
            .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
            .collect();
        let order: Vec<&str> = lines
            .iter()
            .map(String::as_str)
            .filter(|line| !line.starts_with("display") && !line.starts_with("warning"))
            .collect();
        let expected = [
            "started 0",
            "testing 0",
            "tested 0",
            "testing 6",
            "tested 6",
            "snapshot 9",
            "testing 12",
            "tested 12",
            "snapshot 15",
            "finished 15",
        ];
        assert_eq!(order, expected, "{mode} {workers:?}");
        let shown: Vec<&str> =
            lines.iter().map(String::as_str).filter(|line| line.starts_with("display")).collect();
        assert_eq!(shown, ["display 0", "display 5", "display 10", "display 15"]);

        let snapshots = behaviour.log.with(|seen| seen.snapshots.clone());
        let replicas = workers.iter().sum::<usize>();
        assert_eq!(snapshots.len(), 2);
        let written = behaviour.log.with(|seen| seen.written.clone());
        assert_eq!(written, [9, 15], "a job ends when its last snapshot is written");
        assert_eq!((snapshots[0].iter, snapshots[0].ticket), (9, 9 * replicas as u64));
        assert_eq!(snapshots[0].cursors, [10]);
        let streamed = if mode == Mode::Sync { 0 } else { replicas };
        assert_eq!(snapshots[1].replicas, (0..streamed).collect::<Vec<_>>());
    }
}

/// That they are heard before anything is computed each fake replica asserts by itself, in all tests.
#[test]
fn what_a_replica_says_to_the_opening_words_is_logged_on_its_node() {
    for mode in ALL {
        for (workers, replica, rank) in [(&[2][..], 1, 0), (&[2, 2], 2, 1), (&[1, 1, 1], 2, 2)] {
            let troubles = vec![Trouble::Differs { replica }];
            let behaviour = Behaviour { troubles, ..Behaviour::default() };
            let (reports, told) = job(&config(mode, 4), workers, &behaviour);
            assert!(reports.iter().all(Result::is_ok), "{mode} {workers:?}");
            let line = format!("warning rank {rank}: replica {replica} is another kind of device");
            for (node, told) in told.iter().enumerate() {
                let lines = told.lines();
                let said = lines.iter().filter(|said| **said == line).count();
                assert_eq!(said, usize::from(node == rank), "{mode} {workers:?}: {lines:?}");
            }
        }
    }
}

#[test]
fn test_scores_do_not_depend_on_the_layout() {
    let scores = |workers: &[usize]| {
        let mut config = config(Mode::Sync, 0);
        config.schedule.test_batches = vec![7, 2];
        config.schedule.test_cursors = vec![0, 3];
        let (_, told) = succeed(&config, workers, &Behaviour::default());
        told.lines().into_iter().filter(|line| line.starts_with("tested")).collect::<Vec<_>>()
    };
    let one = scores(&[1]);
    assert_eq!(one.len(), 2);
    assert_eq!(one, scores(&[3]));
    assert_eq!(one, scores(&[2, 1]));
    assert_eq!(one, scores(&[1, 1, 1, 1]));
}

#[test]
fn statistics_are_averaged_when_all_have_drained() {
    let (_, told) = succeed(&config(Mode::Sync, 12), &[2, 1], &Behaviour::default());
    let lines = told.lines();
    // Each replica adds its index once a step: after 6 drained iterations the mean is 6.
    assert!(lines.iter().any(|l| l.starts_with("tested 6 0") && l.ends_with(" 6.0]")), "{lines:?}");
}

#[test]
fn requests_take_effect_on_all_nodes_together() {
    for (mode, workers) in [
        (Mode::Sync, &[1][..]),
        (Mode::Sync, &[1, 2]),
        (Mode::Hogwild, &[2, 1]),
        (SSP, &[1, 2]),
        (LOCAL, &[2, 1]),
    ] {
        let mut config = config(mode, 100_000);
        config.schedule.test_interval = 0;
        config.schedule.snapshot = 0;
        let requests = config.requests.clone();
        let asker = std::thread::spawn(move || {
            // Long enough for a busy machine to fulfil the one before the other comes.
            std::thread::sleep(Duration::from_millis(400));
            requests.snapshot();
            std::thread::sleep(Duration::from_millis(400));
            requests.stop();
        });
        let behaviour = Behaviour { compute: 1, ..Behaviour::default() };
        let (reports, told) = succeed(&config, workers, &behaviour);
        asker.join().unwrap();
        assert!(reports.iter().all(|r| r.stopped_early && r.iter == reports[0].iter));
        let snapshots = behaviour.log.with(|seen| seen.snapshots.clone());
        assert_eq!(snapshots.len(), 2, "{mode} {workers:?} {snapshots:?}");
        assert!(snapshots[0].iter < snapshots[1].iter && snapshots[1].iter == reports[0].iter);
        assert!(told.lines().contains(&format!("stopped {}", reports[0].iter)));
    }
}
