//! The front end of a volume or of a snapshot: a disk as the poll loop drives it.
//!
//! # Invariants
//! * Nothing here waits, or takes a lock that a thread which works for long may hold.
//! * A write is in the generation and on its way into the journal before the call returns; both see
//!   the writes of a volume in the order of their numbers.
//! * A read looks at the newest writes first: the generation, those that were handed over, from the
//!   newest to the oldest, and then the tree that has everything before.

mod read;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use rtrb::{Consumer, Producer};

use self::read::Reads;
use super::super::slots::Slots;
use super::super::writer::{JOBS, SLOT_BYTES, SLOTS};
use super::super::{Accepted, BlockStorage, DeviceInfo, Fault, Ready, Ticket};
use super::overlay::Generation;
use super::reader::FetchLink;
use super::request::Request;
use super::shared::{HandedOver, News, Order, StoreShared, View, VolumeShared};
#[cfg(test)]
use super::simulation::{Bug, is_planted};
use crate::clock;
use crate::units::{Lba, SECTOR_SIZE, Sectors};

/// How often a front end that closes looks whether its last writes are durable.
const DURABLE_SOON: Duration = Duration::from_millis(1);
/// How long front ends that close wait for room in the journal that does not come.
const FINISH_PATIENCE: Duration = Duration::from_secs(5);
/// Buffers for writes on their way into the journal; few in tests, so that they run out.
const BUFFERS: usize = if cfg!(test) { 24 } else { SLOTS };
/// Orders that can be on their way into the journal: writes, and some discards, which take no buffer.
pub(super) const ORDERS: usize = if cfg!(test) { BUFFERS + 8 } else { JOBS };

/// A disk in an archive: a volume, or a snapshot of one.
#[derive(Debug)]
pub struct CasVolume {
    info: DeviceInfo,
    /// The size that was told last.
    told: Sectors,
    store: Arc<StoreShared>,
    view: View,
    /// What was handed over and is not in the tree of `view`, the newest first.
    frozen: VecDeque<Arc<Generation>>,
    reads: Reads,
    /// Something has come back that `progress` has not told of: whichever call took it in, what waits
    /// is worth trying again.
    came_back: bool,
    /// `None` for a snapshot.
    writing: Option<Writing>,
    /// As long as there is one, the snapshot is not deleted.
    _used: Option<Arc<()>>,
}

/// The way in, for what is written.
#[derive(Debug)]
struct Writing {
    shared: Arc<VolumeShared>,
    active: Box<Generation>,
    /// The number of the last write.
    last: u64,
    /// The last request for the generation that was answered.
    answered: u64,
    slots: Slots,
    orders: Producer<Order>,
    handed_over: Producer<HandedOver>,
    news: Consumer<News>,
    /// Generations to be used again.
    spares: Vec<Generation>,
    /// Something was not taken for lack of room: that many bytes of overlay were wanted, and that
    /// many orders.
    starved: Option<(u64, usize)>,
    requests: Sender<Request>,
    finished: bool,
}

/// The ends of the rings of a volume that its front end holds.
#[derive(Debug)]
pub(super) struct FrontRings {
    pub(super) orders: Producer<Order>,
    pub(super) handed_over: Producer<HandedOver>,
    pub(super) news: Consumer<News>,
    pub(super) requests: Sender<Request>,
}

impl CasVolume {
    /// A front end of a volume whose tree is `view`, and `pending`, the newest first, on top of it.
    pub(super) fn new(
        store: Arc<StoreShared>,
        shared: Arc<VolumeShared>,
        info: DeviceInfo,
        view: View,
        pending: VecDeque<Arc<Generation>>,
        rings: FrontRings,
        fetches: FetchLink,
    ) -> Self {
        let blocks = blocks_of(&store);
        let FrontRings { orders, handed_over, news, requests } = rings;
        let writing = Writing {
            active: Box::new(Generation::new(Arc::clone(&store.budget), blocks)),
            last: shared.written(),
            answered: shared.wanted(),
            shared,
            slots: Slots::new(BUFFERS),
            orders,
            handed_over,
            news,
            spares: Vec::with_capacity(2),
            starved: None,
            requests,
            finished: false,
        };
        Self {
            told: info.size,
            info,
            view,
            frozen: pending,
            reads: Reads::new(fetches, &store),
            came_back: false,
            store,
            writing: Some(writing),
            _used: None,
        }
    }

    /// A front end of a snapshot whose tree is `view`.
    pub(super) fn of_snapshot(
        store: Arc<StoreShared>,
        info: DeviceInfo,
        view: View,
        used: Arc<()>,
        fetches: FetchLink,
    ) -> Self {
        Self {
            told: info.size,
            info,
            view,
            frozen: VecDeque::new(),
            reads: Reads::new(fetches, &store),
            came_back: false,
            store,
            writing: None,
            _used: Some(used),
        }
    }

