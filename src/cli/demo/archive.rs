//! The archive in the demonstration: two disks in one store, a snapshot, and the way back.

use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, ensure};

use super::{DEPTH, SIZE, line, noise, rate};
use crate::client::{Client, Disk, Range};
use crate::clock::now;
use crate::config::{CasConfig, CasContent, StorageConfig, StoreConfig, TargetConfig};
use crate::protocol::Address;
use crate::server::{Server, SnapshotExport};
use crate::storage::cas::CasStore;
use crate::units::{Lba, SECTOR_SIZE};

/// The disks in the store.
const DISKS: [Address; 2] = [Address::new(2, 0), Address::new(2, 1)];
/// Where the snapshot is served.
const OLD: Address = Address::new(2, 9);
const SNAPSHOT: &str = "before";

/// The targets in the store, which is in `directory`.
pub(super) fn targets(directory: &Path) -> Vec<TargetConfig> {
    let target = |address: Address| {
        let content = CasContent::Volume { name: address.to_string(), size: Some(SIZE) };
        let mut store = StoreConfig::new(directory.join("archive"));
        store.journal_bytes = Some(64 << 20);
        TargetConfig::new(address, StorageConfig::Cas(CasConfig { store, content }))
    };
    DISKS.into_iter().map(target).collect()
}

/// Writes both disks with the same, keeps the first as a snapshot, overwrites it, looks at the snapshot
/// beside it, and brings it back.
pub(super) fn show(
    server: &mut Server,
    client: &mut Client,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let stores = server.observer().stores().list();
    let (path, store) = stores.into_iter().next().context("the archive is not open")?;
    let [one, other] = DISKS;
    writeln!(out, "\nan archive with two disks, {one} and {other}")?;
    let content = noise();
    let opened = |client: &mut Client, address| client.open(address).context("a disk");
    let (first, second) = (opened(client, one)?, opened(client, other)?);

    let begin = now();
    write(client, &first, &content)?;
    rate(out, "wrote the first, durable", begin)?;
    let before = stored(&store)?;
    let begin = now();
    write(client, &second, &content)?;
    rate(out, "wrote the same to the second", begin)?;
    let after = stored(&store)?;
    ensure!(after - before < 1 << 20, "the same content takes {} octets more", after - before);
    #[expect(clippy::cast_precision_loss, reason = "a ratio is approximate")]
    let ratio = 2.0 * content.len() as f64 / after as f64;
    writeln!(out, "{:<34} {:>42}", "octets on the disks per octet stored", format!("{ratio:.2}"))?;

    let volume = one.to_string();
    let begin = now();
    store.create_snapshot(&volume, SNAPSHOT)?;
    line(out, &format!("made the snapshot {volume}@{SNAPSHOT}"), begin)?;
    let new: Vec<u8> = content.iter().map(|octet| !octet).collect();
    write(client, &first, &new)?;
    server.export_snapshot(SnapshotExport {
        address: OLD,
        store: path,
        volume: volume.clone(),
        snapshot: SNAPSHOT.into(),
        interfaces: Vec::new(),
    })?;
    let old = opened(client, OLD)?;
    let begin = now();
    ensure!(read(client, &old)? == content, "the snapshot is not what the disk was");
    rate(out, &format!("read the snapshot, served as {OLD}"), begin)?;
    ensure!(read(client, &first)? == new, "the disk beside it is not what was written");
    server.unexport(OLD)?;

    let begin = now();
    // The initiator that has just used the disk is this one, and knows.
    store.restore_snapshot(&volume, SNAPSHOT, true)?;
    line(out, "restored it", begin)?;
    ensure!(read(client, &first)? == content, "the disk is not what it was");
    Ok(())
}

/// Octets that the store takes when everything is in it.
fn stored(store: &CasStore) -> anyhow::Result<u64> {
    store.commit()?;
    Ok(store.info()?.stored_bytes)
}

fn range(disk: &Disk) -> Range<'_> {
    Range { disk, lba: Lba(0), count: SIZE, depth: DEPTH }
}

fn write(client: &mut Client, disk: &Disk, octets: &[u8]) -> anyhow::Result<()> {
    Ok(client.write(&range(disk), &mut &octets[..], &mut |_| ()).map(drop)?)
}

fn read(client: &mut Client, disk: &Disk) -> anyhow::Result<Vec<u8>> {
    let sectors = usize::try_from(SIZE.0).context("a disk that fits in memory")?;
    let mut octets = Vec::with_capacity(sectors * SECTOR_SIZE);
    client.read(&range(disk), &mut octets, &mut |_| ())?;
    Ok(octets)
}
