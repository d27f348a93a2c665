//! Mailboxes for what is said every round.
//!
//! An actix mailbox boxes every message, twice; with a message for each bucket and each step that is
//! the bulk of what a training loop allocates. An [`Inbox`] is a queue that keeps its memory: the actor
//! reads it as a stream, so its handlers run between others as ever. What is said between segments
//! only goes over actix mailboxes.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use actix::clock::{Sleep, sleep_until};
use futures_core::Stream;
use parking_lot::Mutex;

#[derive(Debug)]
struct Shared<M> {
    messages: VecDeque<M>,
    /// The reading actor, while it waits.
    waker: Option<Waker>,
}

/// A sender's end.
#[derive(Debug)]
pub(crate) struct Port<M>(Arc<Mutex<Shared<M>>>);

impl<M> Clone for Port<M> {
    fn clone(&self) -> Self {
        Port(self.0.clone())
    }
}

impl<M> Port<M> {
    /// Never waits. After the reader's end nobody hears it.
    pub(crate) fn send(&self, message: M) {
        let waker = {
            let mut shared = self.0.lock();
            shared.messages.push_back(message);
            shared.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The reader's end before its actor's thread has started.
#[derive(Debug)]
pub(crate) struct Inbox<M>(Arc<Mutex<Shared<M>>>);

/// Both ends.
pub(crate) fn inbox<M>() -> (Port<M>, Inbox<M>) {
    let shared = Shared { messages: VecDeque::with_capacity(64), waker: None };
    let shared = Arc::new(Mutex::new(shared));
    (Port(shared.clone()), Inbox(shared))
}

/// What a [`Mail`] yields.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item<M> {
    Message(M),
    /// The moment set with [`AlarmClock::set`].
    Alarm,
}

/// The messages of an inbox, and the ringing of one alarm clock, as an endless stream.
pub(crate) struct Mail<M> {
    inbox: Inbox<M>,
    alarm: AlarmClock,
    sleep: Pin<Box<Sleep>>,
    /// What `sleep` is set to.
    set: Option<Instant>,
}

/// One alarm, set by the actor whose mail it comes with, while it handles its mail.
#[derive(Clone, Debug, Default)]
pub(crate) struct AlarmClock(Rc<Cell<Option<Instant>>>);

impl AlarmClock {
    /// Rings after `delay`, and at no time set before.
    pub(crate) fn set(&self, delay: Duration) {
        self.0.set(Some(Instant::now() + delay));
    }
}

impl<M> Inbox<M> {
    /// To be called on the actor's own thread.
    pub(crate) fn open(self, alarm: AlarmClock) -> Mail<M> {
        let sleep = Box::pin(sleep_until(Instant::now().into()));
        Mail { inbox: self, alarm, sleep, set: None }
    }
}

impl<M> Drop for Inbox<M> {
    fn drop(&mut self) {
        let mut shared = self.0.lock();
        shared.waker = None;
        shared.messages.clear();
    }
}

impl<M> Stream for Mail<M> {
    type Item = Item<M>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Item<M>>> {
        {
            let mut shared = self.inbox.0.lock();
            if let Some(message) = shared.messages.pop_front() {
                return Poll::Ready(Some(Item::Message(message)));
            }
            shared.waker = Some(task.waker().clone());
        }
        let Some(at) = self.alarm.0.get() else { return Poll::Pending };
        if self.set != Some(at) {
            self.set = Some(at);
            self.sleep.as_mut().reset(at.into());
        }
        match self.sleep.as_mut().poll(task) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                self.set = None;
                self.alarm.0.set(None);
                Poll::Ready(Some(Item::Alarm))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn run<T>(body: impl Future<Output = T>) -> T {
        actix::System::new().block_on(body)
    }

    async fn next(mail: &mut Mail<u32>) -> Option<Item<u32>> {
        poll_fn(|task| Pin::new(&mut *mail).poll_next(task)).await
    }

    #[test]
    fn messages_of_any_thread_come_in_order() {
        let (port, inbox) = inbox();
        port.send(0);
        let sender = std::thread::spawn(move || {
            for message in 1..1000 {
                port.send(message);
                if message % 100 == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        run(async {
            let mut mail = inbox.open(AlarmClock::default());
            for message in 0..1000 {
                assert_eq!(next(&mut mail).await, Some(Item::Message(message)));
            }
        });
        sender.join().unwrap();
    }

    #[test]
    fn the_last_alarm_rings_once_and_messages_go_first() {
        let (port, inbox) = inbox();
        run(async {
            let alarm = AlarmClock::default();
            let mut mail = inbox.open(alarm.clone());
            alarm.set(Duration::from_secs(1000));
            alarm.set(Duration::from_millis(5));
            port.send(7);
            let start = Instant::now();
            assert_eq!(next(&mut mail).await, Some(Item::Message(7)));
            assert_eq!(next(&mut mail).await, Some(Item::Alarm));
            assert!(start.elapsed() >= Duration::from_millis(5));
            assert_eq!(alarm.0.get(), None);
        });
    }

    #[test]
    fn a_message_after_the_reader_has_left_is_lost_in_silence() {
        let (port, inbox) = inbox();
        drop(inbox);
        port.send(1);
    }
}
