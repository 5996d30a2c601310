//! `image`: images, the journal that may have writes which they lack, and archives as their other home.

#[cfg(feature = "cas")]
mod archive;
#[cfg(feature = "cas")]
mod export;
#[cfg(feature = "cas")]
mod import;

use std::fmt::Write as _;
use std::format;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::client_output::octets;
use super::{COULD_NOT_TELL, NO, complain};
use crate::storage::journal::{JournalError, PendingImage, Recovery, Replayed};

/// Work on image files, and copy them into archives and back
#[derive(Debug, clap::Args)]
pub(super) struct ImageCmd {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Recover(RecoverCmd),
    #[cfg(feature = "cas")]
    Import(import::ImportCmd),
    #[cfg(feature = "cas")]
    Export(export::ExportCmd),
}

impl ImageCmd {
    /// Runs the command, as its verb says.
    ///
    /// # Errors
    /// When `out` cannot be written to, or an argument is wrong.
    pub(super) fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        match &self.verb {
            Verb::Recover(command) => command.run(out),
            #[cfg(feature = "cas")]
            Verb::Import(command) => command.run(out),
            #[cfg(feature = "cas")]
            Verb::Export(command) => command.run(out),
        }
    }
}

/// Bring what a journal has into the images it is for, so that they can be used without it
///
/// A server does so itself when it starts with the journal; this is for when there is none to start,
/// or it refuses to. It can be repeated. Exits with 1 when something is damaged or an image is not
/// there or not what it was, and nothing is changed then; with 2 when the journal or an image is in use
/// or cannot be read.
#[derive(Debug, clap::Args)]
struct RecoverCmd {
    /// The journal
    journal: PathBuf,
    /// Images that are to be usable without the journal even if it has nothing for them, and so does
    /// not know them
    #[arg(value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
    /// Give up what is to be written to this image; may be given several times
    #[arg(long, value_name = "IMAGE")]
    forget: Vec<PathBuf>,
    /// Do without what is damaged, and bring in the rest
    #[arg(long)]
    accept_loss: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is to become of an image.
enum Fate {
    /// It can be, or was, brought up to date.
    Good,
    /// Its writes are given up.
    Forgotten,
    /// Its writes are for an image whose name is damaged.
    Nameless,
    /// It cannot be brought up to date.
    Refused(JournalError),
}

impl RecoverCmd {
    fn run(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let mut recovery = match Recovery::open(&self.journal) {
            Ok(recovery) => recovery,
            Err(JournalError::NotFound { .. }) if !self.forget.is_empty() && !self.dry_run => {
                return self.forget_without(out);
            }
            Err(error @ JournalError::NotFound { .. }) => {
                let code = refused(error);
                for image in &self.images {
                    let (journal, image) = (self.journal.clone(), image.clone());
                    complain(&JournalError::JournalReplaced { journal, image }.into());
                }
                return Ok(code);
            }
            Err(error) => return Ok(refused(error)),
        };
        let (forget, others) = self.forgotten(&recovery)?;
        let pending = recovery.pending().to_vec();
        let lost = recovery.lost().to_vec();
        if self.dry_run {
            let fates: Vec<_> =
                pending.iter().map(|image| fate(&recovery, image, &forget)).collect();
            self.tell(out, &recovery, &pending, &fates, None)?;
            return Ok(self.prospect(&fates, !lost.is_empty()));
        }
        let replayed = match recovery.replay(&forget, self.accept_loss) {
            Ok(replayed) => replayed,
            Err(error) => return Ok(refused(error)),
        };
        let fates: Vec<_> = pending.iter().map(|image| replayed_fate(image, &forget)).collect();
        self.tell(out, &recovery, &pending, &fates, Some((replayed, &lost)))?;
        Ok(self.release(&recovery, &others))
    }

    /// The images to be forgotten: those that the journal has something for, as it names them, and
    /// others.
    fn forgotten(&self, recovery: &Recovery) -> anyhow::Result<(Vec<PathBuf>, Vec<&Path>)> {
        let (mut known, mut others) = (Vec::new(), Vec::new());
        for given in &self.forget {
            match recovery.pending_at(given) {
                Some(image) => known.push(image.path.clone()),
                None if recovery.pending().is_empty() => others.push(given.as_path()),
                // Rather than replay onto an image that was misspelt.
                None => anyhow::bail!(
                    "journal {} has nothing for image {}; --dry-run tells what it has",
                    self.journal.display(),
                    given.display()
                ),
            }
        }
        Ok((known, others))
    }

    /// The exit code that the same without `--dry-run` would have.
    fn prospect(&self, fates: &[Fate], damaged: bool) -> ExitCode {
        let damaged = damaged || fates.iter().any(|fate| matches!(fate, Fate::Nameless));
        let mut code = if damaged && !self.accept_loss { NO } else { 0 };
        for fate in fates {
            if let Fate::Refused(error) = fate {
                code = code.max(code_of(error));
            }
        }
        ExitCode::from(code)
    }

    /// Takes the journal's mark from the images that were named to be free of it, and from those to be
    /// forgotten that it has nothing for.
    fn release(&self, recovery: &Recovery, forgotten: &[&Path]) -> ExitCode {
        let mut worst = 0;
        let mut note = |result: Result<bool, JournalError>| {
            if let Err(error) = result {
                worst = worst.max(code_of(&error));
                complain(&error.into());
            }
        };
        for image in &self.images {
            note(recovery.unmark(image));
        }
        for image in forgotten {
            note(match recovery.unmark(image) {
                Err(JournalError::JournalReplaced { .. }) => {
                    Recovery::forget_without(&self.journal, image)
                }
                result => result,
            });
        }
        ExitCode::from(worst)
    }

