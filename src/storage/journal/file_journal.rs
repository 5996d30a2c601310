//! A journal in a file, with its two threads, for the images of one process.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use rtrb::{Producer, RingBuffer};

use super::super::Ticket;
use super::super::file::FileDisk;
use super::super::lock::Lock;
use super::super::writer::{Disk, JOBS, WriterState};
use super::checkpointer::Checkpointer;
use super::committer::{
    Attached, Checkpointed, Committer, Leaving, Left, OpenImages, Order, Request, Step, lock,
};
use super::error::JournalError;
use super::format::{Geometry, JournalId, Sequence};
use super::images::ImageNumber;
use super::journal_file::{self, JournalFile, random_id};
use super::log::Reclaimer;
use super::mark::Mark;
use super::medium::{DirectFile, Guarded, Medium};
use super::replay::{Recovery, Replayed};
use super::scan::Scan;
use crate::scheduling;

/// How long the checkpointer waits before it looks again whether something was applied.
const APPLIED_SOON: Duration = Duration::from_millis(1);

/// A journal that images of this process use. Clones are the same journal.
#[derive(Clone)]
pub struct FileJournal(Arc<Inner>);

struct Inner {
    path: PathBuf,
    id: JournalId,
    next_image: AtomicU64,
    open: Arc<Mutex<OpenImages>>,
    requests: Sender<Request>,
    committer: Thread,
    threads: Mutex<Option<Threads>>,
    _lock: Lock,
}

struct Threads {
    committer: JoinHandle<Left>,
    checkpointer: JoinHandle<Reclaimer<Guarded<DirectFile>>>,
    /// Dropped to end the checkpointer.
    life: SyncSender<()>,
}

impl fmt::Debug for FileJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileJournal").field("path", &self.0.path).finish_non_exhaustive()
    }
}

/// How long the checkpointer sleeps at most when nobody wakes it.
const LIFE_CHECK: Duration = Duration::from_secs(1);

/// How a journal is to be opened.
#[derive(Debug, Clone, Copy)]
pub struct JournalOptions {
    /// Its size; all of it is written when it is made.
    pub bytes: u64,
    /// The real-time priority, from 1 to 99, of the thread that journals; none without the right to
    /// it.
    pub priority: Option<u8>,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self { bytes: FileJournal::DEFAULT_BYTES, priority: None }
    }
}

impl FileJournal {
    /// The size of a journal that nobody chose, in bytes: a second of a fast network.
    pub const DEFAULT_BYTES: u64 = 256 << 20;

    /// Opens the journal at `path`, and creates it when it is missing. What a crash has left in it is
    /// brought into the images first. One of another size is made anew then, under its
    /// old name: images that it had nothing for carry its mark still.
    ///
    /// Starts two threads, one that journals and one that makes images durable.
    ///
    /// # Errors
    /// [`JournalError`]; nothing is served then that would lack something acknowledged.
    pub fn open(
        path: impl AsRef<Path>,
        options: JournalOptions,
    ) -> Result<(Self, Replayed), JournalError> {
        let path = path.as_ref();
        let JournalOptions { bytes, priority } = options;
        let geometry = Geometry::of(bytes);
        if bytes < Geometry::LEAST_BYTES || !geometry.is_sound() {
            return Err(JournalError::Size { bytes, least: Geometry::LEAST_BYTES });
        }
        let mut replayed = Replayed::default();
        let recovery = match Recovery::open(path) {
            Ok(mut recovery) => {
                replayed = recovery.replay(&[], false)?;
                if recovery.scan.geometry() == geometry {
                    recovery
                } else {
                    log::info!("journal {}: made anew, {bytes} bytes long", path.display());
                    // Under the name it had, and going on where it was: images have its mark.
                    // A link to it stays one.
                    let place = fs::canonicalize(path).unwrap_or_else(|_| path.into());
                    Recovery::of(JournalFile::create(
                        &place,
                        geometry,
                        recovery.id(),
                        recovery.scan.tip().last,
                    )?)?
                }
            }
            Err(JournalError::NotFound { .. }) => {
                let id = random_id(path)?;
                Recovery::of(JournalFile::create(path, geometry, id, Sequence(0))?)?
            }
            Err(error) => return Err(error),
        };
        Ok((Self::start(recovery, priority)?, replayed))
    }

