//! The panic hook and the edge of an actor.
//!
//! The hook is the one process-wide thing of the crate, because Rust has one hook per process.
//! It acts only for threads that belong to a run (they carry their [`Post`] in a thread-local);
//! all other threads get the hook that was there before.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use super::{Halt, Post};

thread_local! {
    static HERE: RefCell<Option<Post>> = const { RefCell::new(None) };
}

/// Makes this thread one of a run: its panics become faults at `post`. Undone by `None`.
pub(crate) fn enter(post: Option<Post>) {
    HERE.with_borrow_mut(|here| *here = post);
}

/// What `look` says of this thread's post, if it has one.
pub(super) fn here<T>(look: impl FnOnce(&Post) -> T) -> Option<T> {
    HERE.try_with(|here| here.try_borrow().ok()?.as_ref().map(look)).ok().flatten()
}

/// Installs the hook, once per process.
///
/// The hook records the fault *before* the stack unwinds: whatever a destructor on the way does,
/// even if it blocks, the node's alarm is already ringing and the watchdog is counting.
pub(crate) fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = take_hook();
        set_hook(Box::new(move |info| {
            let ours = HERE.try_with(|here| match here.try_borrow() {
                Ok(here) => here.as_ref().map(|post| record(post, info)).is_some(),
                Err(_) => false,
            });
            if !ours.unwrap_or(false) {
                previous(info);
            }
        }));
    });
}

fn record(post: &Post, info: &PanicHookInfo<'_>) {
    let text = info.payload_as_str().unwrap_or("a panic without a message");
    let cause = match info.location() {
        Some(place) => format!("panicked at {}:{}: {text}", place.file(), place.line()),
        None => format!("panicked: {text}"),
    };
    post.alarm.raise(post.fault(cause));
}

/// Runs an actor's handler body: an error or a panic raises the node's alarm. Returns the body's
/// value, or `None` when the actor must not go on.
pub(crate) fn guarded<T>(post: &Post, body: impl FnOnce() -> Result<T, Halt>) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => Some(value),
        Ok(Err(halt)) => {
            post.report(halt);
            None
        }
        Err(_) => {
            // The hook has recorded it, unless the host program replaced the hook.
            if !post.alarm.raised() {
                post.report(Halt::Cause("panicked".into()));
            }
            None
        }
    }
}
