//! What a journal of image files holds: which images there are, and what was written to them.
//!
//! An image has a number that no other image of the journal ever gets. Its entry comes before the
//! first write to it in every segment, so that old segments can be given up without a thought.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::format::Reader;

/// Tells the images of one journal apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageNumber(pub u64);

impl fmt::Display for ImageNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

const IMAGE: u8 = 1;
const WRITE: u8 = 2;
const ZEROS: u8 = 3;
const CLOSED: u8 = 4;
const MARKED: u8 = 1;
/// Octets of an entry before what is written, or an image's path.
pub(super) const HEADER: usize = 32;

/// An entry of a journal of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ImageEntry<'a> {
    /// An image is being written to.
    Image {
        image: ImageNumber,
        /// It carries the journal's mark, and has to be taken for another if it does not.
        marked: bool,
        path: &'a Path,
    },
    /// Octets were written to it.
    Write { image: ImageNumber, offset: u64, data: &'a [u8] },
    /// A range of it was made zeros.
    Zeros { image: ImageNumber, offset: u64, len: u64 },
    /// It was closed, and has everything that was written to it.
    Closed { image: ImageNumber },
}

impl<'a> ImageEntry<'a> {
    /// The image that it is about.
    pub(super) fn image(&self) -> ImageNumber {
        let (Self::Image { image, .. }
        | Self::Write { image, .. }
        | Self::Zeros { image, .. }
        | Self::Closed { image }) = *self;
        image
    }

    /// The entry, in two parts. `header` is room for the first.
    pub(super) fn emit<'b>(&self, header: &'b mut [u8; HEADER]) -> [&'b [u8]; 2]
    where
        'a: 'b,
    {
        let (kind, flags, image, offset, len, rest): (_, _, _, _, _, &[u8]) = match *self {
            Self::Image { image, marked, path } => {
                (IMAGE, u8::from(marked) * MARKED, image, 0, 0, path.as_os_str().as_bytes())
            }
            Self::Write { image, offset, data } => (WRITE, 0, image, offset, 0, data),
            Self::Zeros { image, offset, len } => (ZEROS, 0, image, offset, len, &[]),
            Self::Closed { image } => (CLOSED, 0, image, 0, 0, &[]),
        };
        *header = [0; HEADER];
        header[0] = kind;
        header[1] = flags;
        header[8..16].copy_from_slice(&image.0.to_le_bytes());
        header[16..24].copy_from_slice(&offset.to_le_bytes());
        header[24..].copy_from_slice(&len.to_le_bytes());
        [header, rest]
    }

    /// `None` when it is not an entry of this kind of journal.
    pub(super) fn parse(entry: &'a [u8]) -> Option<Self> {
        let (octets, rest) = entry.split_first_chunk::<HEADER>()?;
        let mut reader = Reader(octets);
        let [kind, flags, ..] = reader.array::<8>();
        let image = ImageNumber(u64::from_le_bytes(reader.array()));
        let offset = u64::from_le_bytes(reader.array());
        let len = u64::from_le_bytes(reader.array());
        let parsed = match kind {
            IMAGE => {
                let path = Path::new(OsStr::from_bytes(rest));
                Self::Image { image, marked: flags & MARKED != 0, path }
            }
            WRITE => Self::Write { image, offset, data: rest },
            ZEROS => Self::Zeros { image, offset, len },
            CLOSED => Self::Closed { image },
            _ => return None,
        };
        // Each has one form: nothing is skipped that a later program may have meant.
        let mut header = [0; HEADER];
        let [_, tail] = parsed.emit(&mut header);
        let same = tail.len() == rest.len();
        (same && header == *octets).then_some(parsed)
    }
}
