//! Orders to a running loop, and its state for others to read. Neither ever blocks the loop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::idle::Idle;
use super::listener::Backend;
use super::probe::{Admission, PortSet};
use crate::engine::{EngineCounters, Export, MacList, TargetCounters};
use crate::link::{LinkCounters, LinkInfo};
use crate::protocol::Address;
use crate::units::Sectors;
use crate::wake::Waker;

/// Orders that may wait for the loop to take them.
const MAILBOX: usize = 64;

/// An order to a loop. Each is answered on a channel of its own.
pub(super) enum Order {
    /// Serve a target, once its address is known to be free.
    Add {
        export: Box<Export<Backend>>,
        ports: PortSet,
        probe: Duration,
        answer: SyncSender<Answer>,
    },
    /// Stop serving a target, answer what it has taken, and hand its disk back.
    Remove { address: Address, answer: SyncSender<Option<Export<Backend>>> },
    /// Change what can be changed while serving.
    Adjust { address: Address, buffer_count: u16, allow: Box<MacList>, ports: PortSet },
    /// Look whether a target's disk has changed its size, and announce it if so.
    Refresh { address: Address },
    /// Do this when there is nothing to do.
    Idle(Idle),
    /// Answer everything that was taken, and end.
    Stop,
}

/// The loop takes no more orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the poll loop has ended")]
pub struct LoopEnded;

/// How the wish to serve a target ended, and the target when it is not served.
pub type Answer = (Admission, Option<Export<Backend>>);

/// The loop's end of the mailbox.
pub(super) struct Mailbox {
    orders: Receiver<Order>,
    news: Arc<AtomicBool>,
}

impl Mailbox {
    /// The next order; a load and nothing else when there is none.
    pub(super) fn take(&mut self) -> Option<Order> {
        if !self.news.load(Ordering::Relaxed) {
            return None;
        }
        // Cleared before the look, so that an order that comes in between sets it again.
        self.news.store(false, Ordering::SeqCst);
        match self.orders.try_recv() {
            Ok(order) => {
                self.news.store(true, Ordering::Relaxed); // there may be more
                Some(order)
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
        }
    }
}

/// The handle by which other threads speak to a loop.
#[derive(Clone)]
pub struct Control {
    orders: SyncSender<Order>,
    news: Arc<AtomicBool>,
    waker: Waker,
    status: Arc<Mutex<Status>>,
}

impl Control {
    pub(super) fn new(waker: Waker) -> (Self, Mailbox) {
        let (sender, orders) = sync_channel(MAILBOX);
        let news = Arc::new(AtomicBool::new(false));
        let mailbox = Mailbox { orders, news: Arc::clone(&news) };
        (Self { orders: sender, news, waker, status: Arc::default() }, mailbox)
    }

    /// Serves a target on `ports`, after looking for another server with its address for the time
    /// of `probe`. How that ended comes by the channel, with the export when it is not served.
    ///
    /// # Errors
    /// [`LoopEnded`].
    pub fn add(
        &self,
        export: Export<Backend>,
        ports: PortSet,
        probe: Duration,
    ) -> Result<Receiver<Answer>, LoopEnded> {
        let (answer, receiver) = sync_channel(1);
        self.send(Order::Add { export: Box::new(export), ports, probe, answer })?;
        Ok(receiver)
    }

    /// Stops serving a target. It answers what it has taken first; then it comes by the channel,
    /// `None` when there is no such target.
    ///
    /// # Errors
    /// [`LoopEnded`].
    pub fn remove(&self, address: Address) -> Result<Receiver<Option<Export<Backend>>>, LoopEnded> {
        let (answer, receiver) = sync_channel(1);
        self.send(Order::Remove { address, answer })?;
        Ok(receiver)
    }

    /// Changes what can be changed while a target serves, and announces it.
    ///
    /// # Errors
    /// [`LoopEnded`].
    pub fn adjust(
        &self,
        address: Address,
        buffer_count: u16,
        allow: MacList,
        ports: PortSet,
    ) -> Result<(), LoopEnded> {
        self.send(Order::Adjust { address, buffer_count, allow: Box::new(allow), ports })
    }

    /// Looks whether a target's disk has changed its size, and announces it if so.
    ///
    /// # Errors
    /// [`LoopEnded`].
    pub fn refresh(&self, address: Address) -> Result<(), LoopEnded> {
        self.send(Order::Refresh { address })
    }

    /// Changes what the loop does when there is nothing to do.
    ///
    /// # Errors
    /// [`LoopEnded`].
    pub fn set_idle(&self, idle: Idle) -> Result<(), LoopEnded> {
        self.send(Order::Idle(idle))
    }

    /// Has the loop receive nothing more, answer everything that it has taken, and end.
    ///
    /// # Errors
    /// [`LoopEnded`], which is as well.
    pub fn stop(&self) -> Result<(), LoopEnded> {
        self.send(Order::Stop)
    }

    /// Hands an order over, and waits while the mailbox is full.
    fn send(&self, order: Order) -> Result<(), LoopEnded> {
        self.orders.send(order).map_err(|_| LoopEnded)?;
        self.news.store(true, Ordering::SeqCst);
        self.waker.wake();
        Ok(())
    }

    /// What wakes the loop: storage back ends take it to tell that they have made progress.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// The loop's state as it last published it, some tenths of a second ago at most.
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Where the loop publishes its state.
    pub(super) fn published(&self) -> Arc<Mutex<Status>> {
        Arc::clone(&self.status)
    }
}

/// The state of one loop.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Frames that reached no target.
    pub engine: EngineCounters,
    /// Its links, in their order.
    pub links: Vec<LinkStatus>,
    /// The targets it serves, in no order.
    pub targets: Vec<TargetStatus>,
}

/// The state of one link.
#[derive(Debug, Clone)]
pub struct LinkStatus {
    /// The interface.
    pub name: Arc<str>,
    /// Address, MTU and whether it is up.
    pub info: LinkInfo,
    /// Frames moved and lost.
    pub counters: LinkCounters,
    /// Replies given up since the link was down.
    pub given_up: u64,
    /// Refusals that were not sent, since more came in than was answered.
    pub shed: u64,
}

/// The state of one target.
#[derive(Debug, Clone)]
pub struct TargetStatus {
    /// Its address.
    pub address: Address,
    /// The size of its disk.
    pub size: Sectors,
    /// What it did.
    pub counters: TargetCounters,
    /// Replies that wait for storage.
    pub held: usize,
    /// Requests that wait for storage.
    pub parked: usize,
    /// Requests that were dropped: more than it has room for while its storage is stuck.
    pub dropped: u64,
}
