//! A wrapper that makes a store of blobs fail, for tests: on demand, or by chance from a seed.
//!
//! It also stands for the machine that the store runs on. Its power can be cut at any call. What the
//! calls before have promised is there when it comes back; of a put that was under way the blob is
//! there or not, and of the latest deletions some are undone, which is all that [`BlobStore`] allows.
//! A store [with lost puts](FaultBlobStore::with_lost_puts) loses blobs that it said were durable, as
//! bad disks do, for the tests of tests.
//!
//! Nothing sleeps and no clock is read: delays are counted.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::{Blob, BlobError, BlobId, BlobInfo, BlobPrefix, BlobStore, Put, verified};

/// Deletions that a power cut may undo: chosen by feel, for what a file system may not have written
/// to its journal yet.
const UNDOABLE: usize = 64;

/// What is asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlobOp {
    /// [`BlobStore::put`], and each blob of [`BlobStore::put_many`].
    Put,
    /// [`BlobStore::get`].
    Get,
    /// [`BlobStore::get_range`].
    GetRange,
    /// [`BlobStore::info`].
    Info,
    /// [`BlobStore::list`].
    List,
    /// [`BlobStore::delete`].
    Delete,
}

impl BlobOp {
    const fn verb(self) -> &'static str {
        match self {
            Self::Put => "write",
            Self::Get | Self::GetRange => "read",
            Self::Info => "examine",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }
}

/// How often things go wrong by chance, in 1024ths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlobFaultRates {
    /// Puts that fail; the blob may be there all the same.
    pub put: u32,
    /// Whole reads that fail.
    pub get: u32,
    /// Reads of a part that fail.
    pub get_range: u32,
    /// Questions about a blob that fail.
    pub info: u32,
    /// Lists that end early, with an error.
    pub list: u32,
    /// Deletions that fail; the blob may be gone all the same.
    pub delete: u32,
    /// Reads before which the blob rots, for good.
    pub damage: u32,
    /// Calls that take long; see [`FaultBlobStore::delays`].
    pub delay: u32,
}

impl BlobFaultRates {
    const fn of(&self, op: BlobOp) -> u32 {
        match op {
            BlobOp::Put => self.put,
            BlobOp::Get => self.get,
            BlobOp::GetRange => self.get_range,
            BlobOp::Info => self.info,
            BlobOp::List => self.list,
            BlobOp::Delete => self.delete,
        }
    }
}

/// What a call that is to fail has done before it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    None,
    Whole,
}

#[derive(Debug)]
struct State {
    random: u64,
    rates: BlobFaultRates,
    /// Calls that are to fail, each after so many others of its kind.
    scheduled: Vec<(BlobOp, u64)>,
    /// Octets that can still be put.
    room: Option<u64>,
    delays: u64,
    /// Calls until the power is cut.
    fuse: Option<u64>,
    powerless: bool,
    damaged: BTreeSet<BlobId>,
    deleted: VecDeque<Vec<u8>>,
    loses_puts: bool,
    /// Puts that are not as durable as was said.
    losable: Vec<BlobId>,
}

impl State {
    /// The next number of splitmix64.
    fn chance(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.random;
        number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ number >> 31
    }

    fn happens(&mut self, rate: u32) -> bool {
        // Without a rate the sequence stays where it is, so that a script does not depend on it.
        rate != 0 && self.chance() % 1024 < u64::from(rate)
    }

    /// Whether a call of `op` goes through; if not, what it does all the same.
    fn gate(&mut self, op: BlobOp) -> Result<(), Effect> {
        if self.powerless {
            return Err(Effect::None);
        }
        if let Some(fuse) = &mut self.fuse {
            *fuse = fuse.saturating_sub(1);
            self.powerless = *fuse == 0;
        }
        let delayed = self.happens(self.rates.delay);
        self.delays += u64::from(delayed);
        let due = self.scheduled.iter().position(|(failing, after)| *failing == op && *after == 0);
        for (failing, after) in &mut self.scheduled {
            *after = if *failing == op { after.saturating_sub(1) } else { *after };
        }
        if let Some(due) = due {
            self.scheduled.swap_remove(due);
        }
        if !self.powerless && due.is_none() && !self.happens(self.rates.of(op)) {
            return Ok(());
        }
        Err(if self.chance().is_multiple_of(2) { Effect::None } else { Effect::Whole })
    }

