//! Last words of a process that aborts: memory that cannot be had ends in `abort`, which no code of
//! ours can catch as a panic, but whose signal arrives on the very thread that asked.

use std::fmt::Write;
use std::sync::Once;

use super::hook::here;

/// A line of text without an allocation; what does not fit is cut.
struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for byte in text.bytes().take(self.bytes.len() - self.len) {
            self.bytes[self.len] = byte;
            self.len += 1;
        }
        Ok(())
    }
}

/// Says on SIGABRT where this process stood, once per process, before MPI would.
pub(crate) fn install_last_words() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: an all-zero `sigaction` is valid; the handler below is one of the right type,
        // and it does nothing that waits for another thread.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = aborted as extern "C" fn(libc::c_int) as usize;
            // Once: what comes after is the default, which ends the process.
            action.sa_flags = libc::SA_RESETHAND;
            libc::sigaction(libc::SIGABRT, &raw const action, std::ptr::null_mut());
        }
    });
}

extern "C" fn aborted(_: libc::c_int) {
    let mut line = Line { bytes: [0; 512], len: 0 };
    // The signal comes from this thread's own call of `abort`: its post is at rest.
    let said = here(|post| {
        let _ = write!(line, "rank {} (host {}), {}", post.rank, post.host, post.actor);
        if let Some(iter) = post.tracer.iter() {
            let _ = write!(line, ", iteration {iter}");
        }
        let _ = writeln!(line, ", {}: aborted (out of memory?); the job ends", post.tracer.doing());
    });
    if said.is_some() {
        // SAFETY: the buffer is `len` bytes long; a write that fails is nobody's loss now.
        let _ = unsafe { libc::write(2, line.bytes.as_ptr().cast(), line.len) };
    }
}