    fn start(recovery: Recovery, priority: Option<u8>) -> Result<Self, JournalError> {
        let Recovery { path, file, scan, lock, .. } = recovery;
        let failed = |op| {
            let path = path.clone();
            move |source| JournalError::Io { op, path, source }
        };
        let id = scan.id();
        // No image has had this number: each that was opened has an entry of its own.
        let next_image = AtomicU64::new(scan.tip().last.next().0);
        let parts = Parts::new(&scan, DirectFile::new(&file), path.display().to_string());
        let Parts { open, requests, mut committer, mut checkpointer } =
            parts.map_err(failed("write to"))?;
        let (committer_thread, threads) = {
            let (introduce, introduced) = mpsc::sync_channel::<Thread>(1);
            let (life, lifeline) = mpsc::sync_channel(0);
            let checkpointer = thread::Builder::new()
                .name("checkpointer".into())
                .spawn(move || {
                    checkpointer.committer = introduced.recv().ok();
                    run_checkpointer(&mut checkpointer, &lifeline);
                    checkpointer.reclaimer
                })
                .map_err(failed("start a thread for"))?;
            committer.checkpointer = Some(checkpointer.thread().clone());
            let committer = thread::Builder::new()
                .name("journal".into())
                .spawn(move || {
                    scheduling::raise(priority, &committer.name);
                    run_committer(&mut committer)
                })
                .map_err(failed("start a thread for"))?;
            let thread = committer.thread().clone();
            let _ = introduce.send(thread.clone());
            (thread, Threads { committer, checkpointer, life })
        };
        Ok(Self(Arc::new(Inner {
            path,
            id,
            next_image,
            open,
            requests,
            committer: committer_thread,
            threads: Mutex::new(Some(threads)),
            _lock: lock,
        })))
    }