    fn check_range(&self, lba: Lba, count: Sectors) -> Result<(), Fault> {
        if lba.fits(count, self.info.size) { Ok(()) } else { Err(Fault::OutOfRange) }
    }

    /// The way in for writes of `count` sectors at `lba`.
    fn way_in(&mut self, lba: Lba, count: Sectors) -> Result<&mut Writing, Fault> {
        // It may have become shorter.
        self.take_news();
        self.check_range(lba, count)?;
        if self.info.read_only {
            return Err(Fault::WriteProtected);
        }
        if self.store.is_stopped() {
            return Err(Fault::Media);
        }
        self.writing.as_mut().ok_or(Fault::WriteProtected)
    }

    /// Takes in what a commit has done, and hands over what one asks for.
    fn take_news(&mut self) {
        let Some(writing) = &mut self.writing else { return };
        while let Ok(news) = writing.news.pop() {
            self.came_back = true;
            match news {
                News::Published { view, through } => {
                    self.view = view;
                    self.info.size = view.size;
                    self.frozen.retain(|generation| generation.last() > through);
                    // They wait for these to be let go.
                    self.store.commit_bell.ring();
                }
                News::Spare(generation) => writing.spares.push(*generation),
            }
        }
        if writing.shared.wanted() > writing.answered {
            self.came_back |= writing.hand_over(&self.store, &mut self.frozen);
        }
    }

    fn detach(&mut self) {
        let Some(writing) = &mut self.writing else { return };
        if std::mem::replace(&mut writing.finished, true) {
            return;
        }
        let generation = std::mem::replace(
            &mut writing.active,
            Box::new(Generation::new(Arc::clone(&self.store.budget), 0)),
        );
        self.store.remove_dirty(generation.bytes());
        let through = writing.last;
        let generation = (!generation.is_empty()).then(|| Arc::new(*generation));
        let handed = HandedOver { generation, through, request: writing.shared.wanted() };
        // Nobody listens when the store is closed already; the journal has what was acknowledged.
        let _ = writing.requests.send(Request::Detach(writing.shared.number, handed));
        self.frozen.clear();
        self.store.commit_bell.ring();
    }
}

impl Writing {
    /// Hands the generation over and begins another. `false` when there is no room for it.
    fn hand_over(&mut self, store: &StoreShared, frozen: &mut VecDeque<Arc<Generation>>) -> bool {
        if self.handed_over.is_full() {
            return false;
        }
        let request = self.shared.wanted();
        let generation = (!self.active.is_empty()).then(|| {
            let next = self
                .spares
                .pop()
                .unwrap_or_else(|| Generation::new(Arc::clone(&store.budget), blocks_of(store)));
            let full = Arc::new(std::mem::replace(&mut *self.active, next));
            store.remove_dirty(full.bytes());
            frozen.push_front(Arc::clone(&full));
            full
        });
        // There is room.
        let _ = self.handed_over.push(HandedOver { generation, through: self.last, request });
        self.answered = request;
        store.commit_bell.ring();
        true
    }

    /// Whether there is room for a write that makes the overlay grow by `growth` bytes and takes
    /// `orders`; it is taken then.
    fn take_room(&mut self, store: &StoreShared, growth: u64, orders: usize, slots: usize) -> bool {
        let room = self.orders.slots() >= orders
            && self.slots.has(slots)
            && (growth == 0 || store.budget.take(growth));
        if !room {
            self.starved = Some((growth, orders));
            store.commit_bell.ring();
        }
        room
    }

    /// Whether what was not taken for lack of room is worth offering again.
    fn has_room_again(&mut self, store: &StoreShared) -> bool {
        let Some((growth, orders)) = self.starved else { return false };
        let again = store.is_stopped()
            || (self.orders.slots() >= orders
                && self.slots.has(orders)
                && store.budget.used() + growth <= store.budget.limit());
        if again {
            self.starved = None;
        }
        again
    }

    fn order(&mut self, store: &StoreShared, order: Order) {
        self.last = order.number();
        // Room was looked at before.
        let _ = self.orders.push(order);
        self.shared.set_written(self.last);
        #[cfg(test)]
        if is_planted(Bug::JournalNotWoken) {
            return;
        }
        store.journal_bell.ring();
    }
}

/// How many blocks a generation has room for in its table from the start: what is handed over at once.
fn blocks_of(store: &StoreShared) -> usize {
    let bytes = store.commit_bytes.min(store.budget.limit());
    usize::try_from(bytes / store.block_bytes as u64).unwrap_or(usize::MAX).min(1 << 16)
}

impl BlockStorage for CasVolume {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn read(&mut self, lba: Lba, into: &mut [u8]) -> Result<Ready, Fault> {
        self.take_news();
        self.take_fetched();
        #[cfg(test)]
        if is_planted(Bug::NewsForgotten) {
            self.came_back = false;
        }
        self.check_range(lba, Sectors((into.len() / SECTOR_SIZE) as u64))?;
        self.count_access();
        self.read_sectors(lba, into)
    }