    /// Whether the blob is damaged, after it may just have become so.
    fn is_damaged(&mut self, id: BlobId) -> bool {
        if self.happens(self.rates.damage) {
            self.damaged.insert(id);
        }
        self.damaged.contains(&id)
    }
}

/// A store of blobs that fails. The same calls with the same seed fail in the same way, as long as
/// they come from one thread.
#[derive(Debug)]
pub struct FaultBlobStore<S> {
    inner: S,
    state: Mutex<State>,
}

impl<S: BlobStore> FaultBlobStore<S> {
    /// A store that hands everything on to `inner` until it is told to fail. Chance starts from
    /// `seed`.
    pub fn new(inner: S, seed: u64) -> Self {
        let state = State {
            random: seed,
            rates: BlobFaultRates::default(),
            scheduled: Vec::new(),
            room: None,
            delays: 0,
            fuse: None,
            powerless: false,
            damaged: BTreeSet::new(),
            deleted: VecDeque::new(),
            loses_puts: false,
            losable: Vec::new(),
        };
        Self { inner, state: Mutex::new(state) }
    }

    /// The same, on a disk that lies: until [`Self::settle`], a power cut may lose any blob that was
    /// put.
    pub fn with_lost_puts(inner: S, seed: u64) -> Self {
        let store = Self::new(inner, seed);
        store.state().loses_puts = true;
        store
    }

    /// The store inside.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Gives the store inside back.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// Lets things go wrong by chance from now on.
    pub fn set_rates(&self, rates: BlobFaultRates) {
        self.state().rates = rates;
    }

    /// Makes a call of `op` fail, after `after` more of them.
    pub fn fail(&self, op: BlobOp, after: u64) {
        self.state().scheduled.push((op, after));
    }

    /// Lets `octets` more be put, after which puts are [`BlobError::NoSpace`]; deletions make room.
    /// `None` for no limit.
    pub fn limit_room(&self, octets: Option<u64>) {
        self.state().room = octets;
    }

    /// Changes one bit of a blob, as decay does, until it is put again. Nothing happens to one that
    /// is empty.
    pub fn damage(&self, id: BlobId) {
        self.state().damaged.insert(id);
    }

    /// Puts all blobs back that were damaged.
    pub fn put_back(&self) {
        self.state().damaged.clear();
    }

    /// How many calls took long so far.
    pub fn delays(&self) -> u64 {
        self.state().delays
    }

    /// Takes everything back that was set to fail. What is damaged stays so, and power that is gone
    /// stays away.
    pub fn heal(&self) {
        let mut state = self.state();
        state.rates = BlobFaultRates::default();
        state.scheduled.clear();
        state.room = None;
        state.fuse = None;
    }

    /// Cuts the power during the call that comes after `calls` others. It and all after it fail.
    pub fn cut_power_after(&self, calls: u64) {
        self.state().fuse = Some(calls.saturating_add(1));
    }

    /// Whether the power was cut.
    pub fn is_powerless(&self) -> bool {
        self.state().powerless
    }

    /// Makes everything as durable as was said: a later power cut loses nothing of it.
    pub fn settle(&self) {
        let mut state = self.state();
        state.deleted.clear();
        state.losable.clear();
    }