    /// Without the journal there is nothing to replay, but images may be freed of it.
    fn forget_without(&self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let mut worst = 0;
        for image in &self.forget {
            match Recovery::forget_without(&self.journal, image) {
                Ok(_) if self.json => {}
                Ok(true) => writeln!(out, "{}: given up what it lacks", image.display())?,
                Ok(false) => writeln!(out, "{}: needs no journal", image.display())?,
                Err(error) => {
                    worst = worst.max(code_of(&error));
                    complain(&error.into());
                }
            }
        }
        if self.json {
            writeln!(out, "{}", json!({ "journal": name(&self.journal), "images": [] }))?;
        }
        Ok(ExitCode::from(worst))
    }

    fn tell(
        &self,
        out: &mut impl Write,
        recovery: &Recovery,
        pending: &[PendingImage],
        fates: &[Fate],
        done: Option<(Replayed, &[std::ops::RangeInclusive<u64>])>,
    ) -> anyhow::Result<()> {
        let lost = done.map_or(recovery.lost(), |(_, lost)| lost);
        if self.json {
            let images: Vec<_> =
                pending.iter().zip(fates).map(|(image, fate)| json_of(image, fate)).collect();
            let line = json!({
                "journal": name(&self.journal),
                "id": format!("{}", recovery.id()),
                "dry_run": self.dry_run,
                "lost": lost.iter().map(|lost| [*lost.start(), *lost.end()]).collect::<Vec<_>>(),
                "images": images,
                "replayed": done.map(|(done, _)| json!({
                    "images": done.images, "writes": done.writes, "bytes": done.bytes,
                })),
            });
            writeln!(out, "{line}")?;
            return Ok(());
        }
        for lost in lost {
            let (first, last) = (lost.start(), lost.end());
            writeln!(out, "damaged: what has the sequence numbers {first} to {last} is lost")?;
        }
        for (image, fate) in pending.iter().zip(fates) {
            let what = match fate {
                Fate::Good if self.dry_run => "can be brought in",
                Fate::Good => "brought in",
                Fate::Forgotten => "given up",
                Fate::Nameless => "lost with the image's name",
                Fate::Refused(_) => "cannot be brought in:",
            };
            let (path, writes, size) = (named(image), image.writes, octets(image.bytes.into()));
            write!(out, "{path}: {writes} writes, {size}, {what}")?;
            match fate {
                Fate::Refused(error) => writeln!(out, " {}", with_causes(error))?,
                _ => writeln!(out)?,
            }
        }
        let journal = self.journal.display();
        match done {
            None if pending.is_empty() => writeln!(out, "journal {journal}: nothing to do")?,
            None => {}
            Some(_) => writeln!(out, "journal {journal}: nothing is in it any more")?,
        }
        Ok(())
    }
}

/// What would become of an image.
fn fate(recovery: &Recovery, image: &PendingImage, forget: &[PathBuf]) -> Fate {
    match replayed_fate(image, forget) {
        Fate::Good => match recovery.check(image) {
            Ok(()) => Fate::Good,
            Err(error) => Fate::Refused(error),
        },
        fate => fate,
    }
}

/// What becomes of an image that nothing stands in the way of.
fn replayed_fate(image: &PendingImage, forget: &[PathBuf]) -> Fate {
    if image.path.as_os_str().is_empty() {
        Fate::Nameless
    } else if forget.contains(&image.path) {
        Fate::Forgotten
    } else {
        Fate::Good
    }
}

fn json_of(image: &PendingImage, fate: &Fate) -> Value {
    let (state, error) = match fate {
        Fate::Good => ("good", None),
        Fate::Forgotten => ("forgotten", None),
        Fate::Nameless => ("nameless", None),
        Fate::Refused(error) => ("refused", Some(with_causes(error))),
    };
    json!({
        "path": name(&image.path),
        "number": image.number.0,
        "marked": image.marked,
        "writes": image.writes,
        "bytes": image.bytes,
        "state": state,
        "error": error,
    })
}

fn named(image: &PendingImage) -> String {
    if image.path.as_os_str().is_empty() {
        return format!("image number {}", image.number);
    }
    name(&image.path)
}

fn name(path: &Path) -> String {
    format!("{}", path.display())
}

/// An error with its causes, in one line.
fn with_causes(error: &JournalError) -> String {
    let mut text = format!("{error}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// Says why not, and how that ends the command.
fn refused(error: JournalError) -> ExitCode {
    let code = code_of(&error);
    complain(&error.into());
    ExitCode::from(code)
}

/// No for what was looked at and is not as it should be.
fn code_of(error: &JournalError) -> u8 {
    match error {
        JournalError::Damaged { .. }
        | JournalError::Nameless { .. }
        | JournalError::Image { .. }
        | JournalError::ImageReplaced { .. }
        | JournalError::ImageShort { .. }
        | JournalError::JournalReplaced { .. }
        | JournalError::MarkOfAnother { .. } => NO,
        _ => COULD_NOT_TELL,
    }
}
