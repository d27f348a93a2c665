//! The writer actor: what a snapshot still needs once it has been copied out of a replica, while
//! training goes on. One snapshot at a time: the communicator orders the next one when this one
//! has been reported, and the job ends after the last one has.

use actix::{Actor, ActorContext, Context, Handler, Message};

use crate::fault::{Post, enter, guarded};
use crate::inbox::Port;
use crate::messages::Note;
use crate::replica::Writing;
use crate::trace::Kind;

/// Device → writer: the rest of a snapshot's work.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Write {
    pub(crate) iter: u64,
    pub(crate) work: Writing,
}

/// The actor.
pub(crate) struct Writer {
    pub(crate) post: Post,
    pub(crate) notes: Port<Note>,
}

impl Actor for Writer {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        enter(Some(self.post.clone()));
    }
}

impl Handler<Write> for Writer {
    type Result = ();

    fn handle(&mut self, write: Write, context: &mut Self::Context) {
        let post = self.post.clone();
        post.tracer.set_iter(write.iter);
        let done = guarded(&post, || {
            let _span = post.tracer.span(Kind::Write);
            post.inject("write")?;
            Ok((write.work)()?)
        });
        match done {
            Some(()) => self.notes.send(Note::Written),
            None => context.stop(),
        }
    }
}
