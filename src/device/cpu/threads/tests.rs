use super::*;

fn teams() -> Vec<Threads> {
    vec![Threads::one(), Threads::new(2), Threads::new(5), Threads::without_openmp(3)]
}

#[test]
fn shares_cover_everything_once_and_differ_by_at_most_one() {
    for len in [0, 1, 7, 64] {
        for of in 1..9 {
            let shares: Vec<_> = (0..of).map(|m| share(len, of, m)).collect();
            assert_eq!(shares.iter().flat_map(|r| r.clone()).collect::<Vec<_>>(), {
                (0..len).collect::<Vec<_>>()
            });
            let lens: Vec<_> = shares.iter().map(|r| r.len()).collect();
            assert!(lens.iter().max().unwrap() - lens.iter().min().unwrap() <= 1);
        }
    }
}

#[test]
fn every_task_runs_exactly_once() {
    for team in teams() {
        for tasks in [0, 1, 2, 3, 100] {
            let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            team.parallel_for(tasks, |i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            team.parallel_for_uneven(tasks, |i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 2), "{team:?} {tasks}");
        }
    }
}

#[test]
fn zipped_chunks_meet_their_partners() {
    for team in teams() {
        let (mut a, mut b, mut c) = (vec![0; 25], vec![0; 9], vec![0u8; 3]);
        team.par_zip3_mut((&mut a, 10), (&mut b, 3), (&mut c, 1), |i, a, b, c| {
            a.fill(i + 1);
            b.fill(i + 10);
            c.fill(i as u8);
        });
        assert_eq!((a[9], a[10], a[24]), (1, 2, 3), "{team:?}");
        assert_eq!((b[2], b[3], b[8]), (10, 11, 12));
        assert_eq!(c, [0, 1, 2]);
        team.par_zip2_mut((&mut a, 5), (&mut b, 9), |i, a, b| {
            assert_eq!((i, a.len(), b.len()), (0, 5, 9));
        });
    }
}

#[test]
fn loops_really_use_several_threads() {
    let team = Threads::new(2);
    let ids = parking_lot::Mutex::new(std::collections::HashSet::new());
    team.parallel_for(2, |_| {
        ids.lock().insert(std::thread::current().id());
    });
    assert_eq!(ids.into_inner().len(), 2);
}

#[test]
fn an_inner_loop_runs_on_its_own_thread() {
    let sum = AtomicUsize::new(0);
    let team = Threads::new(2);
    team.parallel_for(4, |i| {
        team.parallel_for(3, |j| {
            sum.fetch_add(i * 3 + j, Ordering::Relaxed);
        });
    });
    assert_eq!(sum.into_inner(), (0..12).sum());
}

#[test]
fn a_panic_reaches_the_caller_and_the_team_survives() {
    for team in [Threads::new(2), Threads::without_openmp(2)] {
        let caught = std::panic::catch_unwind(|| {
            team.parallel_for(8, |i| assert!(i != 6, "task six"));
        });
        assert!(caught.is_err());
        let done = AtomicUsize::new(0);
        team.parallel_for(8, |_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 8);
    }
}

#[test]
fn little_work_stays_on_one_thread() {
    assert_eq!(Threads::new(4).limited(100, 1000).count(), 1);
    assert_eq!(Threads::new(4).limited(2500, 1000).count(), 2);
    assert_eq!(Threads::new(4).limited(1 << 20, 1000).count(), 4);
}
