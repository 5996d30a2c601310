//! One disk over several paths, as Linux uses them: by turns through every interface of its own and
//! to every station that says to have the disk, and again through another when no answer comes.

use aoe_server::link::LinkKind;
use aoe_server::protocol::MacAddr;

use super::report::{Check, ensure};
use super::station::{Ask, GUARD, Reply, Station, pattern};
use crate::common::net::{MAC_A, Switch};
use crate::common::server::ServerProcess;

const MTU: usize = 9000;
/// Sectors that all writes go to.
const SECTORS: usize = 64;

/// An initiator with two interfaces, and a server with two.
struct Paths {
    server: ServerProcess,
    stations: Vec<Station>,
    servers: [MacAddr; 2],
    // It goes last.
    _switch: Switch,
}

/// One of four paths: which of the initiator's interfaces, and which of the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Path {
    station: usize,
    server: usize,
}

const PATHS: [Path; 4] = [
    Path { station: 0, server: 0 },
    Path { station: 1, server: 1 },
    Path { station: 0, server: 1 },
    Path { station: 1, server: 0 },
];

impl Paths {
    fn new(kind: LinkKind) -> Option<Self> {
        let switch = Switch::new(MTU, 2)?;
        let (second, mac) = switch.add_interface(MTU);
        let (shelf, slot) = GUARD;
        let server = ServerProcess::start(&format!(
            r#"
            [server]
            interfaces = ["{}", "{second}"]
            link = "{kind}"
            state_dir = "{{dir}}/state"
            probe_ms = 30

            [[target]]
            shelf = 7
            slot = 3
            backend = "file"
            path = "{{dir}}/disk.img"
            size = "1 MiB"

            [[target]]
            shelf = {shelf}
            slot = {slot}
            backend = "mem"
            size = "64 KiB"
            "#,
            switch.net.a
        ));
        let open = |(name, mac): &(String, MacAddr)| Station::open_on(name, *mac, MAC_A, false);
        let stations = switch.stations.iter().map(open).collect();
        Some(Self { server, stations, servers: [MAC_A, mac], _switch: switch })
    }

    /// The same request by a path, as from the station and to the server that the path has.
    fn along(&self, path: Path, ask: Ask) -> Ask {
        let to = self.servers[path.server];
        Ask { to, ..ask }.from(self.stations[path.station].mac)
    }

    fn write(&mut self, path: Path, lba: u64, data: &[u8]) -> Ask {
        let ask = self.stations[path.station].write(lba, data);
        self.along(path, ask)
    }

    /// Sends all at once, in order; checks that each is answered once, by the station that was
    /// asked, to the one that asked, and with success.
    fn ask_all(&mut self, asks: &[(Path, Ask)]) -> Result<Vec<Reply>, String> {
        for (path, ask) in asks {
            self.stations[path.station].send(&[ask.octets()])?;
        }
        let mut replies = vec![None; asks.len()];
        for (index, station) in self.stations.iter_mut().enumerate() {
            let ours = asks.iter().filter(|(path, _)| path.station == index).count();
            let answers = station.exchange(&[], ours)?;
            ensure!(answers.len() == ours, "{} answers to {ours}", answers.len());
            for answer in answers {
                let to_us = |(path, ask): &(Path, Ask)| {
                    path.station == index
                        && ask.tag == answer.tag()
                        && ask.to.0 == answer.source()
                        && ask.from.0 == answer.destination()
                };
                let at = asks.iter().position(to_us);
                let Some(at) = at else { return Err(format!("to no question: {answer:?}")) };
                ensure!(answer.succeeded(), "{answer:?}");
                ensure!(replies[at].replace(answer).is_none(), "{:?} answered twice", asks[at]);
            }
        }
        replies.into_iter().collect::<Option<_>>().ok_or_else(|| "no answer".into())
    }

    /// What the first sectors hold, which is the same by every path.
    fn content(&mut self) -> Result<Vec<u8>, String> {
        let mut asks = Vec::new();
        for path in PATHS {
            for lba in (0..SECTORS as u64).step_by(16) {
                let ask = self.stations[path.station].read(lba, 16);
                asks.push((path, self.along(path, ask)));
            }
        }
        let replies = self.ask_all(&asks)?;
        let contents: Vec<Vec<u8>> = replies
            .chunks(SECTORS / 16)
            .map(|parts| parts.iter().flat_map(Reply::data).copied().collect())
            .collect();
        ensure!(contents.iter().all(|content| *content == contents[0]), "paths differ");
        Ok(contents[0].clone())
    }
}

/// What is written by one path, and then again by another, is read by all.
fn one_disk(paths: &mut Paths) -> Check {
    for (number, path) in PATHS.into_iter().enumerate() {
        for (step, again) in PATHS.into_iter().enumerate() {
            let seed = u32::try_from(number * 8 + step).expect("small");
            let data = pattern(seed, 16);
            let at = 16 * step;
            let lba = at as u64;
            let first = paths.write(path, lba, &data);
            // Linux gives every transmission another tag.
            let copy = paths.write(again, lba, &data);
            paths.ask_all(&[(path, first), (again, copy)])?;
            let content = paths.content()?;
            ensure!(content[at * 512..(at + 16) * 512] == data, "written by {path:?}: other data");
        }
    }
    Ok(())
}

/// Writes by all paths to sectors that overlap, some of them twice and the second time by another
/// path. Of each path the order is kept, so that in the end a sector holds what one of the paths has
/// written to it last.
fn interleaved(paths: &mut Paths) -> Check {
    const WRITES: usize = 48;
    let mut seed = 0;
    for round in 0..12 {
        let mut asks = Vec::new();
        // For each path, for each sector, what was written last.
        let mut last = vec![vec![None; SECTORS]; PATHS.len()];
        let mut before = paths.content()?;
        for number in 0..WRITES {
            seed += 1;
            let count = 1 + (seed as usize * 7) % 16;
            let lba = (seed as usize * 29 + round) % (SECTORS - 15);
            let data = pattern(seed, count);
            let again = number % 5 == 0;
            for lane in
                [number % 4, (number + 1 + round % 3) % 4].into_iter().take(1 + usize::from(again))
            {
                let write = paths.write(PATHS[lane], lba as u64, &data);
                asks.push((PATHS[lane], write));
                for (offset, sector) in data.chunks(512).enumerate() {
                    last[lane][lba + offset] = Some(sector.to_vec());
                }
            }
        }
        paths.ask_all(&asks)?;
        let after = paths.content()?;
        for (at, sector) in after.chunks(512).enumerate() {
            let old = before.split_off(512);
            let untouched = last.iter().all(|lane| lane[at].is_none());
            let right = if untouched {
                before == sector
            } else {
                last.iter().any(|lane| lane[at].as_deref() == Some(sector))
            };
            ensure!(right, "round {round}: sector {at} holds what nobody wrote last");
            before = old;
        }
    }
    Ok(())
}

fn several_paths(kind: LinkKind) {
    let Some(mut paths) = Paths::new(kind) else { return };
    let result = one_disk(&mut paths).and_then(|()| interleaved(&mut paths));
    let status = paths.server.terminate();
    assert!(result.is_ok() && status.success(), "{result:?}\n{}", paths.server.log());
}

#[test]
fn several_paths_lead_to_one_disk_over_pcap() {
    several_paths(LinkKind::Pcap);
}

#[test]
fn several_paths_lead_to_one_disk_over_af_packet() {
    several_paths(LinkKind::AfPacket);
}
