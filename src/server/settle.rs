//! Settling what waited: replies whose ticket is reached, requests worth trying again, settings
//! that were saved.

use super::listener::{Backend, Handled, Holding, Listener, Served, answer};
use super::pending::HeldQueue;
use super::port::PortState;
use crate::engine::{Engine, Export, TargetId, fail_reply, refuse_reply};
use crate::link::Link;
use crate::protocol::AoeError;
use crate::storage::{BlockStorage, Ticket};

use super::listener::Saving;

impl<L: Link> Listener<L> {
    /// Settles what can be; tells whether anything could.
    pub(super) fn settle(&mut self) -> bool {
        let mut busy = self.settle_saving();
        let mut index = 0;
        while let Some(&id) = self.active.get(index) {
            busy |= self.settle_target(id);
            let entry = &mut self.served[id.0];
            if !entry.pending.is_idle() {
                index += 1;
                continue;
            }
            entry.active = false;
            self.active.swap_remove(index);
            if entry.leaving.is_some() {
                self.release(id);
                busy = true;
            }
        }
        busy
    }

    fn settle_target(&mut self, id: TargetId) -> bool {
        let Self { engine, served, ports, saving, .. } = self;
        let Some(Export { storage, .. }) = engine.export_mut(id) else { return false };
        let entry = &mut served[id.0];
        let pending = &mut entry.pending;
        let progress = storage.progress();
        let (applied, durable) = (storage.applied(), storage.durable());
        // `applied` first: outcomes are asked for in the order of tickets.
        let mut busy = progress;
        busy |= release_held(&mut pending.applied, applied, storage, ports);
        busy |= release_held(&mut pending.durable, durable, storage, ports);
        pending.retry |= progress;
        // Without room to hold a reply none of them could be answered.
        if pending.retry && pending.can_hold() {
            pending.retry = false;
            busy |= retry_parked(engine, id, entry, ports, saving.as_mut());
            // What was tried again may have begun reads, and the loop may sleep after this.
            if engine.export_mut(id).is_some_and(|export| export.storage.progress()) {
                entry.pending.retry = true;
                busy = true;
            }
        }
        busy
    }

    /// Sends the reply that announces changed settings when they are durable, or else a refusal.
    fn settle_saving(&mut self) -> bool {
        let Some(saving) = &mut self.saving else { return false };
        let Some(address) = saving.address else { return false };
        if !self.ports[saving.port].out.has_room() {
            return false;
        }
        let Some((_, result)) = saving.saver.take_result() else { return false };
        saving.address = None;
        // Requests that wait for that, the target's own or those of others, have an active target.
        for id in &self.active {
            self.served[id.0].pending.retry = true;
        }
        // It is still there: a target is not released while its settings are being saved.
        let Some(id) = self.engine.find(address) else { return true };
        self.served[id.0].pending.saving = false;
        let Some(Export { target, .. }) = self.engine.export_mut(id) else { return true };
        let mut len = saving.len;
        if result.is_ok() {
            target.apply_staged();
        } else {
            target.abandon_staged();
            // The saver has logged why.
            len = refuse_reply(&mut saving.reply[..len], AoeError::DEVICE_UNAVAILABLE);
        }
        self.ports[saving.port].out.push(&saving.reply[..len]);
        true
    }
}

/// Sends the replies whose ticket is reached, as failures where storage says so.
fn release_held<L: Link>(
    queue: &mut HeldQueue,
    reached: Ticket,
    storage: &mut Backend,
    ports: &mut [PortState<L>],
) -> bool {
    let mut busy = false;
    while let Some(held) = queue.front(reached) {
        let out = &mut ports[held.port].out;
        if !out.has_room() {
            break;
        }
        let outcome = storage.outcome(held.ticket);
        out.build(|buffer| {
            let reply = &mut buffer[..held.reply.len()];
            reply.copy_from_slice(&held.reply);
            if let Err(fault) = outcome {
                fail_reply(reply, fault);
            }
            (Some(reply.len()), ())
        });
        queue.pop();
        busy = true;
    }
    busy
}

/// Tries requests again, in the order they came; what still waits keeps its place.
fn retry_parked<L: Link>(
    engine: &mut Engine<Vec<Export<Backend>>>,
    id: TargetId,
    entry: &mut Served,
    ports: &mut [PortState<L>],
    mut saving: Option<&mut Saving>,
) -> bool {
    let Served { pending, pool, .. } = entry;
    let mut busy = false;
    let mut ordered_waits = false;
    for _ in 0..pending.parked.len() {
        let Some(place) = pending.parked.pop_front() else { break };
        let facts = ports[place.port].out.facts();
        let out = &mut ports[place.port].out;
        let outcome = if place.ordered && ordered_waits {
            Handled::Park
        } else if !out.has_room() || !pending.can_hold() {
            // Storage has said what it had to say: nobody else would ask for another try.
            pending.retry = true;
            Handled::Park
        } else if let Some(request) = engine.accept(pool.frame(place), facts) {
            let saving = saving.as_deref_mut();
            answer(engine, id, &request, place.port, out, Holding { pending, saving })
        } else {
            Handled::Done // the link has another address by now: nobody would know the reply
        };
        match outcome {
            Handled::Park => {
                ordered_waits |= place.ordered;
                pending.parked.push_back(place);
            }
            Handled::Done => {
                pending.ordered -= usize::from(place.ordered);
                pool.release(place);
                busy = true;
            }
        }
    }
    busy
}
