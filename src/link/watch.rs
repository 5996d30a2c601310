//! What a live link has to know of its interface, and when that changes.

use core::mem;
use std::string::ToString;

use super::interface::{OpenError, Probe, State, probe};
use super::{LinkEvent, LinkInfo, MAX_MTU};

/// Keeps an eye on the interface of a live link, and tells each change once.
#[derive(Debug)]
pub(super) struct Watch {
    probe: Probe,
    info: LinkInfo,
    /// What the last event said.
    reported_up: bool,
    /// The link was down since the last look, though it may be up again.
    interrupted: bool,
}

impl Watch {
    /// Starts watching the interface called `name`.
    pub(super) fn open(name: &str) -> Result<(Self, State), OpenError> {
        let (probe, state) = probe(name)?;
        if !state.ethernet {
            return Err(OpenError::NotEthernet { interface: name.to_string() });
        }
        let info = LinkInfo { mac: state.mac, mtu: state.mtu.min(MAX_MTU), up: state.up };
        Ok((Self { probe, info, reported_up: state.up, interrupted: false }, state))
    }

    /// The interface's name.
    pub(super) fn name(&self) -> &str {
        self.probe.name()
    }

    /// Address, MTU and state as last seen.
    pub(super) fn info(&self) -> LinkInfo {
        self.info
    }

    /// The interface as it is now; `None` when it is gone.
    pub(super) fn look(&self) -> Option<State> {
        // Asking a socket of our own fails only for want of memory: better luck next time.
        self.probe.state().ok().flatten()
    }

    /// Notes that moving frames failed since the interface is down.
    pub(super) fn interrupt(&mut self) {
        self.info.up = false;
        self.interrupted = true;
    }

    /// Takes in what [`Self::look`] saw, and tells what is new. `attached` says whether the link
    /// can move frames through that very interface.
    pub(super) fn settle(&mut self, seen: Option<State>, attached: bool) -> Option<LinkEvent> {
        let before = self.info;
        if let Some(state) = seen {
            self.info.mac = state.mac;
            self.info.mtu = state.mtu.min(MAX_MTU);
        }
        self.info.up = attached && seen.is_some_and(|state| state.up);
        let interrupted = mem::take(&mut self.interrupted);
        match (self.reported_up, self.info.up) {
            (true, false) => {
                self.reported_up = false;
                Some(LinkEvent::Down)
            }
            (false, true) => {
                self.reported_up = true;
                Some(LinkEvent::Up)
            }
            (true, true) if interrupted => Some(LinkEvent::Up),
            (true, true) if (before.mac, before.mtu) != (self.info.mac, self.info.mtu) => {
                Some(LinkEvent::Changed)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::MacAddr;

    #[test]
    fn every_change_is_told_once() {
        let seen = State {
            index: 7,
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            up: true,
            ethernet: true,
        };
        let probe = Probe::new("lo").unwrap().unwrap();
        let info = LinkInfo { mac: seen.mac, mtu: 1500, up: true };
        let mut watch = Watch { probe, info, reported_up: true, interrupted: false };
        assert_eq!(watch.settle(Some(seen), true), None);
        assert_eq!(watch.settle(None, true), Some(LinkEvent::Down));
        assert_eq!(watch.settle(None, true), None);
        assert_eq!(watch.settle(Some(seen), false), None, "not attached is not up");
        assert_eq!(watch.settle(Some(seen), true), Some(LinkEvent::Up));
        let jumbo = State { mtu: 65_536, ..seen };
        assert_eq!(watch.settle(Some(jumbo), true), Some(LinkEvent::Changed));
        assert_eq!(watch.info().mtu, MAX_MTU);
        assert_eq!(watch.settle(Some(jumbo), true), None);
        watch.interrupt();
        assert!(!watch.info().up);
        assert_eq!(watch.settle(Some(jumbo), true), Some(LinkEvent::Up), "down and up unseen");
        watch.interrupt();
        assert_eq!(watch.settle(Some(State { up: false, ..jumbo }), true), Some(LinkEvent::Down));
        assert_eq!(watch.settle(Some(jumbo), true), Some(LinkEvent::Up));
        assert_eq!(watch.settle(Some(jumbo), true), None);
    }
}
