//! How a job ends when something in it does: all nodes, soon, with the culprit named and the trace written.

use std::time::{Duration, Instant};

use caffe_actors::{Fault, InProcess, Launch, Mode, Origin, run};

use crate::quadratic::told::Told;
use crate::quadratic::{Behaviour, Trouble, factories};
use crate::{ALL, config, job};

fn fail(workers: &[usize], trouble: Trouble, mode: Mode) -> (Vec<Fault>, Vec<Told>) {
    let behaviour = Behaviour { troubles: vec![trouble], compute: 1, ..Behaviour::default() };
    let start = Instant::now();
    let (reports, told) = job(&config(mode, 1000), workers, &behaviour);
    assert!(start.elapsed() < Duration::from_secs(8), "took {:?}", start.elapsed());
    (reports.into_iter().map(Result::unwrap_err).collect(), told)
}

#[test]
fn a_panic_ends_all_nodes_with_place_and_cause() {
    for mode in ALL {
        let (faults, told) = fail(&[2, 1, 1], Trouble::Panic { rank: 1, iter: 3 }, mode);
        for (rank, fault) in faults.iter().enumerate() {
            assert_eq!((fault.rank, &*fault.actor), (1, "device 0"));
            assert!(fault.iter.is_some_and(|iter| iter >= 3), "{fault}");
            assert_eq!(&*fault.doing, "forward");
            assert!(fault.cause.contains("index out of bounds in layer conv1"), "{fault}");
            assert!(fault.cause.contains("bowl.rs:"), "{fault}");
            assert_eq!(fault.origin, if rank == 1 { Origin::Own } else { Origin::Remote });
            let lines = told[rank].lines();
            assert_eq!(lines.iter().filter(|line| line.starts_with("fault")).count(), 1);
        }
    }
}

#[test]
fn an_error_of_any_actor_ends_all_nodes() {
    let (faults, _) = fail(&[1, 1], Trouble::Error { rank: 1, iter: 2 }, Mode::Sync);
    assert!(faults.iter().all(|f| f.rank == 1 && &*f.cause == "loss is NaN"), "{faults:?}");
    let (faults, _) = fail(&[1, 1], Trouble::Build { rank: 1 }, Mode::Hogwild);
    assert!(faults.iter().all(|f| f.rank == 1 && &*f.cause == "no such device"), "{faults:?}");
    let (faults, _) = fail(&[1, 2], Trouble::Reader { rank: 0, ticket: 9 }, Mode::Hogwild);
    for fault in &faults {
        assert_eq!((fault.rank, &*fault.actor, &*fault.doing), (0, "reader 0", "read"));
        assert!(fault.cause.contains("checksum mismatch"), "{fault}");
    }
    let (faults, _) = fail(&[1], Trouble::Panic { rank: 0, iter: 2 }, Mode::Sync);
    assert_eq!(faults[0].iter, Some(2));
    assert_eq!(&*faults[0].doing, "forward");
}

#[test]
fn a_stuck_device_does_not_hold_up_the_end() {
    let troubles = vec![Trouble::Stuck { rank: 0, iter: 1 }, Trouble::Error { rank: 1, iter: 1 }];
    let behaviour = Behaviour { troubles, ..Behaviour::default() };
    let start = Instant::now();
    let (reports, _) = job(&config(Mode::Sync, 10), &[1, 1], &behaviour);
    assert!(start.elapsed() < Duration::from_secs(8));
    assert!(reports.iter().all(|report| report.as_ref().is_err_and(|f| f.rank == 1)));
}

#[test]
fn ranks_that_differ_are_named() {
    let (faults, told) = fail(&[1, 1, 1], Trouble::OtherNet { rank: 2 }, Mode::Sync);
    assert!(faults.iter().all(|f| f.rank == 2 && f.origin == Origin::Agreed), "{faults:?}");
    let said = |told: &Told| told.lines().iter().any(|line| line.starts_with("fault"));
    assert!(said(&told[0]) && !said(&told[1]) && !said(&told[2]));

    let behaviour =
        Behaviour { troubles: vec![Trouble::BitFlip { rank: 1 }], ..Behaviour::default() };
    let (reports, _) = job(&config(Mode::Sync, 4), &[1, 1], &behaviour);
    for report in reports {
        let fault = report.unwrap_err();
        assert!(fault.rank == 1 && fault.cause.contains("bit for bit"), "{fault}");
    }

    let nodes = InProcess::nodes(2).into_iter().enumerate().map(|(rank, node)| {
        let mut config = config(Mode::Sync, 4);
        config.launch = Launch::InProcess(node);
        config.identities =
            vec![caffe_actors::Identity { what: "the solver file".into(), hash: rank as u64 }];
        let factories = factories(&Behaviour { tests: 1, ..Behaviour::default() });
        std::thread::spawn(move || run(config, factories, Box::new(Told::default())))
    });
    for thread in nodes.collect::<Vec<_>>() {
        let fault = thread.join().unwrap().unwrap_err();
        assert!(fault.rank == 1 && fault.cause.contains("in the solver file"), "{fault}");
    }
}

#[test]
fn the_trace_is_complete_after_an_end_and_after_a_fault() {
    for trouble in [vec![], vec![Trouble::Panic { rank: 1, iter: 3 }]] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(Mode::Sync, 10);
        config.trace = Some(dir.path().to_owned());
        let behaviour = Behaviour { troubles: trouble, ..Behaviour::default() };
        job(&config, &[1, 1], &behaviour);
        for rank in 0..2 {
            let path = dir.path().join(format!("trace-rank-{rank}.json"));
            let text = std::fs::read_to_string(path).unwrap();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            let events = json["traceEvents"].as_array().unwrap();
            for name in ["read", "compute", "forward", "aggregate", "exchange 0", "update"] {
                assert!(events.iter().any(|e| e["name"] == name), "no {name} on rank {rank}");
            }
            let lanes: Vec<_> = events.iter().filter(|e| e["name"] == "thread_name").collect();
            assert!(lanes.len() >= 4);
        }
    }
}
