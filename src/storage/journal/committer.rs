//! The thread that journals: it gathers what the images of all targets were told to write, commits
//! it as one record, and so lets all of it be acknowledged with one sync.
//!
//! # Invariants
//! * The entries of one image are in the order of its tickets.
//! * A ticket is called journalled only when all its entries are durable.
//! * In every segment an image's own entry comes before its first write.
//! * After a commit has failed nothing is journalled any more: every image fails.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;

use rtrb::Consumer;

use super::super::Ticket;
use super::super::writer::{Disk, WriterState};
use super::format::Sequence;
use super::images::{HEADER, ImageEntry, ImageNumber};
use super::log::{Appender, Retired, Room};
use super::medium::Medium;

/// Something that an image was told, on its way into the journal.
#[derive(Debug)]
pub(in super::super) enum Order {
    /// To write the first `len` octets of `buffer`. A ticket may have several, of which `last`
    /// ends it.
    Write { ticket: Ticket, offset: u64, buffer: Arc<[u8]>, len: usize, last: bool },
    /// To make a range zeros.
    Zeros { ticket: Ticket, offset: u64, len: u64 },
}

/// An image as the threads of the journal see it.
pub(super) struct Attached {
    pub(super) image: ImageNumber,
    pub(super) path: PathBuf,
    pub(super) marked: bool,
    pub(super) orders: Consumer<Order>,
    pub(super) state: Arc<WriterState>,
    /// Its entry is not in this segment yet.
    pub(super) unannounced: bool,
    /// The last ticket whose entries are all staged or committed.
    pub(super) taken: Ticket,
    /// Who waits for its first entry.
    pub(super) arriving: Option<SyncSender<()>>,
    pub(super) leaving: Option<Leaving>,
}

/// An image is being closed.
pub(super) struct Leaving {
    /// It has everything that was written to it, so that nothing need be replayed.
    pub(super) whole: bool,
    /// Its last entry is staged.
    pub(super) staged: bool,
    /// Who waits, and hears whether that entry is durable.
    pub(super) done: SyncSender<bool>,
}

/// What the committer is told.
pub(super) enum Request {
    /// To take orders of another image.
    Attach(Attached),
    /// To take no more of one.
    Detach(ImageNumber, Leaving),
    /// To end. Images that are still there stay to be replayed.
    Close,
}

/// An image as the checkpointer sees it.
#[derive(Clone)]
pub(super) struct Checkpointed {
    pub(super) state: Arc<WriterState>,
    pub(super) disk: Arc<Mutex<Box<dyn Disk>>>,
    pub(super) name: String,
}

/// What both threads of a journal have to know of its images.
#[derive(Default)]
pub(super) struct OpenImages {
    /// Those that are open.
    pub(super) images: BTreeMap<ImageNumber, Checkpointed>,
    /// Something has failed, so that the journal has the only sure copy of what was acknowledged:
    /// nothing is released any more.
    pub(super) pinned: bool,
}

impl OpenImages {
    /// Closes an image. Unless it is `whole`, its entries are still needed.
    fn close(&mut self, image: ImageNumber, whole: bool) {
        self.images.remove(&image);
        self.pinned |= !whole;
    }
}

/// What was written of a segment: the last ticket of each image in it.
pub(super) struct SegmentUse {
    pub(super) segment: Retired,
    pub(super) tickets: BTreeMap<ImageNumber, Ticket>,
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Something was done, and there may be more.
    Done,
    /// There is nothing to do.
    Idle,
    /// There is no room before the checkpointer has made some.
    Full,
    /// It is closed.
    Ended,
}

/// How a journal was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Everything up to here is in the images.
    Whole(Sequence),
    /// Some entries are still needed.
    Needed,
}

pub(super) struct Committer<M> {
    pub(super) appender: Appender<M>,
    pub(super) requests: Receiver<Request>,
    pub(super) images: Vec<Attached>,
    pub(super) open: Arc<Mutex<OpenImages>>,
    pub(super) uses: Sender<SegmentUse>,
    /// To be woken when there is a segment to make room of.
    pub(super) checkpointer: Option<Thread>,
    /// Tickets of the present segment.
    pub(super) tickets: BTreeMap<ImageNumber, Ticket>,
    /// Where gathering starts, so that one busy image does not keep the others waiting.
    pub(super) turn: usize,
    pub(super) closing: bool,
    /// Nothing is journalled any more.
    pub(super) failed: bool,
    /// For the log.
    pub(super) name: String,
}

impl<M: Medium> Committer<M> {
    /// Does what there is to do, up to one record.
    pub(super) fn step(&mut self) -> Step {
        self.take_requests();
        if !self.has_work() {
            return if self.closing { Step::Ended } else { Step::Idle };
        }
        if self.failed {
            self.refuse();
            return Step::Done;
        }
        let room = self.appender.begin();
        if let Some(segment) = self.appender.take_retired() {
            let tickets = std::mem::take(&mut self.tickets);
            // Nobody listens only when the checkpointer has panicked: then there will be no room.
            let _ = self.uses.send(SegmentUse { segment, tickets });
            if let Some(checkpointer) = &self.checkpointer {
                checkpointer.unpark();
            }
        }
        match room {
            Room::None if lock(&self.open).pinned => {
                self.fail("it is full and cannot be emptied");
                return Step::Done;
            }
            Room::None => return Step::Full,
            Room::NewSegment => {
                for image in &mut self.images {
                    image.unannounced = true;
                }
            }
            Room::Here => {}
        }
        self.gather();
        match self.appender.commit() {
            Ok(()) => self.publish(),
            Err(error) => self.fail(&format!("a commit failed: {error}")),
        }
        Step::Done
    }