    /// Where a journal that is to be at `path` is before it is whole.
    pub fn made_at(path: &Path) -> PathBuf {
        journal_file::made_at(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The journal's name.
    pub(in super::super) fn id(&self) -> JournalId {
        self.0.id
    }

    /// Gives an image a number, and marks it as one whose writes are here. What a process that died
    /// left of it in the page cache is durable then: it may be read from now on.
    pub(in super::super) fn mark(&self, path: &Path, file: &Arc<File>) -> io::Result<ImageFacts> {
        if lock(&self.0.open).pinned {
            // Perhaps what failed was this very image, and lacks what only the journal has.
            return Err(io::Error::other(
                "something that its journal is for has failed: restart the server, which replays it",
            ));
        }
        if Mark::of(file)?.is_some() {
            FileDisk::new(Arc::clone(file)).distrust_cache()?;
        }
        file.sync_all()?;
        let path = fs::canonicalize(path)?;
        let number = ImageNumber(self.0.next_image.fetch_add(1, Ordering::Relaxed));
        let journal = fs::canonicalize(&self.0.path)?;
        let mark = Mark { journal: self.0.id, image: number, path: journal };
        let marked = mark.put(file)?;
        if !marked {
            log::warn!(
                "image {}: its file system has no extended attributes, so that it cannot be marked \
                 as needing journal {}: after a crash, do not use it without",
                path.display(),
                self.0.path.display()
            );
        }
        Ok(ImageFacts { number, path, marked: marked.then(|| Arc::clone(file)) })
    }

    /// Lets an image's writer journal. `disk` is for making the image durable.
    pub(in super::super) fn attach(
        &self,
        image: ImageFacts,
        disk: Box<dyn Disk>,
        state: Arc<WriterState>,
    ) -> io::Result<JournalLink> {
        let (arriving, arrived) = mpsc::sync_channel(1);
        let ImageFacts { number, path, marked } = image;
        let (attached, orders) =
            attach(&self.0.open, number, path, marked.is_some(), disk, state, Some(arriving));
        let gone = || io::Error::other("the journal has failed");
        self.0.requests.send(Request::Attach(attached)).map_err(|_| gone())?;
        self.0.committer.unpark();
        let mut link = JournalLink {
            orders,
            number,
            marked,
            requests: self.0.requests.clone(),
            committer: Some(self.0.committer.clone()),
            _journal: Some(self.clone()),
        };
        if arrived.recv().is_err() {
            link.close(false);
            return Err(gone());
        }
        Ok(link)
    }

    /// Ends the threads, when all images are closed, and notes that nothing is needed any more.
    ///
    /// # Errors
    /// [`JournalError::StillNeeded`] when something failed before; then it is replayed when it is
    /// opened next.
    pub fn close(&self) -> Result<(), JournalError> {
        self.0.close()
    }
}

impl Inner {
    fn close(&self) -> Result<(), JournalError> {
        let Some(Threads { committer, checkpointer, life }) = lock(&self.threads).take() else {
            return Ok(());
        };
        let needed = || JournalError::StillNeeded { path: self.path.clone() };
        let _ = self.requests.send(Request::Close);
        self.committer.unpark();
        let left = committer.join();
        drop(life);
        checkpointer.thread().unpark();
        let mut reclaimer = checkpointer.join().map_err(|_| needed())?;
        match left {
            Ok(Left::Whole(last)) => reclaimer.close(last).map_err(|source| JournalError::Io {
                op: "write to",
                path: self.path.clone(),
                source,
            }),
            _ => Err(needed()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            log::error!("{error}");
        }
    }
}

/// An image that is about to be journalled.
#[derive(Debug)]
pub(in super::super) struct ImageFacts {
    pub(in super::super) number: ImageNumber,
    pub(in super::super) path: PathBuf,
    /// Its file, if it carries the journal's mark.
    pub(in super::super) marked: Option<Arc<File>>,
}

/// The poll loop's way into a journal, for one image.
#[derive(Debug)]
pub(in super::super) struct JournalLink {
    orders: Producer<Order>,
    number: ImageNumber,
    marked: Option<Arc<File>>,
    requests: Sender<Request>,
    committer: Option<Thread>,
    /// Keeps the journal open.
    _journal: Option<FileJournal>,
}

impl JournalLink {
    /// A way to a committer that somebody runs by hand.
    #[cfg(test)]
    pub(super) fn by_hand(
        orders: Producer<Order>,
        number: ImageNumber,
        requests: Sender<Request>,
    ) -> Self {
        Self { orders, number, marked: None, requests, committer: None, _journal: None }
    }

    /// How many orders can be given.
    pub(in super::super) fn room(&self) -> usize {
        self.orders.slots()
    }

    /// Has something journalled. There has to be room for it.
    pub(in super::super) fn order(&mut self, order: Order) {
        let pushed = self.orders.push(order);
        debug_assert!(pushed.is_ok(), "room for the order was counted");
    }

    /// Wakes the thread that journals. A system call only when it sleeps.
    pub(in super::super) fn kick(&self) {
        if let Some(committer) = &self.committer {
            committer.unpark();
        }
    }

    /// Whether nobody journals any more.
    pub(in super::super) fn is_abandoned(&self) -> bool {
        self.orders.is_abandoned()
    }

    /// Takes the image out of the journal. When it is `whole`, durable with everything that was
    /// written to it, nothing of it need be replayed; tells whether that is durable, too.
    pub(in super::super) fn close(&mut self, whole: bool) -> bool {
        let (done, closed) = mpsc::sync_channel(1);
        let leaving = Leaving { whole, staged: false, done };
        if self.requests.send(Request::Detach(self.number, leaving)).is_err() {
            return false;
        }
        self.kick();
        let closed = closed.recv() == Ok(true);
        if closed
            && let Some(file) = self.marked.take()
            && let Err(error) = Mark::remove(&file)
        {
            log::warn!("cannot take the mark of its journal from an image: {error}");
        }
        closed
    }
}

/// Enters an image in the table, and makes what the committer and the writer need.
pub(super) fn attach(
    open: &Mutex<OpenImages>,
    number: ImageNumber,
    path: PathBuf,
    marked: bool,
    disk: Box<dyn Disk>,
    state: Arc<WriterState>,
    arriving: Option<SyncSender<()>>,
) -> (Attached, Producer<Order>) {
    let (orders, queue) = RingBuffer::new(JOBS);
    let checkpointed = Checkpointed {
        state: Arc::clone(&state),
        disk: Arc::new(Mutex::new(disk)),
        name: path.display().to_string(),
    };
    lock(open).images.insert(number, checkpointed);
    let attached = Attached {
        image: number,
        path,
        marked,
        orders: queue,
        state,
        unannounced: true,
        taken: Ticket::NONE,
        arriving,
        leaving: None,
    };
    (attached, orders)
}

/// The parts of a journal that is in use.
pub(super) struct Parts<M> {
    pub(super) open: Arc<Mutex<OpenImages>>,
    pub(super) requests: Sender<Request>,
    pub(super) committer: Committer<Guarded<M>>,
    pub(super) checkpointer: Checkpointer<Guarded<M>>,
}

impl<M: Medium + Clone> Parts<M> {
    /// Of a journal that was scanned, and of which nothing is needed any more.
    pub(super) fn new(scan: &Scan, medium: M, name: String) -> io::Result<Self> {
        let (appender, mut reclaimer) = scan.ends(Guarded::new(medium));
        // From now on it is in use: it was perhaps closed before.
        reclaimer.release(scan.tip().last)?;
        let open = Arc::new(Mutex::new(OpenImages::default()));
        let (requests, requested) = mpsc::channel();
        let (uses, used) = mpsc::channel();
        let committer = Committer {
            appender,
            requests: requested,
            images: Vec::new(),
            open: Arc::clone(&open),
            uses,
            checkpointer: None,
            tickets: std::collections::BTreeMap::new(),
            turn: 0,
            closing: false,
            failed: false,
            name: name.clone(),
        };
        let checkpointer = Checkpointer {
            reclaimer,
            uses: used,
            tickets: std::collections::VecDeque::new(),
            open: Arc::clone(&open),
            committer: None,
            name,
        };
        Ok(Self { open, requests, committer, checkpointer })
    }
}

fn run_committer<M: Medium>(committer: &mut Committer<M>) -> Left {
    loop {
        match committer.step() {
            Step::Done => {}
            Step::Idle | Step::Full => thread::park(),
            Step::Ended => return committer.left(),
        }
    }
}

fn run_checkpointer<M: Medium>(checkpointer: &mut Checkpointer<M>, life: &mpsc::Receiver<()>) {
    loop {
        match checkpointer.step() {
            Step::Done => {}
            Step::Full => thread::park_timeout(APPLIED_SOON),
            Step::Idle | Step::Ended => thread::park_timeout(LIFE_CHECK),
        }
        if life.try_recv() == Err(mpsc::TryRecvError::Disconnected) {
            return;
        }
    }
}