    /// Cuts the power, if it was not cut, and switches it on again. What was not durable is gone
    /// after that, or has become durable. The store inside should be one that does not fail.
    ///
    /// # Errors
    /// Those of the store inside.
    pub fn restore_power(&self) -> Result<(), BlobError> {
        let mut state = self.state();
        state.powerless = false;
        state.fuse = None;
        for id in std::mem::take(&mut state.losable) {
            if state.chance().is_multiple_of(2) {
                match self.inner.delete(id) {
                    Ok(()) | Err(BlobError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        for octets in std::mem::take(&mut state.deleted) {
            if state.chance().is_multiple_of(2) {
                self.inner.put(&Blob::new(&octets))?;
            }
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_inside(&self, state: &mut State, blob: &Blob<'_>) -> Result<Put, BlobError> {
        let len = blob.octets().len() as u64;
        let is_new = !self.inner.contains(blob.id())?;
        if is_new && state.room.is_some_and(|room| room < len) {
            return Err(BlobError::NoSpace { op: BlobOp::Put.verb(), path: key(blob.id()) });
        }
        let put = self.inner.put(blob)?;
        if is_new {
            state.room = state.room.map(|room| room - len);
        }
        if is_new && state.loses_puts {
            state.losable.push(blob.id());
        }
        Ok(if state.damaged.remove(&blob.id()) { Put::Repaired } else { put })
    }

    fn delete_inside(&self, state: &mut State, id: BlobId) -> Result<(), BlobError> {
        let octets = self.inner.get(id)?;
        self.inner.delete(id)?;
        state.room = state.room.map(|room| room.saturating_add(octets.len() as u64));
        // What comes back is sound: a put is what it may be mistaken for.
        state.damaged.remove(&id);
        state.losable.retain(|losable| *losable != id);
        if state.deleted.len() == UNDOABLE {
            state.deleted.pop_front();
        }
        state.deleted.push_back(octets);
        Ok(())
    }
}

impl<S: BlobStore> BlobStore for FaultBlobStore<S> {
    fn put(&self, blob: &Blob<'_>) -> Result<Put, BlobError> {
        let mut state = self.state();
        match state.gate(BlobOp::Put) {
            Ok(()) => self.put_inside(&mut state, blob),
            Err(effect) => {
                if effect == Effect::Whole {
                    self.put_inside(&mut state, blob)?;
                }
                Err(failed(BlobOp::Put, key(blob.id())))
            }
        }
    }

    fn get(&self, id: BlobId) -> Result<Vec<u8>, BlobError> {
        let mut state = self.state();
        state.gate(BlobOp::Get).map_err(|_| failed(BlobOp::Get, key(id)))?;
        let mut octets = self.inner.get(id)?;
        if state.is_damaged(id)
            && let Some((place, bit)) = rotten_bit(id, octets.len() as u64)
            && let Some(octet) = usize::try_from(place).ok().and_then(|at| octets.get_mut(at))
        {
            *octet ^= bit;
        }
        verified(id, octets)
    }

    fn get_range(&self, id: BlobId, offset: u64, into: &mut [u8]) -> Result<(), BlobError> {
        let mut state = self.state();
        state.gate(BlobOp::GetRange).map_err(|_| failed(BlobOp::GetRange, key(id)))?;
        self.inner.get_range(id, offset, into)?;
        if !state.is_damaged(id) {
            return Ok(());
        }
        let rotten = rotten_bit(id, self.inner.info(id)?.len);
        let octet = rotten.and_then(|(place, bit)| {
            let at = usize::try_from(place.checked_sub(offset)?).ok()?;
            into.get_mut(at).map(|octet| (octet, bit))
        });
        if let Some((octet, bit)) = octet {
            *octet ^= bit;
        }
        Ok(())
    }

    fn info(&self, id: BlobId) -> Result<BlobInfo, BlobError> {
        self.state().gate(BlobOp::Info).map_err(|_| failed(BlobOp::Info, key(id)))?;
        self.inner.info(id)
    }

    fn list(
        &self,
        prefix: &BlobPrefix,
        each: &mut dyn FnMut(BlobInfo) -> ControlFlow<()>,
    ) -> Result<(), BlobError> {
        let (gate, mut left) = {
            let mut state = self.state();
            let gate = state.gate(BlobOp::List);
            // How many a list that fails gets to.
            (gate, if gate.is_err() { state.chance() % 4 } else { u64::MAX })
        };
        self.inner.list(prefix, &mut |info| {
            left = left.saturating_sub(1);
            if left == 0 { ControlFlow::Break(()) } else { each(info) }
        })?;
        gate.map_err(|_| failed(BlobOp::List, prefix.to_string().into()))
    }

    fn delete(&self, id: BlobId) -> Result<(), BlobError> {
        let mut state = self.state();
        match state.gate(BlobOp::Delete) {
            Ok(()) => self.delete_inside(&mut state, id),
            Err(effect) => {
                if effect == Effect::Whole {
                    self.delete_inside(&mut state, id)?;
                }
                Err(failed(BlobOp::Delete, key(id)))
            }
        }
    }
}

/// What stands for a path here.
fn key(id: BlobId) -> PathBuf {
    id.to_string().into()
}

fn failed(op: BlobOp, path: PathBuf) -> BlobError {
    BlobError::Io { op: op.verb(), path, source: io::Error::from(Errno::IO) }
}

/// Which bit of a blob of `len` octets rots: always the same. `None` for an empty one.
fn rotten_bit(id: BlobId, len: u64) -> Option<(u64, u8)> {
    let [.., high, low, bit] = id.0;
    let place = u64::from(u16::from_be_bytes([high, low])).checked_rem(len)?;
    Some((place, 1 << (bit % 8)))
}
