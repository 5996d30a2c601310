//! What a running server serves, and how that goes, as JSON.

use serde_json::{Value, json};

use crate::config::{CasContent, StorageConfig};
use crate::engine::{EngineCounters, TargetCounters};
use crate::link::{LinkCounters, LinkInfo};
use crate::server::{LinkStatus, Observer, ServedTarget, Status, TargetStatus};

/// All of it.
pub(super) fn status(observer: &Observer) -> Value {
    let status = observer.status();
    let targets = observer.targets();
    let targets = targets.iter().map(|served| target(served, &status));
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "targets": targets.collect::<Vec<_>>(),
        "links": status.links.iter().map(link).collect::<Vec<_>>(),
        "unserved": unserved(&status.engine),
        "stores": stores(observer),
    })
}

/// The archives that are open.
#[cfg(feature = "cas")]
pub(super) fn stores(observer: &Observer) -> Vec<Value> {
    let stores = observer.stores().list();
    let infos = stores.into_iter().map(|(path, store)| match store.info() {
        Ok(info) => super::perform::info(&info),
        Err(error) => json!({
            "path": path.display().to_string(),
            "state": "failing",
            "failing": super::answer::message_of(&error),
        }),
    });
    infos.collect()
}

/// The archives that are open: none in this build.
#[cfg(not(feature = "cas"))]
pub(super) fn stores(_: &Observer) -> Vec<Value> {
    Vec::new()
}

fn target(served: &ServedTarget, status: &Status) -> Value {
    let config = &served.config;
    let (volume, snapshot) = match &config.storage {
        StorageConfig::Cas(cas) => match &cas.content {
            CasContent::Volume { name, .. } => (Some(name), None),
            CasContent::Snapshot { volume, name } => (Some(volume), Some(name)),
        },
        _ => (None, None),
    };
    // The loop publishes some times a second: a target that is new has nothing to tell yet.
    let live = status.targets.iter().find(|target| target.address == config.address);
    json!({
        "target": format!("{}", config.address),
        "backend": config.storage.backend(),
        "path": config.storage.path().map(|path| path.display().to_string()),
        "volume": volume,
        "snapshot": snapshot,
        "exported": served.exported,
        "read_only": config.read_only,
        "interfaces": config.interfaces,
        "buffer_count": config.buffer_count,
        "size": live.and_then(|live| live.size.bytes()),
        "held": live.map(|live| live.held),
        "parked": live.map(|live| live.parked),
        "dropped": live.map(|live| live.dropped),
        "counters": live.map(counters),
    })
}

fn counters(target: &TargetStatus) -> Value {
    // Taken apart, so that a counter that is added cannot be forgotten here.
    let TargetCounters {
        answered,
        reads,
        sectors_read,
        writes,
        sectors_written,
        flushes,
        config_queries,
        ata_errors,
        aoe_errors,
        refused_reserved,
        unheard,
        malformed,
        parked,
    } = target.counters;
    json!({
        "answered": answered,
        "reads": reads,
        "sectors_read": sectors_read,
        "writes": writes,
        "sectors_written": sectors_written,
        "flushes": flushes,
        "config_queries": config_queries,
        "ata_errors": ata_errors,
        "aoe_errors": aoe_errors,
        "refused_reserved": refused_reserved,
        "unheard": unheard,
        "malformed": malformed,
        "parked": parked,
    })
}

fn link(link: &LinkStatus) -> Value {
    let LinkStatus { name, info, counters, given_up, shed } = link;
    let LinkInfo { mac, mtu, up } = info;
    let LinkCounters { received, sent, dropped, unsendable } = counters;
    json!({
        "interface": name.as_ref(),
        "mac": format!("{mac}"),
        "mtu": mtu,
        "up": up,
        "received": received,
        "sent": sent,
        "dropped": dropped,
        "unsendable": unsendable,
        "given_up": given_up,
        "shed": shed,
    })
}

fn unserved(engine: &EngineCounters) -> Value {
    let EngineCounters { frames, malformed, not_aoe, responses, other_station, other_target } =
        engine;
    json!({
        "frames": frames,
        "malformed": malformed,
        "not_aoe": not_aoe,
        "responses": responses,
        "other_station": other_station,
        "other_target": other_target,
    })
}
