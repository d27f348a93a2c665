//! Devices that add arrays up among themselves, through NCCL as `tests/simulated_cuda` has it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use caffe::Result;
use caffe::device::cuda::clique::Clique;
use caffe::device::cuda::memory::Memory;
use caffe::device::cuda::{Choice, Math, Order};

/// One test at a time: a device that fails does so for all.
static TURN: Mutex<()> = Mutex::new(());

/// Two devices; `None`, with a printed line, where none can be simulated.
fn clique() -> Option<(Arc<Clique>, [Choice; 2], MutexGuard<'static, ()>)> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(why) = common::cuda::simulated(0, Math::F32) {
        println!("skipped: {why}");
        return None;
    }
    let choices = [0, 1].map(|id| Choice { id, math: Math::F32, order: Order::Plain });
    Some((Clique::of(&choices).unwrap()?, choices, turn))
}

/// Brings arrays of `start`, `start + 1`, … to as many sums; the values after each. Counts as there until
/// `end` returns.
fn member(
    clique: &Arc<Clique>,
    choice: &Choice,
    number: usize,
    (start, sums): (f32, usize),
    end: impl FnOnce(),
) -> Result<Vec<f32>> {
    let attendance = clique.attend();
    let device = choice.open(false)?.0;
    attendance.join(&*device, number)?;
    let memory = Memory::new(&device, 3)?;
    let mut after = Vec::new();
    for i in 0..sums {
        memory.upload(&[start + i as f32; 3])?;
        device.sum_into_first(memory.at(), 3)?;
        let mut values = [0.0; 3];
        memory.download(&mut values)?;
        after.push(values[2]);
    }
    end();
    Ok(after)
}

#[test]
fn only_several_devices_that_differ_meet() {
    let Some((clique, [one, other], _turn)) = clique() else { return };
    assert_eq!(clique.members(), 2);
    assert!(Clique::of(&[]).unwrap().is_none());
    assert!(Clique::of(std::slice::from_ref(&one)).unwrap().is_none());
    assert!(Clique::of(&[one.clone(), other, one]).unwrap().is_none());
}

#[test]
fn the_first_has_the_sums_and_the_others_what_they_brought() {
    let Some((clique, choices, _turn)) = clique() else { return };
    let both = Barrier::new(2);
    let run = |number: usize, start| {
        let end = || {
            both.wait();
        };
        member(&clique, &choices[number], number, (start, 40), end).unwrap()
    };
    let (first, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| run(1, 10.0));
        (run(0, 1.0), second.join().unwrap())
    });
    assert_eq!(first, (0..40).map(|i| (11 + 2 * i) as f32).collect::<Vec<_>>());
    assert_eq!(second, (0..40).map(|i| (10 + i) as f32).collect::<Vec<_>>());
}

#[test]
fn nobody_waits_for_a_device_that_has_gone() {
    let Some((clique, choices, _turn)) = clique() else { return };
    let error = std::thread::scope(|scope| {
        // It brings one array fewer, and ends.
        let second = scope.spawn(|| member(&clique, &choices[1], 1, (10.0, 2), || ()));
        let first = member(&clique, &choices[0], 0, (1.0, 3), || ());
        assert_eq!(second.join().unwrap().unwrap(), [10.0, 11.0]);
        first.unwrap_err().to_string()
    });
    assert!(error.contains("has ended"), "{error}");
}

#[test]
fn nobody_waits_for_a_device_that_never_joins() {
    let Some((clique, choices, _turn)) = clique() else { return };
    let (leave, left) = mpsc::channel::<()>();
    let error = std::thread::scope(|scope| {
        let clique = &clique;
        scope.spawn(move || {
            let attendance = clique.attend();
            left.recv().unwrap();
            drop(attendance);
        });
        let first = scope.spawn(|| member(clique, &choices[0], 0, (1.0, 1), || ()));
        leave.send(()).unwrap();
        first.join().unwrap().unwrap_err().to_string()
    });
    assert!(error.contains("has ended"), "{error}");
}

#[test]
fn nobody_waits_for_a_device_that_fails() {
    let Some((clique, [failing, going], _turn)) = clique() else { return };
    let (tell, told) = mpsc::channel();
    let [one, two] = [clique.clone(), clique];
    let (leave, left) = mpsc::channel::<()>();
    let second = std::thread::spawn(move || {
        member(&two, &going, 1, (10.0, 1), || left.recv().unwrap_or_default())
    });
    std::thread::spawn(move || {
        let attendance = one.attend();
        let device = failing.open(false).unwrap().0;
        attendance.join(&*device, 0).unwrap();
        let memory = Memory::new(&device, 3).unwrap();
        memory.upload(&[1.0; 3]).unwrap();
        device.sum_into_first(memory.at(), 3).unwrap();
        common::cuda::break_device(0);
        let error = device.finish().unwrap_err().to_string();
        drop((memory, device));
        tell.send(error).unwrap();
    });
    // Where it does wait, the test does not.
    let error = told.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(error.contains("CUDA_ERROR_ECC_UNCORRECTABLE"), "{error}");
    // The other may have ended already, as it was told that the first has.
    drop(leave);
    drop(second.join().unwrap());
}