    fn write(&mut self, lba: Lba, data: &[u8]) -> Result<Accepted, Fault> {
        let sectors = data.len() / SECTOR_SIZE;
        self.way_in(lba, Sectors(sectors as u64))?;
        self.count_access();
        let Self { writing: Some(writing), store, .. } = self else {
            return Err(Fault::WriteProtected);
        };
        let growth = writing.active.growth(lba, sectors);
        let pieces = data.len().div_ceil(SLOT_BYTES);
        if !writing.take_room(store, growth, pieces, pieces) {
            return Ok(Accepted::Later);
        }
        let mut at = lba;
        // Each piece is a write of its own; the last one stands for all.
        for piece in data.chunks(SLOT_BYTES) {
            let number = writing.last + 1;
            writing.active.write(number, at, piece);
            let buffer = writing.slots.fill(piece);
            writing.order(store, Order::Write { number, lba: at, buffer, len: piece.len() });
            at = Lba(at.0 + (piece.len() / SECTOR_SIZE) as u64);
        }
        store.add_dirty(growth);
        Ok(Accepted::Done(Ticket(writing.last)))
    }

    fn flush(&mut self) -> Result<Accepted, Fault> {
        self.take_news();
        if self.store.is_stopped() {
            return Err(Fault::Media);
        }
        Ok(Accepted::Done(self.applied()))
    }

    fn discard(&mut self, lba: Lba, count: Sectors) -> Result<Accepted, Fault> {
        self.way_in(lba, count)?;
        self.count_access();
        let Self { writing: Some(writing), store, .. } = self else {
            return Err(Fault::WriteProtected);
        };
        if count.0 == 0 {
            // The journal has no word for it.
            return Ok(Accepted::Done(Ticket(writing.last)));
        }
        let growth = writing.active.discard_growth(lba, count);
        if !writing.take_room(store, growth, 1, 0) {
            return Ok(Accepted::Later);
        }
        let number = writing.last + 1;
        let freed = writing.active.discard(number, lba, count);
        store.add_dirty(growth);
        store.remove_dirty(freed);
        writing.order(store, Order::Zeros { number, lba, count });
        Ok(Accepted::Done(Ticket(number)))
    }

    fn verify(&mut self, lba: Lba, count: Sectors) -> Result<Ready, Fault> {
        self.take_news();
        self.check_range(lba, count)?;
        self.count_access();
        self.verify_sectors(lba, count)
    }

    fn applied(&self) -> Ticket {
        self.writing.as_ref().map_or(Ticket::NONE, |writing| Ticket(writing.last))
    }

    fn durable(&self) -> Ticket {
        let Some(writing) = &self.writing else { return Ticket::NONE };
        Ticket(writing.shared.journalled().min(writing.last))
    }

    fn outcome(&mut self, ticket: Ticket) -> Result<(), Fault> {
        match &self.writing {
            Some(writing) if writing.shared.has_failed(ticket.0) => Err(Fault::Media),
            _ => Ok(()),
        }
    }

    fn progress(&mut self) -> bool {
        self.take_news();
        self.take_fetched();
        let mut worth_it = std::mem::take(&mut self.came_back);
        if !worth_it {
            self.reads.forget_unwanted();
        }
        if let Some(writing) = &mut self.writing {
            worth_it |= writing.has_room_again(&self.store);
        }
        worth_it
    }

    fn refresh(&mut self) -> bool {
        self.take_news();
        std::mem::replace(&mut self.told, self.info.size) != self.info.size
    }

    /// Waits until everything is in the journal, and hands over what is not in the tree: a commit
    /// brings it there, or the replay after a crash. Where the journal is full, and commits make no room in
    /// it, all volumes of a store together wait for five seconds.
    fn finish(&mut self) -> Result<(), Fault> {
        let Some(writing) = &self.writing else { return Ok(()) };
        let (shared, last) = (Arc::clone(&writing.shared), writing.last);
        let mut durable = writing.finished || shared.journalled() >= last;
        while !durable {
            if self.store.stuck_for(clock::now()) >= FINISH_PATIENCE {
                break;
            }
            self.store.journal_bell.ring();
            thread::park_timeout(DURABLE_SOON);
            // A commit may wait for what this one has, and others for that commit.
            self.take_news();
            durable = shared.journalled() >= last;
        }
        self.detach();
        let failed = !durable || (shared.has_failed(last) && last > 0);
        if failed { Err(Fault::Media) } else { Ok(()) }
    }
}

impl CasVolume {
    fn count_access(&self) {
        if let Some(writing) = &self.writing {
            writing.shared.count_access();
        }
    }
}

impl Drop for CasVolume {
    fn drop(&mut self) {
        self.detach();
    }
}
