//! Saving off the poll loop: a thread that waits for the disk so that the loop need not.

use std::fmt::Write as _;
use std::io;
use std::string::{String, ToString as _};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rtrb::{Consumer, Producer, RingBuffer};

use super::StateDirectory;
use crate::clock::{self, Instant};
use crate::engine::Settings;
use crate::protocol::Address;
use crate::wake::Waker;

/// Trouble that goes on is logged this often.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The settings could not be made durable; the log says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the settings could not be saved")]
pub struct SaveFailed;

/// As many saves as were agreed are under way: take results first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many saves are under way")]
pub struct SaverBusy;

/// One order to save. The settings are in it, not on the heap.
#[derive(Debug)]
struct Order {
    token: u64,
    address: Address,
    settings: Settings,
}

type Outcome = (u64, Result<(), SaveFailed>);

/// The loop's end of the saving thread. No method but [`Self::start`] and dropping it waits, locks
/// or allocates.
///
/// Orders are carried out one after the other, in the order they were given. Dropping it carries
/// out those that are left and ends the thread.
#[derive(Debug)]
pub struct SettingsSaver {
    /// `None` only while being dropped.
    orders: Option<Producer<Order>>,
    outcomes: Consumer<Outcome>,
    /// Orders whose outcome has not been taken.
    under_way: usize,
    thread: Option<JoinHandle<()>>,
}

impl SettingsSaver {
    /// Starts the thread. Up to `most` saves may be under way at once: one for each target is
    /// enough, since a target has one set of settings staged. `waker` wakes the loop when there is
    /// a result.
    ///
    /// # Errors
    /// When the process may not have another thread.
    pub fn start(directory: Arc<StateDirectory>, waker: Waker, most: usize) -> io::Result<Self> {
        let most = most.max(1);
        let (orders, their_orders) = RingBuffer::new(most);
        // An outcome for each order there can be: there is always room for one.
        let (their_outcomes, outcomes) = RingBuffer::new(most);
        let worker = Worker {
            directory,
            waker,
            orders: their_orders,
            outcomes: their_outcomes,
            log: FailureLog::default(),
        };
        let thread = thread::Builder::new().name("aoe-state".into()).spawn(move || worker.run())?;
        Ok(Self { orders: Some(orders), outcomes, under_way: 0, thread: Some(thread) })
    }

    /// Gives the order to save `settings` for the target at `address`. [`Self::take_result`] gives
    /// `token` back with the result.
    ///
    /// # Errors
    /// [`SaverBusy`] when as many saves are under way as there may be; nothing is saved then.
    pub fn save(
        &mut self,
        token: u64,
        address: Address,
        settings: &Settings,
    ) -> Result<(), SaverBusy> {
        let orders = self.orders.as_mut().ok_or(SaverBusy)?;
        if self.under_way >= self.outcomes.buffer().capacity() {
            return Err(SaverBusy);
        }
        let order = Order { token, address, settings: settings.clone() };
        orders.push(order).map_err(|_| SaverBusy)?;
        self.under_way += 1;
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
        Ok(())
    }

    /// The token and result of a save that is over, in the order they were given; `None` when none
    /// is. After `Ok` the settings survive power loss. After [`SaveFailed`] the ones before are
    /// kept, or, rarely, both may be found after power loss: save again what shall hold.
    pub fn take_result(&mut self) -> Option<(u64, Result<(), SaveFailed>)> {
        let outcome = self.outcomes.pop().ok()?;
        self.under_way = self.under_way.saturating_sub(1);
        Some(outcome)
    }

    /// How many saves are under way, or over and not taken.
    pub fn under_way(&self) -> usize {
        self.under_way
    }
}

impl Drop for SettingsSaver {
    fn drop(&mut self) {
        // Dropped first, so that the thread sees that no more orders come.
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                log::error!("the thread that saves settings has panicked");
            }
        }
    }
}

struct Worker {
    directory: Arc<StateDirectory>,
    waker: Waker,
    orders: Consumer<Order>,
    outcomes: Producer<Outcome>,
    log: FailureLog,
}

impl Worker {
    fn run(mut self) {
        loop {
            // Asked before the last look: an order that came before the end is then found.
            let last = self.orders.is_abandoned();
            while let Ok(order) = self.orders.pop() {
                self.carry_out(&order);
            }
            if last {
                return;
            }
            // Returns at once when an order came since, and sometimes for no reason.
            thread::park();
        }
    }

    fn carry_out(&mut self, order: &Order) {
        let result = self.directory.save(order.address, &order.settings);
        if let Err(error) = &result {
            self.log.failed(order.address, error, clock::now());
        }
        // There is room: see `start`.
        let _ = self.outcomes.push((order.token, result.map_err(|_| SaveFailed)));
        self.waker.wake();
    }
}

/// Initiators cause saves, and shall not be able to fill the log with their failures.
#[derive(Default)]
struct FailureLog {
    last: Option<Instant>,
    kept_back: u64,
}

impl FailureLog {
    fn failed(&mut self, address: Address, error: &dyn std::error::Error, now: Instant) {
        if let Some(text) = self.line(address, error, now) {
            log::error!("{text}");
        }
    }

    /// What to log, unless it is too soon.
    fn line(
        &mut self,
        address: Address,
        error: &dyn std::error::Error,
        now: Instant,
    ) -> Option<String> {
        if self.last.is_some_and(|last| now.since(last) < LOG_INTERVAL) {
            self.kept_back += 1;
            return None;
        }
        let mut text = std::format!("{address}: what an initiator set is refused: {error}");
        if let Some(source) = error.source() {
            text = text + ": " + &source.to_string();
        }
        if self.kept_back > 0 {
            // Writing to a string cannot fail.
            let _ = write!(text, " (and {} times more before)", self.kept_back);
        }
        self.last = Some(now);
        self.kept_back = 0;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_logged_once_a_second_and_the_rest_is_counted() {
        let mut log = FailureLog::default();
        let address = Address::new(7, 3);
        let at = |millis: u64| Instant::from_nanos(millis * 1_000_000);
        let mut line = |millis| log.line(address, &SaveFailed, at(millis));
        assert!(line(5).is_some_and(|text| text.starts_with("e7.3: ") && !text.contains("more")));
        assert_eq!(line(6), None);
        assert_eq!(line(1_004), None);
        assert!(line(1_005).is_some_and(|text| text.ends_with("(and 2 times more before)")));
        assert_eq!(line(1_006), None);
    }
}