    /// How the journal is left, after [`Step::Ended`].
    pub(super) fn left(&self) -> Left {
        if self.failed || !self.images.is_empty() || lock(&self.open).pinned {
            Left::Needed
        } else {
            Left::Whole(self.appender.last())
        }
    }

    fn take_requests(&mut self) {
        while let Ok(request) = self.requests.try_recv() {
            match request {
                Request::Attach(image) => self.images.push(image),
                Request::Detach(number, leaving) => {
                    if let Some(image) = self.images.iter_mut().find(|image| image.image == number)
                    {
                        image.leaving = Some(leaving);
                    }
                }
                Request::Close => self.closing = true,
            }
        }
    }

    fn has_work(&self) -> bool {
        self.images.iter().any(|image| {
            image.arriving.is_some() || image.leaving.is_some() || !image.orders.is_empty()
        })
    }

    /// Stages as much as fits into a record.
    fn gather(&mut self) {
        let count = self.images.len();
        self.turn = (self.turn + 1) % count.max(1);
        for n in 0..count {
            let image = &mut self.images[(self.turn + n) % count];
            let all = gather_from(image, &mut self.appender, &mut self.tickets);
            // What was copied need not be kept any more.
            image.state.make_room();
            if !all {
                return;
            }
        }
    }

    /// Tells what the commit has made durable.
    fn publish(&mut self) {
        for image in &mut self.images {
            image.state.journalled(image.taken);
            if !image.unannounced
                && let Some(done) = image.arriving.take()
            {
                let _ = done.send(());
            }
        }
        let gone = |image: &mut Attached| {
            let failed = image.state.has_failed();
            image.leaving.take_if(|leaving| {
                leaving.staged || (image.orders.is_empty() && (failed || !leaving.whole))
            })
        };
        let mut index = 0;
        while index < self.images.len() {
            if let Some(leaving) = gone(&mut self.images[index]) {
                let image = self.images.swap_remove(index);
                lock(&self.open).close(image.image, leaving.staged);
                let _ = leaving.done.send(leaving.staged);
            } else {
                index += 1;
            }
        }
    }

    fn fail(&mut self, why: &str) {
        log::error!(
            "journal {}: FAILED, {why}; the targets that use it take no more writes until the \
             server is restarted, which replays what was acknowledged",
            self.name
        );
        self.failed = true;
        // First: from now on writers carry nothing out, and what they call applied is not.
        lock(&self.open).pinned = true;
        self.refuse();
    }

    /// Lets go of everything that waits; it has failed.
    fn refuse(&mut self) {
        for image in &mut self.images {
            image.state.fail_unjournalled();
            while let Ok(order) = image.orders.pop() {
                drop(order);
            }
            image.state.journalled(Ticket(u64::MAX));
            image.arriving = None;
        }
        let open = &self.open;
        self.images.retain_mut(|image| {
            let Some(leaving) = image.leaving.take() else { return true };
            lock(open).close(image.image, false);
            let _ = leaving.done.send(false);
            false
        });
    }
}

/// Stages what there is of an image; `false` when the record is full.
fn gather_from<M: Medium>(
    image: &mut Attached,
    appender: &mut Appender<M>,
    tickets: &mut BTreeMap<ImageNumber, Ticket>,
) -> bool {
    if image.arriving.is_some() && !announce(image, appender) {
        return false;
    }
    let number = image.image;
    loop {
        if image.state.has_failed() {
            // Its outcomes are bad already, and what it holds is not to change any more.
            while let Ok(order) = image.orders.pop() {
                image.taken = order.ticket();
            }
            return true;
        }
        let Ok(order) = image.orders.peek() else { break };
        let len = HEADER + order.data_len();
        if !announce(image, appender) || !appender.has_room(len) {
            return false;
        }
        let Ok(order) = image.orders.pop() else { break };
        appender.stage(&order.entry(number).emit(&mut [0; HEADER]));
        tickets.insert(number, order.ticket());
        if order.is_last() {
            image.taken = order.ticket();
        }
    }
    if let Some(leaving) = &mut image.leaving
        && leaving.whole
    {
        if !appender.has_room(HEADER) {
            return false;
        }
        appender.stage(&ImageEntry::Closed { image: number }.emit(&mut [0; HEADER]));
        leaving.staged = true;
    }
    true
}

/// Sees to it that the image's own entry is in the segment; `false` when there is no room for it.
fn announce<M: Medium>(image: &mut Attached, appender: &mut Appender<M>) -> bool {
    if !image.unannounced {
        return true;
    }
    let Attached { image: number, marked, ref path, .. } = *image;
    if !appender.has_room(HEADER + path.as_os_str().len()) {
        return false;
    }
    appender.stage(&ImageEntry::Image { image: number, marked, path }.emit(&mut [0; HEADER]));
    image.unannounced = false;
    true
}

impl Order {
    fn ticket(&self) -> Ticket {
        match self {
            Self::Write { ticket, .. } | Self::Zeros { ticket, .. } => *ticket,
        }
    }

    fn is_last(&self) -> bool {
        !matches!(self, Self::Write { last: false, .. })
    }

    fn data_len(&self) -> usize {
        match self {
            Self::Write { len, .. } => *len,
            Self::Zeros { .. } => 0,
        }
    }

    fn entry(&self, image: ImageNumber) -> ImageEntry<'_> {
        match *self {
            Self::Write { offset, ref buffer, len, .. } => {
                ImageEntry::Write { image, offset, data: &buffer[..len] }
            }
            Self::Zeros { offset, len, .. } => ImageEntry::Zeros { image, offset, len },
        }
    }
}

/// Whoever panicked while he held the lock has left the table as it was.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
