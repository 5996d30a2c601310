//! Where in the files of a store what is: read by hand, as `docs/formats.md` says.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What stands for kinds of frames.
pub(crate) const BLOCK: u8 = 1;
pub(crate) const NODE: u8 = 2;
pub(crate) const PACK_LIST: u8 = 4;

/// Octets of a frame before its payload.
pub(crate) const FRAME_HEADER: u64 = 56;
/// Octets of a footer.
pub(crate) const FOOTER: u64 = 64;

/// A frame, by the directory of its pack.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) pack: PathBuf,
    pub(crate) kind: u8,
    /// Of what is in it.
    pub(crate) name: [u8; 32],
    pub(crate) offset: u64,
    /// Octets of its payload.
    pub(crate) stored: u64,
}

/// A pack.
#[derive(Debug, Clone)]
pub(crate) struct Pack {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) directory_at: u64,
    pub(crate) frames: Vec<Frame>,
}

impl Pack {
    pub(crate) fn has_blocks(&self) -> bool {
        self.frames[0].kind == BLOCK
    }
}

fn u32_at(octets: &[u8], at: usize) -> u64 {
    u32::from_le_bytes(octets[at..at + 4].try_into().unwrap()).into()
}

pub(crate) fn u64_at(octets: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(octets[at..at + 8].try_into().unwrap())
}

/// All packs of a store, the one with the newest manifest last.
pub(crate) fn packs(store: &Path) -> Vec<Pack> {
    let mut packs = Vec::new();
    for shard in fs::read_dir(store).unwrap() {
        let shard = shard.unwrap();
        if !shard.file_type().unwrap().is_dir() || shard.file_name().len() != 2 {
            continue;
        }
        for blob in fs::read_dir(shard.path()).unwrap() {
            packs.push(pack(&blob.unwrap().path()));
        }
    }
    let newest = newest_root(store).pack;
    packs.sort_by_key(|pack| (pack.path == newest, pack.path.clone()));
    packs
}

fn pack(path: &Path) -> Pack {
    let octets = fs::read(path).unwrap();
    let footer = &octets[octets.len() - 64..];
    let (count, directory_at) = (u32_at(footer, 32), u32_at(footer, 36));
    let entry = |index: u64| {
        let entry = &octets[usize::try_from(directory_at + index * 48).unwrap()..][..48];
        Frame {
            pack: path.into(),
            kind: entry[44],
            name: entry[..32].try_into().unwrap(),
            offset: u32_at(entry, 32),
            stored: u32_at(entry, 36),
        }
    };
    let frames = (0..count).map(entry).collect();
    Pack { path: path.into(), bytes: octets.len() as u64, directory_at, frames }
}

/// What a root slot says.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    /// Where it is.
    pub(crate) at: u64,
    pub(crate) commit: u64,
    pub(crate) pack: PathBuf,
    /// The frame of the manifest.
    pub(crate) offset: u64,
}

pub(crate) fn roots_of(store: &Path) -> PathBuf {
    store.join("archive/roots")
}

pub(crate) fn newest_root(store: &Path) -> Root {
    let octets = fs::read(roots_of(store)).unwrap();
    let slots = [0, 4096].map(|at| {
        let slot = &octets[at..at + 4096];
        let mut name = [0; 32];
        name.copy_from_slice(&slot[56..88]);
        let name = aoe_server::blob::BlobId(name).to_string();
        Root {
            at: at as u64,
            commit: u64_at(slot, 48),
            pack: store.join(&name[..2]).join(&name),
            offset: u32_at(slot, 88),
        }
    });
    slots.into_iter().max_by_key(|slot| slot.commit).unwrap()
}

/// How long a journal is, by the first of its heads.
pub(crate) fn journal_bytes(heads: &[u8]) -> u64 {
    8192 + u64_at(heads, 32) * u32_at(heads, 40)
}

/// Flips a bit.
pub(crate) fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut octet = [0];
    file.read_exact_at(&mut octet, at).unwrap();
    file.write_all_at(&[octet[0] ^ 0x10], at).unwrap();
}

/// A copy of a directory and all that is in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
            // Blobs are for reading only; these are to be damaged.
            fs::set_permissions(&to, Permissions::from_mode(0o600)).unwrap();
        }
    }
}
