//! What became of the items of a checklist.

use std::panic::{AssertUnwindSafe, catch_unwind};

use aoe_server::link::LinkKind;

/// How a check ended: well, or why not.
pub(crate) type Check = Result<(), String>;

/// Returns the reason when a condition does not hold.
macro_rules! ensure {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            return Err(format!($($reason)+));
        }
    };
}
pub(crate) use ensure;

/// One item of the checklist.
pub(crate) struct Item<B> {
    /// Its number there.
    pub(crate) number: u8,
    /// What it claims.
    pub(crate) title: &'static str,
    /// Tries it.
    pub(crate) check: fn(&mut B) -> Check,
}

/// An item.
pub(crate) const fn item<B>(
    number: u8,
    title: &'static str,
    check: fn(&mut B) -> Check,
) -> Item<B> {
    Item { number, title, check }
}

/// The results for one kind of link.
pub(crate) struct Report {
    kind: LinkKind,
    failed: Vec<String>,
}

impl Report {
    pub(crate) fn new(kind: LinkKind) -> Self {
        Self { kind, failed: Vec::new() }
    }

    /// Tries one item, and prints its result.
    pub(crate) fn run<B>(&mut self, item: &Item<B>, bench: &mut B) {
        let Item { number, title, check } = item;
        let kind = self.kind;
        let result = catch_unwind(AssertUnwindSafe(|| check(bench)))
            .unwrap_or_else(|_| Err("it panicked, see above".into()));
        match result {
            Ok(()) => println!("#{number:02} {kind} {title} ... ok"),
            Err(reason) => {
                println!("#{number:02} {kind} {title} ... FAILED: {reason}");
                self.failed.push(format!("#{number:02} {title}: {reason}"));
            }
        }
    }

    /// Notes what failed besides the items.
    pub(crate) fn fail(&mut self, reason: &str) {
        println!("{reason}");
        self.failed.push(reason.into());
    }

    /// Fails the test if anything failed; `log` is what the server said meanwhile.
    pub(crate) fn conclude(self, log: &str) {
        let Self { kind, failed } = self;
        assert!(failed.is_empty(), "over {kind}:\n{}\n\n{log}", failed.join("\n"));
    }
}
