//! Targets that come and go while the loop runs, and what is told to the segment about them.

use std::sync::TryLockError;

use super::control::{LinkStatus, Order, TargetStatus};
use super::listener::{Backend, LOG_INTERVAL, Listener, Served};
use super::pending::{ParkedPool, Pending};
use super::probe::{Admission, Candidate, PortSet, question};
use crate::clock::Instant;
use crate::engine::{Export, TargetId};
use crate::link::Link;
use crate::protocol::Address;
use crate::storage::BlockStorage;

impl<L: Link> Listener<L> {
    /// Carries out an order.
    pub(super) fn obey(&mut self, order: Order) {
        match order {
            Order::Add { export, answer, .. } if self.stopping => {
                // Who asked may have gone.
                let _ = answer.send((Admission::Stopping, Some(*export)));
            }
            Order::Add { export, ports, probe, answer } => {
                self.candidates.push(Candidate::new(*export, ports, answer, probe));
            }
            Order::Remove { address, answer } => {
                let Some(id) = self.engine.find(address) else {
                    let _ = answer.send(None); // who asked may have gone
                    return;
                };
                let entry = &mut self.served[id.0];
                if entry.leaving.is_some() {
                    let _ = answer.send(None); // it goes to who asked first
                    return;
                }
                entry.leaving = Some(answer);
                if !entry.active {
                    self.release(id);
                }
            }
            Order::Adjust { address, buffer_count, allow, ports } => {
                let Some(id) = self.engine.find(address) else { return };
                let entry = &mut self.served[id.0];
                entry.ports = ports;
                entry.pool.grow(buffer_count);
                entry.pending.grow(entry.pool.capacity());
                if let Some(export) = self.engine.export_mut(id) {
                    export.target.adjust(buffer_count, *allow);
                }
                self.announce(id);
            }
            Order::Refresh { address } => {
                let Some(id) = self.engine.find(address) else { return };
                let changed = self.engine.export_mut(id).is_some_and(|e| e.storage.refresh());
                if changed {
                    self.announce(id);
                }
            }
            Order::Idle(idle) => self.idle = idle,
            Order::Stop => {
                self.stopping = true;
                // Nothing is received any more, so that no claim could be heard.
                for Candidate { export, answer, .. } in self.candidates.drain(..) {
                    let _ = answer.send((Admission::Stopping, Some(export)));
                }
            }
        }
    }

    /// Asks for the addresses of candidates, and serves those that nobody else has.
    pub(super) fn probe(&mut self, now: Instant) {
        let mut index = 0;
        while let Some(candidate) = self.candidates.get_mut(index) {
            if candidate.asks(now) {
                let (address, ports) = (candidate.address(), candidate.ports);
                self.ask(address, ports);
            } else if candidate.is_decided(now) {
                let candidate = self.candidates.swap_remove(index);
                self.admit(candidate);
                continue;
            }
            index += 1;
        }
    }

    /// Asks on `ports` who serves `address`.
    fn ask(&mut self, address: Address, ports: PortSet) {
        for (index, port) in self.ports.iter_mut().enumerate() {
            if ports.contains(index) && port.is_up() && port.out.has_room() {
                let facts = port.out.facts();
                port.out.build(|buffer| (question(address, facts, buffer), ()));
            }
        }
    }

    /// Serves a candidate, or hands it back.
    fn admit(&mut self, candidate: Candidate) {
        let Candidate { export, ports, answer, claimed, .. } = candidate;
        let (admission, export) = match claimed {
            Some((mac, port)) => {
                let link = self.ports[port].name.to_string();
                (Admission::Claimed { mac, link }, Some(export))
            }
            None => self.add(export, ports),
        };
        let _ = answer.send((admission, export)); // who asked may have gone
    }

    fn add(
        &mut self,
        export: Export<Backend>,
        ports: PortSet,
    ) -> (Admission, Option<Export<Backend>>) {
        let pool = ParkedPool::new(export.target.profile().buffer_count);
        if let Err(taken) = self.engine.change(|exports| exports.push(export)) {
            let undone = self.engine.change(Vec::pop);
            return (Admission::AddressTaken(taken), undone.unwrap_or_default());
        }
        let id = TargetId(self.served.len());
        let pending = Pending::new(pool.capacity());
        self.served.push(Served { ports, pending, pool, active: false, leaving: None });
        // So that marking a target as active never allocates.
        self.active.reserve(self.served.len() - self.active.len());
        self.announce(id);
        (Admission::Served, None)
    }

    /// Takes a target off and hands it to who asked for it. It has nothing pending.
    pub(super) fn release(&mut self, id: TargetId) {
        let entry = self.served.remove(id.0);
        // Fewer targets cannot collide.
        let export = self.engine.change(|exports| exports.remove(id.0)).ok();
        // Later targets have moved up. Their order stays, or a wildcard that is being answered would
        // miss some of them, or reach them twice.
        for active in self.active.iter_mut().filter(|active| **active > id) {
            active.0 -= 1;
        }
        for port in &mut self.ports {
            port.target_removed(id);
        }
        if let Some(leaving) = entry.leaving {
            let _ = leaving.send(export); // who asked may have gone
        }
    }

    /// Tells who should know that a target is there, on all of its links.
    fn announce(&mut self, id: TargetId) {
        for port in 0..self.ports.len() {
            self.announce_on(id, port);
        }
    }

    /// A lost announcement costs an initiator the wait for its next query, so that one for which
    /// the wire has no room is left out.
    fn announce_on(&mut self, id: TargetId, index: usize) {
        let Some(Export { target, .. }) = self.engine.exports().get(id.0) else { return };
        let port = &mut self.ports[index];
        if !self.served[id.0].ports.contains(index) || !port.is_up() {
            return;
        }
        let facts = port.out.facts();
        for station in target.audience() {
            if port.out.has_room() {
                port.out.build(|buffer| (target.advertise(facts, station, buffer), ()));
            }
        }
    }

    /// Logs frames that were lost since nobody fetched them: each stalls a Linux initiator.
    fn tell_drops(&mut self, index: usize, now: Instant) {
        let port = &mut self.ports[index];
        let dropped = port.check_drops();
        let lost = dropped.saturating_sub(port.dropped_logged);
        let tell = |name: &str| {
            log::warn!("{name}: the kernel dropped {lost} frames; raise receive_buffer");
        };
        if lost > 0 && self.log_rarely(now, tell, index) {
            self.ports[index].dropped_logged = dropped;
        }
    }

    /// Logs requests that were dropped since their target is stuck.
    fn tell_stuck(&mut self, now: Instant) {
        for (served, Export { target, .. }) in self.served.iter_mut().zip(self.engine.exports()) {
            let pool = &mut served.pool;
            let lost = pool.dropped - pool.dropped_logged;
            if lost > 0 && now >= self.next_log {
                self.next_log = now.after(LOG_INTERVAL);
                pool.dropped_logged = pool.dropped;
                let (address, parked) = (target.address(), served.pending.parked.len());
                log::error!(
                    "{address}: its disk does not answer: {parked} requests wait for it, and \
                     {lost} more were dropped"
                );
            }
        }
    }

    /// Looks after links and disks, and publishes the state.
    pub(super) fn look_around(&mut self, now: Instant) {
        self.tell_stuck(now);
        for index in 0..self.ports.len() {
            self.tell_drops(index, now);
            if self.ports[index].check() {
                for target in 0..self.served.len() {
                    self.announce_on(TargetId(target), index);
                    // While the link was away somebody else may have taken the address.
                    if self.served[target].ports.contains(index) {
                        let address = self.engine.exports()[target].target.address();
                        self.ask(address, PortSet::of([index]));
                    }
                }
            }
        }
        self.attend();
        self.publish();
    }

    /// Asks the disks for news that nothing is asked of; every turn sees to the others.
    pub(super) fn attend(&mut self) {
        for (index, served) in self.served.iter().enumerate() {
            if let Some(export) = self.engine.export_mut(TargetId(index)).filter(|_| !served.active)
            {
                export.storage.progress();
            }
        }
    }

    fn publish(&mut self) {
        // Whoever reads holds it for a moment; the next time will do.
        let mut status = match self.published.try_lock() {
            Ok(status) => status,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        status.engine = *self.engine.counters();
        status.links.clear();
        status.links.extend(self.ports.iter_mut().map(|port| LinkStatus {
            name: std::sync::Arc::clone(&port.name),
            info: port.out.link.info(),
            counters: port.out.link.counters(),
            given_up: port.out.given_up,
            shed: port.out.shed(),
        }));
        status.targets.clear();
        let exports = self.engine.exports().iter().zip(&self.served);
        status.targets.extend(exports.map(|(Export { target, storage }, served)| TargetStatus {
            address: target.address(),
            size: storage.info().size,
            counters: *target.counters(),
            held: served.pending.applied.len() + served.pending.durable.len(),
            parked: served.pending.parked.len(),
            dropped: served.pool.dropped,
        }));
    }
}
